"""The metric of outbound calls: duration and status. Must not know a call's URL, only whether it is a caller's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sytq.observability.metrics import Histogram

_SECONDS = Histogram(
    "sytq_outbound_seconds",
    "HTTP calls out, by whose URL it was (guarded: a caller's, trusted: the configuration's) and the answer.",
    ("url", "answer"),
)


@contextmanager
def measuring(trusted: bool) -> Iterator[Callable[[int], None]]:
    """Time one call, until the end of the block, which passes on the status once known."""
    import aiohttp

    since, said = time.monotonic(), "refused"

    def answered(status: int) -> None:
        nonlocal said
        said = f"{status // 100}xx"

    try:
        yield answered
    except TimeoutError:
        said = "timeout"
        raise
    except aiohttp.ClientError:
        said = "network"
        raise
    except asyncio.CancelledError:
        said = "cancelled"
        raise
    finally:
        _SECONDS.observe(time.monotonic() - since, "trusted" if trusted else "guarded", said)

"""The metric of outbound calls: duration and status. Must not know a call's URL, only whether it is a caller's."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, Protocol, TypeVar

import aiohttp

from sytq.observability.metrics import Histogram


class _Answer(Protocol):
    @property
    def status_code(self) -> int: ...


P = ParamSpec("P")
A = TypeVar("A", bound=_Answer)

_SECONDS = Histogram(
    "sytq_outbound_seconds",
    "HTTP calls out, by whose URL it was (guarded: a caller's, trusted: the configuration's) and the answer.",
    ("url", "answer"),
)


@contextmanager
def measuring(trusted: bool) -> Iterator[Callable[[int], None]]:
    """Time one call, until the end of the block, which passes on the status once known."""
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


def measured(call: Callable[P, Awaitable[A]]) -> Callable[P, Coroutine[Any, Any, A]]:
    """Time a method of the client that makes one call."""

    @functools.wraps(call)
    async def timed(*args: P.args, **options: P.kwargs) -> A:
        with measuring(bool(options.get("trusted"))) as answered:
            answer = await call(*args, **options)
            answered(answer.status_code)
            return answer

    return timed

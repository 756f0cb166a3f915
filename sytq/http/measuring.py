"""How long calls out take, and what is answered.

Owns that metric. Must not know a call's URL beyond whose it is.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, Protocol, TypeVar

import aiohttp

from sytq.meter import Histogram


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


def measured(call: Callable[P, Awaitable[A]]) -> Callable[P, Coroutine[Any, Any, A]]:
    """Time a method of the client that makes one call."""

    @functools.wraps(call)
    async def timed(*args: P.args, **options: P.kwargs) -> A:
        since, said = time.monotonic(), "refused"
        try:
            answer = await call(*args, **options)
            said = f"{answer.status_code // 100}xx"
            return answer
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
            _SECONDS.observe(time.monotonic() - since, "trusted" if options.get("trusted") else "guarded", said)

    return timed

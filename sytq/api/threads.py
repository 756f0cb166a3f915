"""Blocking calls on bounded threads, one pool per store: a hanging store does not block calls to the other."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from sytq.errors import Overloaded

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """At most `size` calls at once and `max_waiting` behind them; threads start with the first call.

    With `timeout` a caller of `run` waits at most so many seconds; a call that has begun goes on.
    """

    def __init__(self, name: str, *, size: int, max_waiting: int = 500, timeout: float | None = None) -> None:
        self._name = name
        self._timeout = timeout
        self._pool = ThreadPoolExecutor(size, thread_name_prefix=f"sytq-api-{name}")
        self._free = size + max_waiting

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function` on a thread and return its result. Raises Overloaded when too many calls wait, or this
        one has waited for too long.
        """
        try:
            async with asyncio.timeout(self._timeout) as limit:
                return await self.finish(function, *args, **kwargs)
        except TimeoutError:
            if not limit.expired():
                raise  # the call's own
            raise Overloaded(f"{self._name} has not answered within {self._timeout:g} s") from None

    async def finish(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Like `run`, for as long as it takes: for a write, as its caller must learn whether it was done."""
        if self._free <= 0:
            raise Overloaded(f"too many requests wait for {self._name}; try again")
        context = contextvars.copy_context()
        self._free -= 1
        # Released when the call ends, not when its caller is gone.
        call = self._pool.submit(lambda: context.run(function, *args, **kwargs))
        loop = asyncio.get_running_loop()
        call.add_done_callback(lambda _: loop.is_closed() or loop.call_soon_threadsafe(self._release))
        return await asyncio.wrap_future(call)

    def _release(self) -> None:
        self._free += 1

    def close(self) -> None:
        """Take no more calls; running calls end by themselves."""
        self._pool.shutdown(wait=False, cancel_futures=True)

"""Blocking calls away from the event loop, in a bounded number.

Owns one small pool per store, so that a store that hangs holds up no other. Must not know what is called.
"""

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
    """At most `size` calls at once and `waiting` behind them; threads start with the first call."""

    def __init__(self, name: str, *, size: int, waiting: int = 500) -> None:
        self._name = name
        self._pool = ThreadPoolExecutor(size, thread_name_prefix=f"sytq-api-{name}")
        self._room = size + waiting

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function` on a thread and return its result. Raises Busy when too many calls wait."""
        if self._room <= 0:
            raise Overloaded(f"too many requests wait for {self._name}; try again")
        context = contextvars.copy_context()
        self._room -= 1
        # Room is free again when the call has ended, not when its caller has gone.
        call = self._pool.submit(lambda: context.run(function, *args, **kwargs))
        loop = asyncio.get_running_loop()
        call.add_done_callback(lambda _: loop.is_closed() or loop.call_soon_threadsafe(self._leave))
        return await asyncio.wrap_future(call)

    def _leave(self) -> None:
        self._room += 1

    def close(self) -> None:
        """Take no more calls; those under way end by themselves."""
        self._pool.shutdown(wait=False, cancel_futures=True)

"""Natural batching: items that arrive while a batch is processed form the next batch; an idle process never waits."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

from sytq.errors import Overloaded

T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """Processes items in batches, `parallel` of them at a time. Belongs to one event loop.

    `process` returns a result for each item of a batch, in order. An exception among the results goes to its item
    alone, an exception that `process` raises to the whole batch. A batch is full once the sizes of its items (1 each
    by default) reach `max_size`. Items are taken in order of their `key`, else of arrival.
    """

    def __init__(
        self,
        process: Callable[[list[T]], Awaitable[Sequence[R | Exception]]],
        *,
        name: str,
        max_waiting: float = math.inf,
        max_size: float = math.inf,
        size: Callable[[T], float] = lambda item: 1,
        key: Callable[[T], Any] | None = None,
        parallel: int = 1,
    ) -> None:
        self._process = process
        self._name = name
        self._max_waiting = max_waiting
        self._max_size = max_size
        self._size = size
        self._key = key
        self._waiting: list[tuple[T, asyncio.Future[R] | None]] = []
        self._parallel = parallel
        self._running: set[asyncio.Task[None]] = set()

    def add(self, item: T) -> asyncio.Future[R]:
        """Return the future result of an item; cancelling it drops the item. Raises Overloaded when too many wait."""
        result: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._take(item, result)
        return result

    def put(self, item: T) -> None:
        """Have an item processed whose result nobody waits for; `process` reports its own errors. Raises Overloaded."""
        self._take(item, None)

    def fail_waiting(self, error: Exception) -> None:
        """Fail the items that wait for a later batch."""
        waiting, self._waiting = self._waiting, []
        for _, result in waiting:
            _answer(result, error)

    async def drain(self) -> None:
        """Wait until no item is left."""
        while self._running:
            await asyncio.wait(self._running)

    def _take(self, item: T, result: asyncio.Future[R] | None) -> None:
        if len(self._waiting) >= self._max_waiting:
            raise Overloaded(f"too many {self._name} wait; try again later")
        self._waiting.append((item, result))
        if len(self._running) < self._parallel:
            self._running.add(asyncio.get_running_loop().create_task(self._run()))

    async def _run(self) -> None:
        try:
            while batch := self._next():
                results: Sequence[R | Exception]
                try:
                    results = await self._process([item for item, _ in batch])
                except Exception as error:
                    results = [error] * len(batch)
                for (_, result), outcome in zip(batch, results, strict=True):
                    _answer(result, outcome)
        finally:
            self._running -= {asyncio.current_task()}

    def _next(self) -> list[tuple[T, asyncio.Future[R] | None]]:
        waiting = [one for one in self._waiting if one[1] is None or not one[1].cancelled()]
        if self._key is not None:
            key = self._key
            waiting.sort(key=lambda one: key(one[0]))
        size, count = 0.0, 0
        while count < len(waiting) and size < self._max_size:
            size += self._size(waiting[count][0])
            count += 1
        self._waiting = waiting[count:]
        return waiting[:count]


def _answer(result: asyncio.Future[R] | None, outcome: R | Exception) -> None:
    if result is None or result.done():
        return
    if isinstance(outcome, Exception):
        result.set_exception(outcome)
        result.exception()  # the caller may be gone: not worth asyncio's warning
    else:
        result.set_result(outcome)

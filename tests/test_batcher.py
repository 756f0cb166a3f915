"""Natural batching: items that arrive during a batch are the next batch."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sytq.batcher import Batcher
from sytq.errors import Overloaded


class Processed:
    """Records the batches in order; each waits for `go` and doubles its numbers."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = asyncio.Event()

    async def __call__(self, numbers: list[int]) -> list[int | Exception]:
        self.batches.append(numbers)
        await self.go.wait()
        return [number * 2 if number >= 0 else ValueError(number) for number in numbers]


def running(test: Callable[[Processed], Awaitable[None]]) -> None:
    async def run() -> None:
        await test(Processed())

    asyncio.run(run())


def test_so_many_batches_as_asked_for_are_processed_at_once() -> None:
    async def test(processed: Processed) -> None:
        batcher = Batcher(processed, name="numbers", parallel=2)
        results = []
        for number in range(1, 6):
            results.append(batcher.add(number))
            await asyncio.sleep(0)
        assert processed.batches == [[1], [2]]
        processed.go.set()
        await batcher.drain()
        assert processed.batches == [[1], [2], [3, 4, 5]]
        assert [await result for result in results] == [2, 4, 6, 8, 10]

    running(test)


def test_items_added_during_a_batch_share_the_next_batch() -> None:
    async def test(processed: Processed) -> None:
        batcher = Batcher(processed, name="numbers", max_size=3)
        first = batcher.add(1)
        await asyncio.sleep(0)
        others = [batcher.add(number) for number in range(2, 7)]
        processed.go.set()
        assert await asyncio.gather(first, *others) == [2, 4, 6, 8, 10, 12]
        assert processed.batches == [[1], [2, 3, 4], [5, 6]]

    running(test)


def test_batch_stays_within_max_size_but_holds_at_least_one_item() -> None:
    async def test(processed: Processed) -> None:
        batcher = Batcher(processed, name="numbers", max_size=10, size=lambda number: number)
        processed.go.set()
        await asyncio.gather(*map(batcher.add, (50, 4, 5, 6, 7)))
        assert processed.batches == [[50], [4, 5, 6], [7]]

    running(test)


def test_items_are_processed_in_the_order_of_their_key() -> None:
    async def test(processed: Processed) -> None:
        batcher = Batcher(processed, name="numbers", max_size=2, key=lambda number: -number)
        processed.go.set()
        assert await asyncio.gather(*map(batcher.add, (1, 3, 2))) == [2, 6, 4]
        assert processed.batches == [[3, 2], [1]]

    running(test)


def test_items_cancelled_while_waiting_are_dropped_unless_shielded() -> None:
    async def test(processed: Processed) -> None:
        batcher = Batcher(processed, name="numbers", max_size=1)

        async def wait_for(number: int, *, shielded: bool) -> int:
            result = batcher.add(number)
            return await (asyncio.shield(result) if shielded else result)

        waiters = [asyncio.create_task(wait_for(n, shielded=n == 3)) for n in (1, 2, 3)]
        while not processed.batches:
            await asyncio.sleep(0)
        for waiter in waiters:
            waiter.cancel()
        processed.go.set()
        await asyncio.wait(waiters)
        await batcher.drain()
        assert processed.batches == [[1], [3]]

    running(test)


def test_item_error_fails_one_item_and_batch_error_fails_all() -> None:
    async def test(processed: Processed) -> None:
        batcher = Batcher(processed, name="numbers")
        processed.go.set()
        good, bad = await asyncio.gather(batcher.add(1), batcher.add(-1), return_exceptions=True)
        assert good == 2
        assert isinstance(bad, ValueError)

        async def fail(numbers: list[int]) -> list[int]:
            raise OSError(len(numbers))

        failed: list[Any] = await asyncio.gather(
            *map(Batcher(fail, name="numbers").add, (1, 2)), return_exceptions=True
        )
        assert [type(error) for error in failed] == [OSError, OSError]

    running(test)


def test_items_that_nobody_awaits_share_batches_with_those_awaited() -> None:
    async def test(processed: Processed) -> None:
        batcher = Batcher(processed, name="numbers", max_waiting=2)
        batcher.put(1)
        await asyncio.sleep(0)
        batcher.put(-2)
        result = batcher.add(3)
        with pytest.raises(Overloaded, match="too many numbers wait"):
            batcher.put(4)
        processed.go.set()
        assert await result == 6
        assert processed.batches == [[1], [-2, 3]]
        batcher.put(5)
        batcher.fail_waiting(ConnectionError())
        await batcher.drain()
        assert processed.batches == [[1], [-2, 3]]

    running(test)


def test_full_batcher_refuses_items_and_waiting_items_can_be_failed() -> None:
    async def test(processed: Processed) -> None:
        batcher = Batcher(processed, name="numbers", max_waiting=2)
        first = batcher.add(1)
        await asyncio.sleep(0)
        waiting = [batcher.add(2), batcher.add(3)]
        with pytest.raises(Overloaded, match="too many numbers wait"):
            batcher.add(4)
        batcher.fail_waiting(ConnectionError())
        for result in waiting:
            with pytest.raises(ConnectionError):
                await result
        processed.go.set()
        assert await first == 2
        assert processed.batches == [[1]]

    running(test)

"""Writes of several attempts in one transaction: those that come while others are written share the next one.

A write that is refused has every one of its batch done alone, so that it concerns no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from typing import NamedTuple

import peewee

from sytq.batcher import Batcher
from sytq.executor.portal import without_stop_iteration
from sytq.ledger.database import transact

#: Bounds how long the rows of a batch are locked, and what waits behind one of them that another program has locked.
_TOGETHER = 32


class _Write(NamedTuple):
    database: peewee.Database
    task_id: str
    write: Callable[[], None]


class GroupCommit:
    """Writes on so many `threads` at once, for the tasks of one event loop."""

    def __init__(self, threads: Executor, parallel: int) -> None:
        self._threads = threads
        # In the order of the tasks' ids, as every writer of many rows: two that meet wait for each other then.
        self._batcher: Batcher[_Write, BaseException | None] = Batcher(
            self._process, name="writes", max_size=_TOGETHER, parallel=parallel, key=lambda write: write.task_id
        )

    async def run(self, database: peewee.Database, task_id: str, write: Callable[[], None]) -> None:
        """Call `write`, a plain function that is one transaction where it begins one, and raise what it raises.

        It may run several times and concern the database alone.
        """
        error = await self._batcher.add(_Write(database, task_id, write))
        if error is not None:  # no Exception: a batch raises those itself
            raise error

    async def _process(self, writes: list[_Write]) -> Sequence[BaseException | None]:
        return await asyncio.get_running_loop().run_in_executor(self._threads, _written, writes)


def _written(writes: Sequence[_Write]) -> list[BaseException | None]:
    if len(writes) > 1:
        with suppress(BaseException):  # of one of them, which says so below
            transact(writes[0].database, lambda: [one.write() for one in writes])
            return [None] * len(writes)
    return [_alone(one) for one in writes]


def _alone(write: _Write) -> BaseException | None:
    try:
        without_stop_iteration(write.write)
    except BaseException as error:  # a crash in a test is its own task's, too
        return error
    return None

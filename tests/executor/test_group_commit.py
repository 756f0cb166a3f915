"""Attempts that begin or end their steps together share a transaction, and none pays for another's refusal."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import peewee
import pytest

from sytq.errors import Fail, Lost
from sytq.executor.group_commit import GroupCommit
from sytq.runtime import Runtime
from tests.plugins.running import runtime_of


class Crash(BaseException):
    """As of the suite for task types."""


class Desk:
    """Ten tasks, each with a step that has begun."""

    def __init__(self, runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ledger, self._database = runtime.ledger, runtime.database
        new = [runtime.submitter.prepare("default", {}) for _ in range(10)]
        self.ledger.accept(new)
        self.ids = [task.id for task in new]
        for task_id in self.ids:
            self.ledger.begin_step(task_id, 1, "paid")
        self.begun = 0
        begin = type(self._database).begin

        def counted(database: peewee.Database, *args: Any) -> None:
            self.begun += 1
            begin(database, *args)

        monkeypatch.setattr(type(self._database), "begin", counted)

    def finish(self, task_id: str) -> None:
        self.ledger.finish_step(task_id, 1, "paid", '"answer"')

    def states(self) -> list[str]:
        return [step.state for task_id in self.ids for step in self.ledger.steps(task_id)]

    def together(self, writes: Sequence[Callable[[], None]]) -> list[Any]:
        """What becomes of writes that all come while another one is written."""

        async def run() -> list[Any]:
            busy = threading.Event()
            with ThreadPoolExecutor(1) as thread:
                group = GroupCommit(thread, 1)
                first = asyncio.ensure_future(group.run(self._database, "", lambda: bool(busy.wait(60)) or None))
                await asyncio.sleep(0.01)
                numbered = zip(self.ids, writes, strict=True)
                rest = [asyncio.ensure_future(group.run(self._database, *write)) for write in numbered]
                await asyncio.sleep(0.01)
                busy.set()
                await first
                return await asyncio.gather(*rest, return_exceptions=True)

        return asyncio.run(run())


@pytest.fixture
def desk(database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    with runtime_of(database_url, redis_url) as runtime:
        yield Desk(runtime, monkeypatch)


def test_steps_that_end_together_are_one_transaction(desk: Desk) -> None:
    assert desk.together([lambda id=id: desk.finish(id) for id in desk.ids]) == [None] * 10  # type: ignore[misc]
    assert (desk.begun, desk.states()) == (1, ["done"] * 10)


def _unknown_table(desk: Desk) -> None:
    desk.ledger.fenced(desk.ids[4], 1, lambda: desk.ledger.database.execute_sql("UPDATE no_such_table SET x = 1"))


def _lost(desk: Desk) -> None:
    desk.ledger.finish_step(desk.ids[4], 0, "paid", '"late"')


def _fails(desk: Desk) -> None:
    desk.ledger.finish_step(desk.ids[4], 1, "paid", '"answer"', lambda: _raise(Fail("on purpose")))


def _dies(desk: Desk) -> None:
    desk.ledger.fenced(desk.ids[4], 1, lambda: _raise(Crash()))


def _stops(desk: Desk) -> None:
    desk.ledger.fenced(desk.ids[4], 1, lambda: _raise(StopIteration()))


def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("refused", "error"),
    [(_unknown_table, peewee.PeeweeException), (_lost, Lost), (_fails, Fail), (_dies, Crash), (_stops, RuntimeError)],
)
def test_p4_refused_write_concerns_no_other(
    desk: Desk, refused: Callable[[Desk], None], error: type[BaseException]
) -> None:
    desk.ledger.fenced(desk.ids[4], 1, lambda: None)
    writes: list[Callable[[], None]] = [lambda id=id: desk.finish(id) for id in desk.ids]  # type: ignore[misc]
    writes[4] = lambda: refused(desk)
    ends = desk.together(writes)
    assert isinstance(ends.pop(4), error)
    assert (ends, desk.states()) == ([None] * 9, [*["done"] * 4, "started", *["done"] * 5])

"""One task as a caller may see and change it: the decisions that /v2 and the dashboard share."""

from __future__ import annotations

import contextlib
import datetime as dt
from functools import partial

import falcon.asgi
import peewee

from sytq.api.parts import Parts
from sytq.broker.state_index import Live
from sytq.errors import Overloaded, RedisUnavailable
from sytq.ledger.database import read
from sytq.ledger.models import Task
from sytq.service.live_state import current
from sytq.service.task_view import TaskDetail, task_detail
from sytq.service.tree import Tree, tree
from sytq.states import CANCELLED, DEAD, RETRYING, RUNNING, TERMINAL

#: Attempts and steps, and characters of payload and result, from which on building takes longer than others may wait.
_MANY, _MUCH = 100, 100_000


async def detail(parts: Parts, row: Task, live: Live | None, *, attempts: int | None = None) -> TaskDetail:
    """All details of a task, with its latest `attempts` alone if a number is given."""
    asked = limiter = None
    inspection = parts.runtime.inspection
    with contextlib.suppress(RedisUnavailable, Overloaded):
        if live is not None and live.state == RUNNING:
            asked = (await parts.redis.run(inspection.cancels, [row.id])).get(row.id)
        elif live is not None and live.state == RETRYING:
            limiter = await parts.redis.run(inspection.waits_for, row.id)
    if attempts is None:
        history = await parts.data_loader.history(row.id)
    else:
        history = await parts.sql.run(parts.runtime.ledger.latest_history, row.id, attempts)
    make = partial(task_detail, row, parts.runtime.registry, live, asked, history, limiter=limiter)
    texts = len(row.payload) + len(row.result or "")
    is_long = len(history.attempts) + len(history.steps) > _MANY or texts > _MUCH
    return await parts.sql.run(make) if is_long else make()


class TaskControl:
    """Every method raises HTTPNotFound for a task that does not exist for the caller, and the changes HTTPConflict for
    a task whose state does not allow them."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._operator = parts.runtime.operator

    async def row(self, req: falcon.asgi.Request, task_id: str) -> Task:
        return (await self.known(req, task_id))[0]

    async def known(self, req: falcon.asgi.Request, task_id: str) -> tuple[Task, Live | None]:
        """The row and the newer state from Redis."""
        row, live = await self._parts.data_loader.get(task_id)
        if row is None or not req.context.caller.can_see(row.owner):
            raise falcon.HTTPNotFound(description=f"there is no task {task_id[:64]!r}")
        return row, live

    async def tree(self, req: falcon.asgi.Request, row: Task, limit: int) -> Tree:
        """The tasks below a task that the caller may see."""
        owner = req.context.caller.visible_owner
        visible: peewee.Expression | None = None if owner is None else Task.owner == owner
        database = self._parts.runtime.database
        return await self._parts.sql.run(read, database, lambda: tree(row, limit, visible))

    async def cancel(self, req: falcon.asgi.Request, task_id: str, why: str) -> str:
        """Return "cancelled", or "asked" of a running task, which is interrupted."""
        row = await self.row(req, task_id)
        outcome = await self._parts.sql.finish(self._operator.cancel, row.id, by=signed(req, why))
        if outcome == "ended":
            raise _conflict(await self._state(req, task_id), "only an unfinished task can be cancelled")
        return outcome

    async def retry(self, req: falcon.asgi.Request, task_id: str) -> None:
        """Run a dead or cancelled task again."""
        row = await self.row(req, task_id)
        if not await self._parts.sql.finish(self._operator.replay, [row.id]):
            row = await self.row(req, task_id)
            if row.state in (DEAD, CANCELLED):
                raise falcon.HTTPConflict(description="another unfinished task has its unique key")
            raise _conflict(row.state, "only a dead or cancelled task can be retried")

    async def reschedule(self, req: falcon.asgi.Request, task_id: str, moment: dt.datetime) -> None:
        """Move a waiting task to this time (aware)."""
        row = await self.row(req, task_id)
        if not await self._parts.sql.finish(self._operator.reschedule, row.id, moment):
            raise _conflict(await self._state(req, task_id), "only a scheduled or retrying task can be rescheduled")

    async def delete(self, req: falcon.asgi.Request, task_id: str) -> None:
        """Delete an ended task, with everything kept of it."""
        row = await self.row(req, task_id)
        if not await self._parts.sql.finish(self._operator.delete, [row.id]):
            if row.state in TERMINAL:
                said = "an unfinished parent or dependent may still read the outcome of this task"
                raise falcon.HTTPConflict(description=said)
            raise _conflict(row.state, f"only a finished task can be deleted ({', '.join(TERMINAL)})")

    async def _state(self, req: falcon.asgi.Request, task_id: str) -> str:
        """The state as Redis knows it, which the row may not say yet."""
        return current(*await self.known(req, task_id)).state


def signed(req: falcon.asgi.Request, why: str) -> str:
    """The caller and its reason, as one line that is shown with the task."""
    owner = req.context.caller.owner or "the API"
    words = " ".join(why.split())
    return f"{owner}: {words}" if words else owner


def _conflict(state: str, why: str) -> falcon.HTTPConflict:
    return falcon.HTTPConflict(description=f"the task is {state}: {why}")

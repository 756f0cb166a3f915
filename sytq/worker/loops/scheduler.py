"""The scheduler: submits each tick of each schedule once, however many workers run.

A task's id follows from the schedule's name and the tick, so submitting it twice inserts it once.
"""

from __future__ import annotations

import datetime as dt

import structlog

from sytq.broker.connection import Redis
from sytq.broker.keys import Keys
from sytq.errors import InvalidInput
from sytq.ledger.models import ScheduleRow
from sytq.ledger.schedules import AHEAD, Schedules
from sytq.observability import sentry
from sytq.observability.metrics import Counter
from sytq.schedule import tick_id
from sytq.service.submission import Submitter
from sytq.tasktypes.registry import Registry, Scheduled
from sytq.worker.loops.loop import LeasedLoop

log = structlog.get_logger(__name__)

_TICKS = Counter("sytq_schedule_ticks_total", "Ticks of schedules that were submitted.", ("schedule",))
_INTERVAL = 0.5


class Scheduler(LeasedLoop):
    def __init__(
        self, redis: Redis, keys: Keys, holder: str, registry: Registry, submitter: Submitter, schedules: Schedules
    ) -> None:
        super().__init__("schedule", redis, keys, holder)
        self._registry = registry
        self._submitter = submitter
        self._schedules = schedules

    def work(self) -> float:
        now = dt.datetime.fromtimestamp(self.redis.time(), dt.UTC)
        rows = self._schedules.rows()
        for name, scheduled in self._registry.schedules.items():
            row = rows.get(name)
            if row is None:
                self._schedules.begin(name, now, str(scheduled.schedule))
            elif row.paused_at is None and not self._begun_anew(name, scheduled, row, now):
                tick = scheduled.schedule.due(row.last_tick.replace(tzinfo=dt.UTC), now)
                if tick is not None:
                    self._submit(name, scheduled.type, scheduled.schedule.payload, tick)
                    self._schedules.ticked(name, tick, str(scheduled.schedule))
        return _INTERVAL

    def _begun_anew(self, name: str, scheduled: Scheduled, row: ScheduleRow, now: dt.datetime) -> bool:
        """Let a schedule go on from now where its last tick says nothing about its next one."""
        expression, last = str(scheduled.schedule), row.last_tick.replace(tzinfo=dt.UTC)
        if row.expression is None:  # a row of an older version, or of a pause before the first tick
            self._schedules.note_expression(name, expression)
        if row.expression not in (None, expression):
            # A time that has passed today would otherwise run at once, under an expression that nobody had then.
            reason = f"was {row.expression}, is {expression}"
            log.info("schedule changed, it ticks from now on", schedule=name, reason=reason)
        elif last - now > AHEAD:
            reason = f"its last tick is {last - now} in the future: Redis' clock was ahead; what ran does not run again"
            log.warning("schedule repaired, it ticks from now on", schedule=name, tick=last.isoformat(), reason=reason)
        else:
            return False
        self._schedules.begin_anew(name, now, expression)
        return True

    def _submit(self, name: str, type_name: str, payload: object, tick: dt.datetime) -> None:
        try:
            task = self._submitter.prepare(type_name, payload, id=tick_id(name, tick), request_id=origin(name, tick))
        except InvalidInput as error:
            log.error("schedule cannot be submitted", schedule=name, error=str(error))
            return
        self._submitter.submit([task])
        _TICKS.add(1, name)
        longest = self._registry.get(type_name).max_duration
        sentry.check_in(name, self._registry.schedules[name].schedule, task.id, "in_progress", longest=longest)
        log.info("scheduled task submitted", schedule=name, task_id=task.id, tick=tick.isoformat())


def origin(name: str, tick: dt.datetime) -> str:
    """Return the request id of a tick's task."""
    return f"schedule:{name}:{tick.astimezone(dt.UTC).isoformat()}"


def schedule_of(task_id: str, request_id: str | None) -> str | None:
    """Return the schedule that submitted a task. Its task id must match too: anybody may send a request id."""
    kind, _, rest = (request_id or "").partition(":")
    name, _, tick = rest.partition(":")
    if kind != "schedule":
        return None
    try:
        return name if tick_id(name, dt.datetime.fromisoformat(tick)) == task_id else None
    except ValueError:
        return None

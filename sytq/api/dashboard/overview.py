"""The first page: whether all is well, what waits, runs and fails, and charts of what came and ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple, TypeVar

import falcon.asgi

from sytq.api.caller import Caller
from sytq.api.dashboard import plugins
from sytq.api.dashboard.page import Page
from sytq.api.dashboard.rendering import Rendering
from sytq.api.dashboard.stores import gathered
from sytq.api.parameters import parameter
from sytq.api.parts import Parts
from sytq.broker.inspection import Unwritten, WorkerInfo
from sytq.broker.limiter_states import LimiterState
from sytq.broker.rights import check_rights
from sytq.errors import DatabaseUnavailable, InvalidInput, Overloaded, RedisRefused, RedisUnavailable
from sytq.ledger.figures import RANGES, RATE_MINUTES, Counts, Figures
from sytq.ledger.schedules import Schedules
from sytq.service import activity, condition, failures, status
from sytq.service.finding import OK, Finding
from sytq.service.hold import held
from sytq.service.status import MismatchView, QueueView

T = TypeVar("T")

#: Seconds that a store has for its answers, as for readiness; a page that waits longer tells an operator less.
_TIMEOUT = 4.0
#: A finding's check -> the page where it is mended.
_PAGES = {
    **{"workers": "/workers", "queues": "/queues", "limiters": "/limiters", "types": "/types"},
    **{"dead": "/failures?period=hour", "queue": "/workers", "version": "/workers", "clock": "/workers"},
}
_LIMITERS = 20


class _Redis(NamedTuple):
    """What Redis says, the same for all callers."""

    state: str
    queues: Sequence[QueueView] = ()
    workers: Sequence[WorkerInfo] = ()
    limiters: Sequence[LimiterState] = ()
    unwritten: Unwritten | None = None


class Overview(Page):
    """GET /dashboard"""

    template = "overview.html"
    parameters: ClassVar = {"GET": ("range", "type")}

    def __init__(self, parts: Parts, rendering: Rendering) -> None:
        super().__init__(parts, rendering)
        self._figures = Figures(parts.runtime.database)
        self._schedules = Schedules(parts.runtime.database)
        self._compare = partial(status.mismatches, parts.runtime.comparison())
        self._looks: dict[Callable[[], Any], asyncio.Task[Any]] = {}

    def audience(self, caller: Caller) -> Hashable:
        return caller.rights, caller.name  # which plugins may show

    async def read(self, req: falcon.asgi.Request, **path: str) -> dict[str, Any]:
        runtime, caller = self._parts.runtime, req.context.caller
        name, type_name = parameter(req, "range") or "hour", parameter(req, "type")
        if name not in RANGES:
            raise InvalidInput("range", f"'{name[:64]}' is not a range; valid: {', '.join(RANGES)}")
        found = await gathered(
            redis=self._redis(),
            mismatches=self._mismatches(),
            database=self._database(),
            ledger=_soon(self._parts.sql.run(self._ledger, name, caller.visible_owner, type_name)),
            plugins=plugins.overview(self._parts, caller),
        )
        redis: _Redis = found["redis"] or _Redis("was not asked: too many requests wait for it")
        ledger = found["ledger"] or {"lately": {}, "day": {}, "chart": None, "hold": "", "dead": 0, "schedules": []}
        lately, day = (activity.by_level(ledger[key], runtime.registry) for key in ("lately", "day"))
        problems = condition.problems(self._findings(redis, found["mismatches"], found["database"], ledger, caller))
        return {
            "problems": [(one, _PAGES.get(one.check) or ("/system" if caller.is_admin else None)) for one in problems],
            "missing": found["missing"],
            "redis": redis,
            "rows": list(activity.levels(redis.queues, lately, day)),
            "now": sum(lately.values(), Counts()),
            "today": sum(day.values(), Counts()),
            "minutes": RATE_MINUTES,
            "alive": sum(one.age <= runtime.settings.worker.liveness for one in redis.workers),
            # Those that hold something up: paused or open ones, then full ones by their wait queue.
            "limiters": sorted(
                (one for one in redis.limiters if one.state != "closed" or one.waiting), key=lambda one: one.urgency
            )[:_LIMITERS],
            "schedules": ledger["schedules"],
            "plugins": found["plugins"] or [],
            "charts": _charts(ledger["chart"]) if ledger["chart"] else None,
            "range": name,
            "ranges": {one: seconds for one, (_, seconds) in RANGES.items()},
            "type": type_name,
            "types": sorted(declared.name for declared in runtime.registry),
        }

    def _findings(
        self,
        redis: _Redis,
        mismatches: Sequence[MismatchView],
        database: str,
        ledger: Mapping[str, Any],
        caller: Caller,
    ) -> Iterator[Finding]:
        found = [condition.redis(redis.state), condition.database(database), *condition.hold(ledger["hold"])]
        if redis.unwritten is not None:
            found.append(condition.workers(redis.workers, self._parts.runtime.settings.worker.liveness))
            found += condition.recorder(redis.unwritten)
        found += condition.processes(mismatches)
        found += condition.queues(redis.queues)
        found += condition.limiters(redis.limiters)
        found += condition.dead(ledger["dead"])
        return (one for one in found if caller.is_admin or one.check not in condition.FOR_ADMINS)

    async def _database(self) -> str:
        try:
            return await _soon(self._parts.sql.run(self._parts.ledger_check.state))
        except (DatabaseUnavailable, Overloaded) as error:
            return str(error)

    async def _redis(self) -> _Redis:
        try:
            return await self._shared(self._look_at_redis)  # type: ignore[no-any-return]
        except TimeoutError:
            return _Redis(f"has not answered within {_TIMEOUT:g} s")

    async def _mismatches(self) -> Sequence[MismatchView]:
        """None without both stores: what is said of these tells enough."""
        try:
            return await self._shared(self._compare)  # type: ignore[no-any-return]
        except (TimeoutError, Overloaded, RedisUnavailable, DatabaseUnavailable):
            return ()

    async def _shared(self, look: Callable[[], Any]) -> Any:
        """One look for all who ask meanwhile: a store that hangs keeps one thread. Raises TimeoutError."""
        running = self._looks.get(look)
        if running is None or running.done():
            running = self._looks[look] = asyncio.create_task(self._parts.redis.run(look))
            running.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # nobody may wait for it
        return await asyncio.wait_for(asyncio.shield(running), _TIMEOUT)

    def _look_at_redis(self) -> _Redis:
        runtime = self._parts.runtime
        asked = runtime.inspection
        try:
            check_rights(runtime.redis, runtime.keys)
            return _Redis(
                OK,
                status.queues(asked, runtime.registry, runtime.settings.queue_limits),
                asked.workers(),
                asked.limiters(),
                asked.unwritten(),
            )
        except RedisRefused as error:
            return _Redis(str(error))
        except RedisUnavailable:
            return _Redis("does not answer")

    def _ledger(self, name: str, owner: str | None, type_name: str | None) -> dict[str, Any]:
        """What the ledger says. Raises DatabaseUnavailable."""
        database = self._parts.runtime.database
        return {
            "lately": self._figures.lately(owner=owner),
            "day": self._figures.of_a_day(owner=owner),
            "chart": self._figures.chart(name, owner=owner, type_name=type_name),
            "hold": held(database),
            "dead": failures.died_within_an_hour(database, owner),
            "schedules": [row.name for row in self._schedules.rows().values() if row.paused_at is not None],
        }


async def _soon(read: Awaitable[T]) -> T:
    """The result of a read of the database. Raises DatabaseUnavailable also when it takes too long."""
    try:
        return await asyncio.wait_for(read, _TIMEOUT)
    except TimeoutError:
        raise DatabaseUnavailable(f"no answer within {_TIMEOUT:g} s") from None


def _charts(counts: Mapping[int, Counts]) -> dict[str, Any]:
    """The chart of what came and ended, and the sums under it."""
    whole = sum(counts.values(), Counts())
    return {
        "times": list(counts),
        "series": [
            {"label": "accepted", "values": [one.accepted for one in counts.values()], "kind": "in"},
            {"label": "succeeded", "values": [one.succeeded for one in counts.values()], "kind": "out"},
            {"label": "dead", "values": [one.dead for one in counts.values()], "kind": "bad"},
        ],
        "whole": whole,
        "waited": whole.waiting_seconds / whole.ran if whole.ran else None,
        "ran": whole.running_seconds / whole.ran if whole.ran else None,
    }

"""Health and metrics: /health (contracts A and D in one body), the probes and /metrics."""

from __future__ import annotations

import asyncio
import calendar
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any

import falcon.asgi
import structlog
from prometheus_client.exposition import CONTENT_TYPE_LATEST

import sytq
from sytq.api import problems
from sytq.api.parts import Parts
from sytq.api.submission_batcher import SubmissionBatcher
from sytq.api.threads import Threads
from sytq.broker.rights import check_rights
from sytq.errors import DatabaseUnavailable, RedisRefused, RedisUnavailable
from sytq.ledger.values import iso, utcnow
from sytq.service.hold import held
from sytq.service.ledger_check import OK
from sytq.service.prometheus import Scrape

log = structlog.get_logger(__name__)

#: Seconds that a store has for its answer; probes time out soon after.
_TIMEOUT = 4.0
#: Seconds after which a batch is stuck rather than slow: the database's timeouts are far shorter.
_STUCK = 120.0


class Health:
    """GET /health and GET /healthz/startup: the process answers."""

    message = "Service is running"

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        resp.data = _said(200, self.message, "healthy", {"status": "ok", "version": sytq.__version__})


class Live(Health):
    """GET /healthz/live: the process answers, and its writer is not stuck. 503: a restart helps."""

    message = "Service is alive"

    def __init__(self, batcher: SubmissionBatcher) -> None:
        self._batcher = batcher

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        if self._batcher.writing_for() > _STUCK:
            raise falcon.HTTPServiceUnavailable(description=f"a batch has been under way for {_STUCK:g} s")
        await super().on_get(req, resp)


class Ready:
    """GET /healthz/ready: both stores answer, accept writes and grant every right; 503 says which store does not."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._held = ""
        self._checks: dict[str, tuple[float, asyncio.Task[str]]] = {}
        self._logged = {"database": "ok", "redis": "ok"}

    async def process_startup(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        """Look once: the log says what Redis refuses also where nobody probes, and the first answers have its time."""
        self._first = asyncio.create_task(self._look())
        await asyncio.wait([self._first], timeout=1.0)

    async def _look(self) -> None:
        state = await self._redis()
        if state != "ok":
            log.warning("not ready", store="redis", error=state)

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        states = await self._states()
        ready = set(states.values()) == {"ok"}
        resp.status = falcon.HTTP_200 if ready else falcon.HTTP_503
        if not ready:
            resp.set_header("Retry-After", "2")
        stores = {"status": "ok" if ready else "error", **states}
        if self._held:  # ready all the same: tasks are accepted, and wait
            stores["held"] = self._held
        said = (200, "Service is ready", "ready") if ready else (503, "Service is not ready", "unavailable")
        resp.data = _said(*said, stores)

    async def _states(self) -> dict[str, str]:
        """Return the state of each store, and log a change."""
        database, redis = await asyncio.gather(
            self._check("database", self._database), self._check("redis", self._redis)
        )
        states = {"database": database, "redis": redis}
        for store, state in states.items():
            if state != self._logged[store]:
                write = log.info if state == "ok" else log.warning
                write("readiness changed", store=store, status=state)
        self._logged = states
        return states

    async def _check(self, store: str, state: Callable[[], Coroutine[Any, Any, str]]) -> str:
        """Return the state of a store. Probes share a running check, so a hanging store occupies one thread."""
        now = asyncio.get_running_loop().time()
        since, check = self._checks.get(store, (now, None))
        if check is None or check.done():
            since, check = self._checks[store] = now, asyncio.create_task(state())
        try:
            return await asyncio.wait_for(asyncio.shield(check), max(0.0, since + _TIMEOUT - now))
        except TimeoutError:
            return f"no answer within {_TIMEOUT:g} s"
        except Exception as error:
            log.exception("readiness check failed", store=store)
            return f"check failed: {type(error).__name__}"

    async def _database(self) -> str:
        state = await self._parts.sql.run(self._parts.ledger_check.state)
        if state == OK:
            with suppress(DatabaseUnavailable):
                self._held = await self._parts.sql.run(held, self._parts.runtime.database)
        return state

    async def _redis(self) -> str:
        try:
            await self._parts.redis.run(check_rights, self._parts.runtime.redis, self._parts.runtime.keys)
            await self._parts.redis.run(self._parts.runtime.redis.time)  # for this process' own clock
        except RedisRefused as error:
            return str(error)
        except RedisUnavailable:
            return "does not answer"
        return "ok"


class Metrics:
    """GET /metrics in Prometheus' text format, of all processes of the API."""

    def __init__(self, scrape: Scrape, threads: Threads) -> None:
        self._scrape = scrape
        self._threads = threads

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        resp.data = await self._threads.run(self._scrape.text)
        resp.content_type = CONTENT_TYPE_LATEST


def _said(code: int, message: str, status: str, data: dict[str, str]) -> bytes:
    """Contract A's envelope with contract D's `status` and `timestamp` beside it."""
    now = utcnow()
    stamped = data | {"timestamp": calendar.timegm(now.timetuple())}
    return problems.encode({"code": code, "message": message, "status": status, "timestamp": iso(now), "data": stamped})

"""The page of the system: what `sytq doctor` finds, and what this installation is made of."""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import falcon.asgi

from sytq.api.dashboard.page import Page
from sytq.api.dashboard.rendering import Rendering
from sytq.api.dashboard.stores import gathered
from sytq.api.parts import Parts
from sytq.config.masking import mask_text
from sytq.ledger.database import read
from sytq.ledger.migrations import applied, pending
from sytq.service import status
from sytq.service.hold import held

_READ = ("applied", "pending", "held", "recorder", "versions", "mismatches")
_ORDER = ("fail", "warn", "ok")


class System(Page):
    """GET /dashboard/system"""

    template = "system.html"
    section = "/system"
    scopes: ClassVar = {"GET": "admin"}

    def __init__(self, parts: Parts, rendering: Rendering) -> None:
        super().__init__(parts, rendering)
        self._comparison = parts.runtime.comparison()

    async def read(self, req: falcon.asgi.Request, **path: str) -> dict[str, Any]:
        runtime, sql, redis = self._parts.runtime, self._parts.sql, self._parts.redis
        plugins = runtime.registry.plugins
        running, found = self._parts.doctor.look(), self._parts.doctor.latest
        findings = sorted(found.findings, key=lambda each: _ORDER.index(each.verdict)) if found else []
        # Before the other reads, which would be measured too.
        times = await gathered(
            redis_ms=redis.run(_milliseconds, lambda: runtime.redis.ask("PING")),
            database_ms=sql.run(_milliseconds, lambda: _ask(runtime.database)),
        )
        reads: dict[str, Awaitable[Any]] = {}
        if times["database_ms"] is not None:
            reads["applied"] = sql.run(applied, runtime.database, plugins)
            reads["pending"] = sql.run(pending, runtime.database, plugins)
            reads["held"] = sql.run(held, runtime.database)
        if times["redis_ms"] is not None:
            reads["recorder"] = redis.run(runtime.inspection.unwritten)
            reads["versions"] = redis.run(self._versions)
        if len(reads) == 5:  # both stores
            reads["mismatches"] = redis.run(status.mismatches, self._comparison)
        stores = dict.fromkeys(_READ) | await gathered(**reads)
        stores["missing"] = list(dict.fromkeys(times["missing"] + stores["missing"]))
        return {
            **times,
            **stores,
            "checks_run": running,
            "diagnosis": found,
            "findings": findings,
            "counts": Counter(each.verdict for each in findings),
            "plugins": sorted(each.name for each in plugins),
            "types": len(list(runtime.registry)),
            "quarantined": [(each.source, mask_text(each.error)) for each in runtime.registry.quarantined],
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "machine": f"{platform.system()} {platform.machine()}",
        }

    def _versions(self) -> list[tuple[str, str, int]]:
        """Kind and version of the processes, with their number. Raises RedisUnavailable."""
        cards = self._parts.runtime.cards
        seen = [each.card for each in (*cards.workers(), *cards.apis())]
        kinds = Counter((card["kind"], card["version"]) if card else ("worker", "unknown") for card in seen)
        return sorted((*kind, count) for kind, count in kinds.items())


def _milliseconds(call: Callable[[], object]) -> float:
    """How long the call takes, the fastest of three: this process has other work beside it."""
    took = []
    for _ in range(3):
        since = time.perf_counter()
        call()
        took.append(time.perf_counter() - since)
    return round(min(took) * 1000, 1)


def _ask(database: Any) -> None:
    read(database, lambda: database.execute_sql("SELECT 1").fetchone())

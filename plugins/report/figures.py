"""The numbers of a period: tasks by type and day, and the cost of LLM calls by provider, type and day (UTC).

Rows are read page by page; only two durations per task stay in memory.
"""

from __future__ import annotations

import datetime as dt
from array import array
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import peewee

from sytq import Context
from sytq.ledger.statistics import ended_pages, percentile
from sytq.states import TERMINAL

from ..llm.config import LlmSettings

_REPORT = 5000  # tasks between two reports of progress
_PARTS = 10**12  # unit of money in sytq_spend


@dataclass(slots=True)
class Group:
    """Ended tasks. `run`: seconds of each last attempt; `whole`: seconds from submission (or due time) to the end."""

    tasks: int = 0
    succeeded: int = 0
    dead: int = 0
    cancelled: int = 0
    retries: int = 0
    run: array[float] = field(default_factory=lambda: array("d"))
    whole: array[float] = field(default_factory=lambda: array("d"))

    def add(self, state: str, attempts: int, run: float | None, whole: float) -> None:
        self.tasks += 1
        setattr(self, state, getattr(self, state) + 1)
        self.retries += max(attempts - 1, 0)
        if run is not None:
            self.run.append(run)
        self.whole.append(whole)

    def as_json(self) -> dict[str, Any]:
        """The counts, and the percentiles in seconds (None without a value)."""
        counts = {name: getattr(self, name) for name in ("tasks", "succeeded", "dead", "cancelled", "retries")}
        return counts | {
            "run_p50": percentile(self.run, 50),
            "run_p95": percentile(self.run, 95),
            "whole_p50": percentile(self.whole, 50),
            "whole_p95": percentile(self.whole, 95),
        }


@dataclass(frozen=True, slots=True)
class Spend:
    """Calls of one provider for one type on one day; money in the configured currency."""

    day: str
    provider: str
    type: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost: float


@dataclass(slots=True)
class Figures:
    """All numbers. `spend` is None when nothing records it."""

    since: dt.datetime
    until: dt.datetime
    currency: str
    total: Group = field(default_factory=Group)
    by_type: dict[str, Group] = field(default_factory=dict)
    by_day: dict[str, Group] = field(default_factory=dict)
    by_day_and_type: dict[tuple[str, str], Group] = field(default_factory=dict)
    spend: list[Spend] | None = None

    def task_rows(self) -> list[dict[str, Any]]:
        """A header (names as keys and values), then a row for each day and type."""
        rows = [
            {"day": day, "type": name} | group.as_json() for (day, name), group in sorted(self.by_day_and_type.items())
        ]
        return [dict.fromkeys({"day": "", "type": ""} | Group().as_json(), ""), *rows]

    def spend_rows(self) -> list[dict[str, Any]]:
        """A header, then a row for each day, provider and type."""
        names = [name for name in Spend.__dataclass_fields__]
        rows = [{name: getattr(one, name) for name in names} for one in self.spend or ()]
        return [dict.fromkeys([*names, "currency"], ""), *(row | {"currency": self.currency} for row in rows)]

    def as_json(self) -> dict[str, Any]:
        return {
            "since": f"{self.since.isoformat()}Z",
            "until": f"{self.until.isoformat()}Z",
            "total": self.total.as_json(),
            "by_type": {name: group.as_json() for name, group in sorted(self.by_type.items())},
            "by_day": {day: group.as_json() for day, group in sorted(self.by_day.items())},
            "by_day_and_type": self.task_rows()[1:],
            "spend": None if self.spend is None else self.spend_rows()[1:],
        }


def count(ctx: Context, since: dt.datetime, until: dt.datetime) -> Figures:
    """The numbers of the tasks that ended in [since, until), naive UTC."""
    found = Figures(since, until, ctx.settings.of(LlmSettings).llm.currency)
    for state in TERMINAL:
        pages = ended_pages(ctx.read, state, since, until)
        for name, attempts, created, due, started, ended in chain.from_iterable(pages):
            begun = max(created, due) if due and due < ended else created
            # The last attempt; a task cancelled before it ran has none.
            run = (ended - started).total_seconds() if started else None
            day = str(ended.date())
            groups = (
                found.total,
                found.by_type.setdefault(name, Group()),
                found.by_day.setdefault(day, Group()),
                found.by_day_and_type.setdefault((day, name), Group()),
            )
            for group in groups:
                group.add(state, attempts, run, max(0.0, (ended - begun).total_seconds()))
            if found.total.tasks % _REPORT == 0:
                ctx.progress(found.total.tasks, text=f"{found.total.tasks} tasks counted")
    found.spend = _spend(ctx, since, until)
    return found


def _spend(ctx: Context, since: dt.datetime, until: dt.datetime) -> list[Spend] | None:
    def work(database: peewee.Database) -> list[Spend] | None:
        if not database.table_exists("sytq_spend"):
            return None
        table = peewee.Table("sytq_spend")
        column, total = table.c, peewee.fn.SUM
        keys = (column.day, column.provider, column.type)
        sums = (total(column.prompt_tokens), total(column.completion_tokens), total(column.cost))
        began = (column.began_at >= since.isoformat(" ")) & (column.began_at < until.isoformat(" "))
        # `day` is indexed.
        days = (column.day >= str(since.date())) & (column.day <= str(until.date()))
        query = table.select(*keys, peewee.fn.COUNT(column.task_id), *sums).where(days & began)
        rows = query.group_by(*keys).order_by(*keys).tuples().execute(database)
        return [
            Spend(day, provider, name, int(calls), int(prompt or 0), int(completion or 0), float(cost or 0) / _PARTS)
            for day, provider, name, calls, prompt, completion, cost in rows
        ]

    return ctx.read(work)

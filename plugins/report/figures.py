"""The numbers of a period: tasks by type and day, and the cost of LLM calls by provider, type and day (UTC)."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import peewee

from sytq import Context
from sytq.ledger.statistics import Statistics, ended_tasks, percentile, total

from ..llm.config import LlmSettings
from ..llm.spend import UNIT, SpendRow

SPEND_COLUMNS = ("day", "provider", "type", "calls", "prompt_tokens", "completion_tokens", "cost", "currency")


@dataclass(frozen=True)
class Figures:
    """All numbers. The rows of `spend` have SPEND_COLUMNS; it is None when nothing records it."""

    since: dt.datetime
    until: dt.datetime
    currency: str
    ended: Mapping[tuple[str, str], Statistics]  # by day and type
    spend: list[dict[str, Any]] | None

    @cached_property
    def total(self) -> dict[str, Any]:
        return counts(total(self.ended.values()))

    @cached_property
    def by_day(self) -> dict[str, dict[str, Any]]:
        return self._by(0)

    @cached_property
    def by_type(self) -> dict[str, dict[str, Any]]:
        return self._by(1)

    @cached_property
    def by_day_and_type(self) -> list[dict[str, Any]]:
        return [{"day": day, "type": name} | counts(group) for (day, name), group in sorted(self.ended.items())]

    def as_json(self) -> dict[str, Any]:
        return {
            "since": f"{self.since.isoformat()}Z",
            "until": f"{self.until.isoformat()}Z",
            "total": self.total,
            "by_type": self.by_type,
            "by_day": self.by_day,
            "by_day_and_type": self.by_day_and_type,
            "spend": self.spend,
        }

    def _by(self, part: int) -> dict[str, dict[str, Any]]:
        groups: dict[str, list[Statistics]] = defaultdict(list)
        for key, group in self.ended.items():
            groups[key[part]].append(group)
        return {name: counts(total(those)) for name, those in sorted(groups.items())}


def counts(group: Statistics) -> dict[str, Any]:
    """The counts, and percentiles in seconds (None without a value): `run` of the last attempt, `whole` from
    submission (or due time) to the end."""
    return {
        "tasks": sum(group.ended.values()),
        **group.ended,
        "retries": group.retries,
        "run_p50": percentile(group.ran, 50),
        "run_p95": percentile(group.ran, 95),
        "whole_p50": percentile(group.took, 50),
        "whole_p95": percentile(group.took, 95),
    }


TASK_COLUMNS = ("day", "type", *counts(Statistics()))


def count(ctx: Context, since: dt.datetime, until: dt.datetime) -> Figures:
    """The numbers of the tasks that ended in [since, until), naive UTC."""
    ended: dict[tuple[str, str], Statistics] = defaultdict(Statistics)
    tasks = 0
    for page in ended_tasks(ctx.read, since, until):
        for end in page:
            ended[str(end.finished_at.date()), end.type].add(end)
        tasks += len(page)
        ctx.progress(tasks, text=f"{tasks} tasks counted")
    currency = ctx.settings.of(LlmSettings).llm.currency
    return Figures(since, until, currency, ended, ctx.read(lambda database: _spend(database, since, until, currency)))


def _spend(
    database: peewee.Database, since: dt.datetime, until: dt.datetime, currency: str
) -> list[dict[str, Any]] | None:
    if not database.table_exists(SpendRow):
        return None
    keys = (SpendRow.day, SpendRow.provider, SpendRow.type)
    sums = [peewee.fn.SUM(column) for column in (SpendRow.prompt_tokens, SpendRow.completion_tokens, SpendRow.cost)]
    began = (SpendRow.began_at >= since) & (SpendRow.began_at < until)
    # `day` is indexed.
    days = (SpendRow.day >= str(since.date())) & (SpendRow.day <= str(until.date()))
    query = SpendRow.select(*keys, peewee.fn.COUNT(SpendRow.task_id), *sums).where(days, began)
    found: Any = query.group_by(*keys).order_by(*keys).tuples()
    rows = []
    for day, provider, name, calls, prompt, completion, cost in found:
        amounts = (int(calls), int(prompt or 0), int(completion or 0), float((cost or 0) * UNIT), currency)
        rows.append(dict(zip(SPEND_COLUMNS, (day, provider, name, *amounts), strict=True)))
    return rows

"""What the dashboard shows of spend: its page, and its line on the overview."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Sequence

from sytq import DashboardContext
from sytq.blocks import Block, Cell, Chart, Fields, Link, Links, Money, Table
from sytq.ledger.values import utcnow

from . import spend
from .config import LlmSettings
from .days import SpendDay, sums

_PERIODS = ("7", "30", "90")
_GROUPS = ("provider", "model", "type", "owner")
_COUNTS = ("calls", *(f"{name}_tokens" for name in spend.Tokens.__slots__))
_TITLES = ("calls", "tokens in", "cached", "tokens out", "reasoning", "cost", "calls of unknown cost")


def spend_page(ctx: DashboardContext) -> list[Block]:
    """Spend by day, provider, model, type and key, and what is left of today's budgets."""
    days = ctx.parameters.get("days", "")
    days = days if days in _PERIODS else "30"
    today = utcnow().date()
    first = today - dt.timedelta(days=int(days) - 1)
    found = sums(ctx.runtime.database, first, ctx.owner)
    currency = ctx.settings.of(LlmSettings).llm.currency
    periods = [Link(f"{n} days", "/x/llm/spend", {"days": n}, current=n == days) for n in _PERIODS]
    calendar = [first + dt.timedelta(days=n) for n in range(int(days))]
    return [
        Links("Period", periods),
        Fields(
            {
                "spent today (UTC)": cost_of((one for one in found if one.day == today.isoformat()), currency),
                f"in {days} days": cost_of(found, currency),
                "calls": sum(one.calls for one in found),
                "calls of unknown cost": sum(one.unknown for one in found),
            }
        ),
        _chart(found, calendar, currency),
        budgets(ctx, found, today),
        *(_table(found, by, currency) for by in _GROUPS),
    ]


def overview(ctx: DashboardContext) -> list[Block]:
    """What is spent today; nothing where no provider is configured."""
    own = ctx.settings.of(LlmSettings)
    if not own.providers:
        return []
    found = sums(ctx.runtime.database, utcnow().date(), ctx.owner)
    return [
        Fields(
            {
                "spent today (UTC)": cost_of(found, own.llm.currency),
                "calls today": sum(one.calls for one in found),
                "more": Link("Spend", "/x/llm/spend"),
            }
        )
    ]


def budgets(ctx: DashboardContext, found: Sequence[SpendDay], today: dt.date) -> Table:
    """What is left of today's budgets; of an owner's own alone where the reader sees no others."""
    own, day = ctx.settings.of(LlmSettings), today.isoformat()
    rows = spend.BudgetRow.select().where(spend.BudgetRow.day == day)
    used = {row.subject: row.used for row in ctx.read(lambda database: list(rows))}
    spent: defaultdict[str, int] = defaultdict(int)
    for one in found:
        if one.day == day:
            spent[f"provider:{one.provider}"] += one.cost
            spent[f"owner:{one.owner}"] += one.cost
    owners = {name.partition(":")[2] for name in used if name.startswith("owner:")} | set(own.llm.budgets) - {"*"}
    limits = {f"owner:{name}": own.llm.budget(name) for name in sorted(owners) if ctx.owner in (None, name)}
    if ctx.owner is None:
        limits |= {f"provider:{name}": provider.budget for name, provider in own.providers.items()}
    shown: list[list[Cell]] = []
    for subject, limit in limits.items():
        if limit is not None:
            taken = used.get(subject, spent[subject])
            amounts = (spend.units(limit), taken, max(spend.units(limit) - taken, 0))
            shown.append([subject.replace(":", " "), *(amount_of(amount, own.llm.currency) for amount in amounts)])
    columns = ("budget", "per day", "spent or reserved", "left")
    return Table("Budgets of today (UTC)", columns, shown, empty="No budget is configured.")


def amount_of(units: int, currency: str) -> Money:
    """An amount in 10^-12."""
    return Money(units * spend.UNIT, currency)


def cost_of(found: Iterable[SpendDay], currency: str) -> Money:
    """What these calls cost together."""
    return amount_of(sum(one.cost for one in found), currency)


def _chart(found: Sequence[SpendDay], calendar: Sequence[dt.date], currency: str) -> Chart:
    cost: defaultdict[str, int] = defaultdict(int)
    for one in found:
        cost[one.day] += one.cost
    values = [float(cost[day.isoformat()] * spend.UNIT) for day in calendar]
    times = [dt.datetime.combine(day, dt.time()) for day in calendar]
    return Chart("Spend by day", times, {"cost": values}, currency)


def _table(found: Sequence[SpendDay], by: str, currency: str) -> Table:
    groups: defaultdict[tuple[str, ...], list[SpendDay]] = defaultdict(list)
    for one in found:
        groups[(one.provider, one.model) if by == "model" else (getattr(one, by),)].append(one)
    ordered = sorted(groups.items(), key=lambda group: -sum(one.cost for one in group[1]))
    rows = [
        (
            "/".join(names) or "no owner",
            *(sum(getattr(one, name) for one in group) for name in _COUNTS),
            cost_of(group, currency),
            sum(one.unknown for one in group),
        )
        for names, group in ordered
    ]
    title = "key's owner" if by == "owner" else by
    return Table(f"By {title}", (title, *_TITLES), rows, empty="No calls.")

"""Records each provider call with its cost, and reserves budgets before calls.

Money is a whole number of 10^-12 of `llm.currency`, so that sums are exact in any database. All functions but `summary`
belong inside a transaction of the caller.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from operator import attrgetter
from typing import Any

import peewee
from peewee import BigIntegerField, CharField, CompositeKey, DateTimeField, IntegerField, Model

from sytq.ledger.database import execute, insert_ignore, read
from sytq.ledger.values import utcnow

UNIT = Decimal("1e-12")
BEGUN, OK, LOST, UNSENT = "begun", "ok", "lost", "unsent"
#: Groupings of sums, and their columns.
GROUPS: Mapping[str, Sequence[str]] = {
    "day": ("day",),
    "provider": ("provider",),
    "model": ("provider", "model"),
    "type": ("type",),
    "owner": ("owner",),
    "table": ("table_name",),
    "row": ("table_name", "row_id"),
    "task": ("task_id",),
}


class SpendRow(Model):
    """One call of a provider, from before it begins; money is in 10^-12 of `llm.currency`."""

    task_id = CharField()
    token = BigIntegerField()  # of the attempt
    number = IntegerField()  # within that attempt
    step = CharField()
    type = CharField()
    owner = CharField(null=True)
    table_name = CharField(null=True)
    row_id = BigIntegerField(null=True)
    provider = CharField()
    model = CharField()
    day = CharField()  # UTC, as 2026-07-01
    outcome = CharField()  # begun, ok, lost, unsent, or the name of the failure
    reserved = BigIntegerField()
    cost = BigIntegerField(null=True)  # NULL: unknown
    prompt_tokens = BigIntegerField(default=0)
    cached_tokens = BigIntegerField(default=0)
    completion_tokens = BigIntegerField(default=0)
    reasoning_tokens = BigIntegerField(default=0)
    prompt_bytes = BigIntegerField(null=True)  # NULL in the rows of processes before 0.2
    began_at = DateTimeField()
    ended_at = DateTimeField(null=True)

    class Meta:
        table_name = "sytq_spend"
        primary_key = CompositeKey("task_id", "token", "number")


class BudgetRow(Model):
    """The spent and reserved amount of a budget on a day."""

    day = CharField()
    subject = CharField()  # provider:<name> or owner:<name>
    used = BigIntegerField()

    class Meta:
        table_name = "sytq_budgets"
        primary_key = CompositeKey("day", "subject")


#: What is known of a call when it begins.
_BEGUN = (
    "task_id", "token", "number", "step", "type", "owner", "table_name", "row_id", "provider", "model", "day",
    "outcome", "reserved", "prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens", "prompt_bytes",
    "began_at",
)  # fmt: skip
_VALUES = attrgetter(*_BEGUN)
_BEGIN = f"INSERT INTO sytq_spend ({', '.join(_BEGUN)}) VALUES ({', '.join('?' * len(_BEGUN))})"  # noqa: S608
_SETTLE = (
    "UPDATE sytq_spend SET outcome = ?, cost = ?, ended_at = ?, prompt_tokens = ?, cached_tokens = ?,"
    " completion_tokens = ?, reasoning_tokens = ? WHERE task_id = ? AND token = ? AND number = ? AND outcome = ?"
)
_COST = peewee.fn.COALESCE(peewee.fn.SUM(SpendRow.cost), 0)


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of a call; `cached` are part of `prompt`, `reasoning` is part of `completion`."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    reasoning: int = 0


@dataclass(frozen=True, slots=True)
class Reservation:
    """What is left to know of a started call; `subjects` are the budgets that hold its reserved amount."""

    task_id: str
    token: int
    number: int
    step: str
    day: str
    reserved: int
    subjects: tuple[str, ...]


@dataclass(eq=False)
class BudgetExhausted(Exception):
    """A budget's subject, the day, and amounts in 10^-12."""

    subject: str
    day: str
    used: int
    limit: int


def money(amount: int) -> str:
    """An amount in 10^-12 as text in the currency."""
    return f"{(amount * UNIT).normalize():f}"


def units(amount: Decimal) -> int:
    """An amount of the currency in 10^-12."""
    return int((amount / UNIT).to_integral_value())


def begin(call: SpendRow, amount: int, budgets: Mapping[str, int]) -> Reservation:
    """Insert a call as begun now, and reserve `amount` from each budget (subject -> limit per day).

    Raises BudgetExhausted.
    """
    now = utcnow()
    day = now.date().isoformat()
    for subject, limit in sorted(budgets.items()):
        _open(day, subject)
        row = (BudgetRow.day == day) & (BudgetRow.subject == subject)
        if not BudgetRow.update(used=BudgetRow.used + amount).where(row, BudgetRow.used + amount <= limit).execute():
            raise BudgetExhausted(subject, day, BudgetRow.get(row).used, limit)
    call.day, call.outcome, call.reserved, call.began_at = day, BEGUN, amount, now
    execute(SpendRow._meta.database, _BEGIN, *_VALUES(call))
    return _reservation(call, tuple(budgets))


def settle(call: Reservation, outcome: str, tokens: Tokens, cost: int | None, *, was: str = BEGUN) -> None:
    """Record the end of a call and release the unused part of its reservations. Idempotent."""
    reserved = call.reserved if was == BEGUN else 0
    used = tokens.prompt, tokens.cached, tokens.completion, tokens.reasoning
    key = call.task_id, call.token, call.number, was
    changed = execute(SpendRow._meta.database, _SETTLE, outcome, cost, utcnow(), *used, *key).rowcount
    if changed and call.subjects:
        BudgetRow.update(used=BudgetRow.used - reserved + (cost or 0)).where(
            BudgetRow.day == call.day, BudgetRow.subject.in_(call.subjects)
        ).execute()


def withdraw(call: Reservation) -> None:
    """Remove a call that was not made, and release its reservations."""
    settle(call, UNSENT, Tokens(), 0)
    key = SpendRow.task_id == call.task_id, SpendRow.token == call.token, SpendRow.number == call.number
    SpendRow.delete().where(*key, SpendRow.outcome == UNSENT).execute()


def repetitions(call: Reservation, outcome: str) -> tuple[int, float]:
    """How often calls for the same step of a task ended so, and the seconds since the first of them began."""
    count, since = (
        SpendRow.select(peewee.fn.COUNT(SpendRow.number), peewee.fn.MIN(SpendRow.began_at))
        .where(SpendRow.task_id == call.task_id, SpendRow.step == call.step, SpendRow.outcome == outcome)
        .scalar(as_tuple=True)
    )
    return count, (utcnow() - since).total_seconds() if count else 0.0


def release(task_id: str, before: int | None = None) -> set[str]:
    """Release what attempts of a task (with a token below `before`) reserved and did not settle; return the steps.

    Such a call may have been answered and charged: its outcome is `lost`, its cost unknown.
    """
    rows = SpendRow.select().where(SpendRow.task_id == task_id, SpendRow.outcome == BEGUN)
    lost = list(rows if before is None else rows.where(SpendRow.token < before))
    for row in lost:
        settle(_reservation(row, _subjects(row)), LOST, Tokens(), None)
    return {row.step for row in lost}


def recover(task_id: str, step: str, tokens: Tokens, cost: int | None) -> None:
    """Record the cost of a step's latest lost call, whose answer was found."""
    lost = SpendRow.task_id == task_id, SpendRow.step == step, SpendRow.outcome == LOST
    row = SpendRow.select().where(*lost).order_by(SpendRow.token.desc(), SpendRow.number.desc()).first()
    if row is not None:
        settle(_reservation(row, _subjects(row)), OK, tokens, cost, was=LOST)


def _reservation(row: SpendRow, subjects: tuple[str, ...]) -> Reservation:
    return Reservation(row.task_id, row.token, row.number, row.step, row.day, row.reserved, subjects)


def _subjects(row: SpendRow) -> tuple[str, ...]:
    return (f"provider:{row.provider}", *([f"owner:{row.owner}"] if row.owner else ()))


def summary(
    database: peewee.Database,
    by: str,
    *,
    since: dt.date | None = None,
    task_id: str | None = None,
    owner: str | None = None,
    limit: int = 1000,
) -> list[dict[str, Any]]:
    """Calls, tokens and cost by one of GROUPS, the costliest first (days in order). `unknown` counts calls with
    unknown cost. Raises DatabaseUnavailable."""
    columns = [getattr(SpendRow, name) for name in GROUPS[by]]
    query = SpendRow.select(*columns, *totals()).group_by(*columns)
    if since is not None:
        query = query.where(SpendRow.day >= since.isoformat())
    if task_id is not None:
        query = query.where(SpendRow.task_id == task_id)
    if owner is not None:
        query = query.where(SpendRow.owner == owner)
    query = query.order_by(*(columns if by == "day" else [_COST.desc(), *columns])).limit(limit)
    names = [*GROUPS[by], "calls", *Tokens.__slots__, "cost", "unknown"]
    rows: Any = query.tuples()
    return read(database, lambda: [_sums(names, row) for row in rows])


def totals() -> list[Any]:
    """Columns of a group: its calls, its tokens as in `Tokens`, its cost, and its calls of unknown cost."""
    tokens = [peewee.fn.SUM(getattr(SpendRow, f"{name}_tokens")) for name in Tokens.__slots__]
    unknown = peewee.fn.SUM(peewee.Case(None, [(SpendRow.cost.is_null(), 1)], 0))
    return [peewee.fn.COUNT(SpendRow.task_id), *tokens, _COST, unknown]


def _open(day: str, subject: str) -> None:
    """Ensure that a budget's row exists; a new row begins with the day's cost so far."""
    if BudgetRow.get_or_none(BudgetRow.day == day, BudgetRow.subject == subject) is not None:
        return
    kind, _, name = subject.partition(":")
    cost = peewee.Case(None, [(SpendRow.outcome == BEGUN, SpendRow.reserved)], peewee.fn.COALESCE(SpendRow.cost, 0))
    spent = SpendRow.select(peewee.fn.SUM(cost)).where(SpendRow.day == day, getattr(SpendRow, kind) == name).scalar()
    row: dict[str, list[Any]] = {"day": [day], "subject": [subject], "used": [int(spent or 0)]}
    insert_ignore(BudgetRow._meta.database, "sytq_budgets", row)


def _sums(names: list[str], row: tuple[Any, ...]) -> dict[str, Any]:
    found = {name: int(value) if isinstance(value, Decimal) else value for name, value in zip(names, row, strict=True)}
    return found | {"cost": money(found["cost"])}

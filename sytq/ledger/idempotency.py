"""Idempotency keys: the answer that a repeated Idempotency-Key gets.

A key is reserved in the transaction that inserts its tasks, so that both are kept or neither, also when the process
dies or Redis is emptied.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import peewee

from sytq.ledger.database import insert_ignore
from sytq.ledger.insert import Acceptance, Accepted, Existing, Refused
from sytq.ledger.models import Idempotency
from sytq.ledger.values import utcnow

#: How long a key is remembered.
KEPT = dt.timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Claim:
    """The key of a request with this fingerprint (64 hex digits); `owner` is "" without auth."""

    owner: str
    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Submitted:
    """The results of a submission's tasks, in their order.

    `repeats` is None, or the fingerprint of the earlier request with the same Idempotency-Key that submitted them.
    """

    tasks: tuple[Acceptance, ...]
    repeats: str | None = None


def reserve(database: peewee.Database, wanted: Sequence[tuple[Claim, Sequence[str]]]) -> dict[Claim, Submitted]:
    """Reserve keys for requests with these task ids; return the answers of keys that are already taken.

    Runs in the caller's transaction, and waits for another transaction's reservation of the same key.
    """
    taken: dict[Claim, Submitted] = {}
    # In a fixed order, so that two transactions with the same keys wait for each other rather than deadlock.
    wanted = sorted(wanted, key=lambda pair: (pair[0].owner, pair[0].key))
    for _, theirs in groupby(wanted, key=lambda pair: pair[0].owner):
        taken |= _reserve_of_owner(database, list(theirs), utcnow())
    return taken


def _reserve_of_owner(
    database: peewee.Database, wanted: list[tuple[Claim, Sequence[str]]], now: dt.datetime
) -> dict[Claim, Submitted]:
    keys = [one.key for one, _ in wanted]
    these = (Idempotency.owner == wanted[0][0].owner) & Idempotency.idempotency_key.in_(keys)
    Idempotency.delete().where(these, Idempotency.created_at < now - KEPT).execute()
    answers = [_text([Accepted(task_id) for task_id in ids]) for _, ids in wanted]
    columns: dict[str, Sequence[Any]] = {
        "owner": [one.owner for one, _ in wanted],
        "idempotency_key": keys,
        "fingerprint": [one.fingerprint for one, _ in wanted],
        "answer": answers,
        "created_at": [now] * len(wanted),
    }
    insert_ignore(database, "sytq_idempotency", columns)
    found = {row.idempotency_key: row for row in Idempotency.select().where(these)}
    # Ids are new in every request: a row with another answer is another request's.
    both = zip(wanted, answers, strict=True)
    return {one: _answer(found[one.key]) for (one, _), mine in both if found[one.key].answer != mine}


def find(one: Claim) -> Submitted | None:
    """Return the answer of a key, if it has one."""
    this = (Idempotency.owner == one.owner) & (Idempotency.idempotency_key == one.key)
    row = Idempotency.get_or_none(this, Idempotency.created_at >= utcnow() - KEPT)
    return _answer(row) if row is not None else None


def correct(one: Claim, tasks: Sequence[Acceptance]) -> None:
    """Correct the answer of a key reserved by this transaction, when not all of its tasks were accepted."""
    this = (Idempotency.owner == one.owner) & (Idempotency.idempotency_key == one.key)
    Idempotency.update(answer=_text(tasks)).where(this).execute()


def _answer(row: Idempotency) -> Submitted:
    answer = json.loads(row.answer)
    tasks = (
        (Existing(task_id) if task_id else Refused()) if existing else Accepted(task_id)
        for task_id, existing in zip(answer["ids"], answer["existing"], strict=True)
    )
    return Submitted(tuple(tasks), row.fingerprint)


def _text(tasks: Sequence[Acceptance]) -> str:
    """An answer as JSON; a refused task has no id."""
    ids = ["" if isinstance(task, Refused) else task.id for task in tasks]
    return json.dumps({"ids": ids, "existing": [not isinstance(task, Accepted) for task in tasks]})

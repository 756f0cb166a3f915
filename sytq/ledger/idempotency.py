"""Submissions that must happen once: which answer a caller's Idempotency-Key has.

Owns every access to `sytq_idempotency`. A key is claimed in the transaction that inserts its tasks, so that either
both stand or none, also when the process dies or Redis is emptied. Must not know HTTP.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from sytq.ledger.insert import Acceptance, Accepted, Existing, Refused
from sytq.ledger.models import Idempotency
from sytq.ledger.values import utcnow

#: For how long a key is remembered.
KEPT = dt.timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Claim:
    """`key` of `owner` ("" without auth) stands for the request with this fingerprint (64 hex digits)."""

    owner: str
    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What the first request with a key got: what became of each of its tasks."""

    fingerprint: str
    tasks: tuple[Acceptance, ...]


def claim(wanted: Sequence[tuple[Claim, Sequence[str]]]) -> dict[Claim, Answer]:
    """Claim keys for requests whose tasks will have these ids; return what stands for those that are taken.

    Runs in the caller's transaction; a claim of another transaction that has not ended is waited for.
    """
    taken: dict[Claim, Answer] = {}
    # In one order, so that two transactions with the same keys wait for each other rather than deadlock.
    wanted = sorted(wanted, key=lambda pair: (pair[0].owner, pair[0].key))
    for _, theirs in groupby(wanted, key=lambda pair: pair[0].owner):
        taken |= _claim_of_owner(list(theirs), utcnow())
    return taken


def _claim_of_owner(wanted: list[tuple[Claim, Sequence[str]]], now: dt.datetime) -> dict[Claim, Answer]:
    keys = [one.key for one, _ in wanted]
    these = (Idempotency.owner == wanted[0][0].owner) & Idempotency.idempotency_key.in_(keys)
    Idempotency.delete().where(these, Idempotency.created_at < now - KEPT).execute()
    rows = [
        {
            "owner": one.owner,
            "idempotency_key": one.key,
            "fingerprint": one.fingerprint,
            "answer": _text(list(map(Accepted, ids))),
            "created_at": now,
        }
        for one, ids in wanted
    ]
    Idempotency.insert_many(rows).on_conflict_ignore().execute()
    found = {row.idempotency_key: row for row in Idempotency.select().where(these)}
    taken = {}
    for one, ids in wanted:
        row = found[one.key]
        if row.answer != _text(list(map(Accepted, ids))):  # ids are new in every request, so this one is another's
            taken[one] = _answer(row)
    return taken


def find(one: Claim) -> Answer | None:
    """Return what stands for a key already."""
    this = (Idempotency.owner == one.owner) & (Idempotency.idempotency_key == one.key)
    row = Idempotency.get_or_none(this, Idempotency.created_at >= utcnow() - KEPT)
    return _answer(row) if row is not None else None


def correct(one: Claim, tasks: Sequence[Acceptance]) -> None:
    """Write for a claim of this transaction what became of its tasks, where not all of them were accepted."""
    this = (Idempotency.owner == one.owner) & (Idempotency.idempotency_key == one.key)
    Idempotency.update(answer=_text(tasks)).where(this).execute()


def _answer(row: Idempotency) -> Answer:
    answer = json.loads(row.answer)
    tasks = (
        (Existing(task_id) if task_id else Refused()) if existing else Accepted(task_id)
        for task_id, existing in zip(answer["ids"], answer["existing"], strict=True)
    )
    return Answer(row.fingerprint, tuple(tasks))


def _text(tasks: Sequence[Acceptance]) -> str:
    """An answer as JSON; a refused task has no id."""
    ids = ["" if isinstance(task, Refused) else task.id for task in tasks]
    return json.dumps({"ids": ids, "existing": [not isinstance(task, Accepted) for task in tasks]})

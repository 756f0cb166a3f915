"""Rows of tasks that nobody ran."""

from __future__ import annotations

from sytq.ids import new_id
from sytq.ledger.database import transact
from sytq.ledger.models import MODELS, Task
from sytq.ledger.values import utcnow
from tests.installation import Installation


def inserted(api: Installation, number: int, **columns: object) -> list[str]:
    """Rows of dead tasks; their ids."""
    now = utcnow()
    row = {"type": "default", "state": "dead", "payload": "{}", "created_at": now, "finished_at": now}
    rows = [row | columns | {"id": new_id()} for _ in range(number)]
    api.runtime.database.bind(MODELS)
    for part in range(0, number, 500):
        transact(api.runtime.database, Task.insert_many(rows[part : part + 500]).execute)
    return [str(made["id"]) for made in rows]

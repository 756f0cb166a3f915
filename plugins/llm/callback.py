"""The callback that tells a caller how its row ended."""

from __future__ import annotations

from sytq import Fail, Transaction, clock
from sytq.errors import InvalidInput
from sytq.tasktypes.payload import encode


def send(tx: Transaction, column: object, body: str) -> str | None:
    """Insert the callback in the row's transaction; return the reason if its URL is refused."""
    try:  # refuses early what delivery would refuse; addresses of a name are checked on connecting
        url = str(column or "").strip()
        if not url:
            return None
        headers = {"Content-Type": "application/json"}
        tx.enqueue("callback", {"url": url, "method": "POST", "headers": headers, "body": body}, key="callback")
    except (InvalidInput, Fail) as error:
        return f"the callback was not sent: {error.message if isinstance(error, InvalidInput) else error}"
    return None


def body(table: str, row_id: int, task_id: str, *, report: str | None, error: str | None) -> str:
    """The callback's body, stored as text so that every delivery sends the same bytes."""
    return encode(
        {
            "task_id": task_id,
            "table_name": table,
            "id": row_id,
            "status": "success" if error is None else "failed",
            "result": report or "",
            "error": error,
            "timestamp": int(clock.now()),
        }
    )

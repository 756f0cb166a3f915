"""API keys as people see them, and the limits that they write for one."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError

from sytq.config.values import Rate
from sytq.errors import InvalidInput
from sytq.ledger.models import ApiKey
from sytq.ledger.values import iso, utcnow

_RATE: TypeAdapter[tuple[int, float]] = TypeAdapter(Rate)


def view(row: ApiKey) -> dict[str, Any]:
    """A key without its secrets, with its state: live, rotated (in the grace period), expired or revoked."""
    now = utcnow()
    grace = row.previous_until if row.previous_until and row.previous_until > now else None
    state = "rotated" if grace else "live"
    if row.expires_at and row.expires_at <= now:
        state = "expired"
    if row.revoked_at:
        state = "revoked"
    return {
        "id": row.id,
        "name": row.name,
        "owner": row.owner,
        "state": state,
        "scopes": row.scopes.split(),
        "types": row.types.split() if row.types else None,
        "rate": f"{row.rate_calls}/{row.rate_seconds}s" if row.rate_seconds else None,
        "daily_tasks": row.daily_tasks,
        "created_at": iso(row.created_at),
        "expires_at": iso(row.expires_at) if row.expires_at else None,
        "last_used_at": iso(row.last_used_at) if row.last_used_at else None,
        "previous_until": iso(grace) if grace else None,
        "revoked_at": iso(row.revoked_at) if row.revoked_at else None,
    }


def read_rate(text: str) -> tuple[int, int]:
    """A request rate such as 100/min, as requests and seconds. Raises InvalidInput."""
    try:
        calls, period = _RATE.validate_python(text)
    except ValidationError:
        raise InvalidInput("rate", f"'{text[:64]}' is not valid; valid: a rate such as 100/min") from None
    return calls, int(period)

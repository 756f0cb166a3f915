"""Bulk operations: one change to all tasks that match a query. Which tasks that are, and the task that does it.

Owns what each action may be done to. The work itself is the task type `bulk`, as everything that takes its time.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from sytq.errors import InvalidInput
from sytq.ledger.query import Filter, parse
from sytq.states import CANCELLED, DEAD, RETRYING, SCHEDULED, TERMINAL, UNFINISHED

TYPE = "bulk"
#: action -> the states in which it does something; without a state in the query the first group alone.
ACTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "cancel": (UNFINISHED, UNFINISHED),
    "retry": ((DEAD,), (DEAD, CANCELLED)),
    "reschedule": ((SCHEDULED, RETRYING), (SCHEDULED, RETRYING)),
    "delete": (TERMINAL, TERMINAL),
}


def targets(action: str, query: str, now: dt.datetime, owner: str | None = None) -> Filter:
    """Return which tasks `action` on `query` means, as of `now` (naive UTC): none that came or ended later, and with an
    `owner` none of another one.

    Raises InvalidInput for a query that says nothing, and one that only lets tasks through that cannot be meant.
    """
    wanted = parse(query)
    if not wanted.terms:
        raise InvalidInput("q", "a query is needed, as this changes all tasks that match; everything is state:*")
    usual, possible = ACTIONS[action]
    says_state = any(term.field == "state" for term in wanted.terms)
    wanted = wanted.within(f"state:{','.join(possible if says_state else usual)}")
    if not wanted.states:
        raise InvalidInput("q", f"it lets no task through that {action} could change; valid: {', '.join(possible)}")
    # Fixed here, so that what dies again after its retry is not retried again by the same operation.
    if owner is not None:
        wanted = wanted.owned_by(owner)
    moment = "finished" if set(wanted.states) <= set(TERMINAL) else "created"
    return wanted.within(f"{moment}:<={now.isoformat(timespec='microseconds')}Z").at(now)


def description(
    action: str, query: str, now: dt.datetime, by: str, run_at: dt.datetime | None, owner: str | None = None
) -> dict[str, Any]:
    """The payload of the task that does it. `run_at` (aware) is for reschedule. Raises as `targets`, and for a
    time that is missing or out of place."""
    targets(action, query, now)
    if (run_at is not None) != (action == "reschedule"):
        raise InvalidInput("run_at", "needed for reschedule, and for nothing else")
    payload = {"action": action, "q": query, "as_of": now.isoformat(timespec="microseconds"), "by": by}
    payload |= {"owner": owner} if owner is not None else {}
    return payload | ({"run_at": run_at.isoformat()} if run_at else {})


def given_up(query: str) -> Filter:
    """Return the query's tasks among the dead ones, or among others with `state:cancelled`. Raises InvalidInput."""
    wanted = parse(query)
    if not any(term.field == "state" for term in wanted.terms):
        return wanted.within(f"state:{DEAD}")
    for state in wanted.states:
        if state not in (DEAD, CANCELLED):
            raise InvalidInput("q", f"'state:{state}' is not valid here; valid: state:{DEAD}, state:{CANCELLED}")
    return wanted

"""Bulk operations, one change to all tasks that match a query: their filter, and the payload of their task."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

from sytq.errors import InvalidInput
from sytq.ledger.query import Filter, parse
from sytq.ledger.search import COUNT_MAX, Count, Search
from sytq.states import CANCELLED, DEAD, RETRYING, SCHEDULED, TERMINAL, UNFINISHED

#: Seconds for the count of what an operation changes, which a person confirms, and of each state that it leaves alone.
_COUNTING, _BESIDE = 2.0, 0.1
#: action -> the states in which it has an effect; without a state in the query only the first group.
ACTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "cancel": (UNFINISHED, UNFINISHED),
    "retry": ((DEAD,), (DEAD, CANCELLED)),
    "reschedule": ((SCHEDULED, RETRYING), (SCHEDULED, RETRYING)),
    "delete": (TERMINAL, TERMINAL),
}


def targets(action: str, query: str, now: dt.datetime, owner: str | None = None) -> Filter:
    """Return the filter of the tasks that `action` on `query` changes, without those that came or ended after `now`
    (naive UTC), and with an `owner` only theirs.

    Raises InvalidInput for an empty query, and for a query that excludes every task that the action could change.
    """
    wanted = parse(query)
    if not wanted.terms:
        raise InvalidInput("q", "a query is needed, as this changes all tasks that match; everything is state:*")
    usual, possible = ACTIONS[action]
    says_state = any(term.field == "state" for term in wanted.terms)
    wanted = wanted.within(f"state:{','.join(possible if says_state else usual)}")
    if not wanted.states:
        raise InvalidInput("q", f"it lets no task through that {action} could change; valid: {', '.join(possible)}")
    # Fixed here, so that a task that dies after its retry is not retried again by the same operation.
    if owner is not None:
        wanted = wanted.owned_by(owner)
    moment = "finished" if set(wanted.states) <= set(TERMINAL) else "created"
    return wanted.within(f"{moment}:<={now.isoformat(timespec='microseconds')}Z").at(now)


@dataclass(frozen=True, slots=True)
class Plan:
    """What an operation would do: the number of tasks that it changes, and of matching tasks that it leaves as they
    are, by state. A count that takes too long is not exact."""

    matched: Count
    unchanged: dict[str, Count]


def plan(search: Search, action: str, query: str, now: dt.datetime, owner: str | None = None) -> Plan:
    """Count what `targets` selects, and what else matches the query. Raises InvalidInput, DatabaseUnavailable."""
    wanted = targets(action, query, now, owner)
    everything = parse(query).at(now)
    if owner is not None:
        everything = everything.owned_by(owner)
    unchanged = {}
    for state in everything.states:
        if state not in wanted.states:
            count = search.count(everything.within(f"state:{state}"), COUNT_MAX, seconds=_BESIDE)
            if count.number:
                unchanged[state] = count
    return Plan(search.count(wanted, seconds=_COUNTING), unchanged)


def description(
    action: str, query: str, now: dt.datetime, by: str, run_at: dt.datetime | None, owner: str | None = None
) -> dict[str, Any]:
    """The payload of the operation's task. `run_at` (aware) is for reschedule only. Raises InvalidInput."""
    targets(action, query, now)
    if (run_at is not None) != (action == "reschedule"):
        raise InvalidInput("run_at", "needed for reschedule, and for nothing else")
    payload = {"action": action, "q": query, "as_of": now.isoformat(timespec="microseconds"), "by": by}
    payload |= {"owner": owner} if owner is not None else {}
    return payload | ({"run_at": run_at.isoformat()} if run_at else {})


def dead_or_cancelled(query: str) -> Filter:
    """Return a query's filter, of dead tasks unless it asks for cancelled ones. Raises InvalidInput."""
    wanted = parse(query)
    if not any(term.field == "state" for term in wanted.terms):
        return wanted.within(f"state:{DEAD}")
    for state in wanted.states:
        if state not in (DEAD, CANCELLED):
            raise InvalidInput("q", f"'state:{state}' is not valid here; valid: state:{DEAD}, state:{CANCELLED}")
    return wanted

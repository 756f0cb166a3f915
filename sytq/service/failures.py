"""Failures by cause, as the API, the command line and the dashboard show them. Changes nothing."""

from __future__ import annotations

import datetime as dt

import peewee
from typing_extensions import TypedDict

from sytq.errors import InvalidInput
from sytq.ledger.failures import PERIODS, Cause, Failures, begin
from sytq.ledger.values import iso, utcnow
from sytq.states import DEAD, NAME, RETRYING


class TrendPoint(TypedDict):
    """Tasks that died in the period that begins at `at` and ends at the next point's."""

    at: str
    tasks: int


class CauseView(TypedDict):
    """Tasks of one type with one error. `q` selects them, in the query language; `sample` is one, `error` its error."""

    type: str
    fingerprint: str | None
    tasks: int
    first_at: str
    last_at: str
    error: str | None
    sample: str
    q: str
    trend: list[TrendPoint]


class FailuresView(TypedDict):
    """Dead tasks by cause, the most frequent first, and tasks that wait for their next attempt by their last error.

    Counted every few seconds; a period begins up to an hour before its name says.
    """

    period: str
    failures: list[CauseView]
    retrying: list[CauseView]


def failures(known: Failures, period: str, *, owner: str | None = None, type_name: str | None = None) -> FailuresView:
    """Raises InvalidInput for an unknown period or no name of a type, and DatabaseUnavailable."""
    if period not in PERIODS:
        raise InvalidInput("period", f"'{period[:64]}' is not a period; valid: {', '.join(PERIODS)}")
    if type_name is not None and not NAME.fullmatch(type_name):
        raise InvalidInput("type", f"'{type_name[:64]}' is not a type; valid: letters, digits, . _ - (64 at most)")
    since = begin(period)
    within = f" finished:>={iso(since)}" if since is not None else ""
    dead = known.causes(period, owner=owner, type_name=type_name)
    retrying = known.retrying(owner=owner, type_name=type_name)
    return {
        "period": period,
        "failures": [_view(cause, DEAD, within) for cause in dead],
        "retrying": [_view(cause, RETRYING, "") for cause in retrying],
    }


def died_within_an_hour(database: peewee.Database, owner: str | None) -> int:
    """How many tasks died within the last hour and are dead. Raises DatabaseUnavailable."""
    return Failures(database).count(utcnow() - dt.timedelta(hours=1), owner=owner)


def _view(cause: Cause, state: str, within: str) -> CauseView:
    same = f"fingerprint:{cause.fingerprint}" if cause.fingerprint else "-fingerprint:*"
    return {
        "type": cause.type,
        "fingerprint": cause.fingerprint or None,
        "tasks": cause.tasks,
        "first_at": iso(cause.first_at),
        "last_at": iso(cause.last_at),
        "error": cause.error,
        "sample": cause.sample,
        "q": f"state:{state} type:{cause.type} {same}{within}",
        "trend": [{"at": iso(at), "tasks": tasks} for at, tasks in cause.trend],
    }

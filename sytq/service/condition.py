"""Whether all is well: what the stores' states mean for whoever operates the service. Reads nothing itself.

`sytq doctor` and the overview of the dashboard say the same about the same state, as do readiness and the alert rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from sytq.broker.inspection import Unwritten, WorkerInfo
from sytq.broker.limiter_states import LimiterState
from sytq.durations import format_duration
from sytq.service import ledger_check
from sytq.service.finding import FAIL, OK, WARN, Finding
from sytq.service.mismatches import KINDS
from sytq.service.status import MismatchView, QueueView

_BEHIND_WARN, _BEHIND_FAIL = 5.0, 60.0
#: Seconds that the first task of a queue may wait, and the first suspect; as in etc/prometheus/sytq.rules.yaml.
_WAITS = 600.0
#: Limiters that are named one by one.
_NAMED = 3
#: Checks whose findings are of the whole installation: for callers with the scope admin.
FOR_ADMINS = frozenset({*KINDS, "unreadable"})


def problems(findings: Iterable[Finding]) -> list[Finding]:
    """The findings that are not ok, failures first."""
    return sorted((one for one in findings if one.verdict != OK), key=lambda one: one.verdict != FAIL)


def redis(state: str) -> Finding:
    """What readiness says of Redis."""
    if state == OK:
        return Finding("redis", OK, "answers")
    todo = "bring it back: tasks are accepted and wait in the database; see docs/runbook.md, Redis is down"
    return Finding("redis", FAIL, f"Redis {state}" if not state.startswith("Redis") else state, todo)


def database(state: str) -> Finding:
    """What readiness says of the database: whether a submission would be taken."""
    if state == ledger_check.OK:
        return Finding("database writes", OK, "a submission would be taken")
    todo = "see docs/runbook.md, The database is down, for what it says; until then no task is accepted"
    return Finding("database writes", FAIL, state, todo)


def hold(since: str) -> Iterator[Finding]:
    """`since` says since when, by whom and why; empty without a hold."""
    if since:
        todo = "`sytq hold show` says what would run, docs/runbook.md what to do; `sytq hold off` ends the hold"
        yield Finding("hold", WARN, f"the service is held {since}", todo)


def workers(known: Sequence[WorkerInfo], lease: float) -> Finding:
    alive = sum(worker.age <= lease for worker in known)
    lost = len(known) - alive
    if not alive:
        return Finding("workers", WARN, "no worker is alive: tasks are accepted and wait", "start `sytq worker`")
    if lost:
        todo = "check their logs: they vanished within the last hour without a shutdown; their tasks run elsewhere"
        return Finding("workers", WARN, f"{alive} alive, {lost} lost", todo)
    return Finding("workers", OK, f"{alive} alive")


def recorder(unwritten: Unwritten) -> Iterator[Finding]:
    """The events that are not in the ledger yet, and dead letters."""
    age = format_duration(round(unwritten.age, 1) if unwritten.age < 60 else round(unwritten.age))
    said = f"{unwritten.count} events wait, the oldest for {age}" if unwritten.count else "up to date"
    verdict = FAIL if unwritten.age > _BEHIND_FAIL else WARN if unwritten.age > _BEHIND_WARN else OK
    todo = "" if verdict == OK else "the recorder runs in a worker: check the worker's log, and the database"
    yield Finding("recorder", verdict, said, todo)
    if unwritten.set_aside:
        said = f"{unwritten.set_aside} messages or events could not be decoded or recorded"
        yield Finding("unreadable", WARN, said, "see `sytq dead unreadable`")


def processes(mismatches: Iterable[MismatchView]) -> Iterator[Finding]:
    for one in mismatches:
        yield Finding(one["kind"], WARN, one["message"], one["todo"])


def queues(found: Iterable[QueueView]) -> Iterator[Finding]:
    """Queues whose first task has waited for long, and paused types."""
    for queue in found:
        for level in queue["priorities"]:
            if (oldest := level["oldest_seconds"] or 0.0) > _WAITS:
                said = f"tasks wait in the queue {queue['queue']} ({level['priority']}), the first for "
                said += f"{oldest / 60:.0f} minutes"
                yield Finding("queues", WARN, said, "start more workers, or see what holds up those that run")
        for name in queue["paused"]:
            count = queue["set_aside"]
            tasks = "task of the queue is" if count == 1 else "tasks of the queue are"
            aside = f", {count:,} {tasks} set aside" if count else ""
            yield Finding("types", WARN, f"the type {name} is paused{aside}", "resume it when its reason is gone")


def limiters(found: Iterable[LimiterState]) -> Iterator[Finding]:
    """Paused limiters and open circuit breakers."""
    own = [one for one in found if not (one.state == "paused" and one.name.startswith("type:"))]  # `queues` names these
    kept = [one for one in own if one.state in ("paused", "open")]
    for one in kept[:_NAMED]:
        what = "is paused" if one.state == "paused" else "has an open circuit breaker"
        why = f": {one.reason}" if one.reason else ""
        waiting = f", {one.waiting:,} {'task waits' if one.waiting == 1 else 'tasks wait'}" if one.waiting else ""
        yield Finding("limiters", WARN, f"{one.name} {what}{waiting}{why}", "resume it when its reason is gone")
    if len(kept) > _NAMED:
        said = f"{len(kept) - _NAMED} more limiters are paused or have an open circuit breaker"
        yield Finding("limiters", WARN, said, "see what they share: a provider, a host, a network")


def dead(count: int) -> Iterator[Finding]:
    """The tasks that died within the last hour and are dead."""
    if count:
        said = f"{count:,} {'task' if count == 1 else 'tasks'} died within the last hour"
        yield Finding("dead", WARN, said, "see their causes, and retry them when these are mended")

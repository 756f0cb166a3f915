"""What must hold after a storm, whatever happened in it; and what the logs said."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator

from sytq.states import TERMINAL
from tests.faults.storm.clients import Accepted, Clients
from tests.faults.storm.service import LEASE, LIMIT, Service

#: Seconds after the last fault until all that was accepted has ended.
CALM = 180.0
_UNFINISHED = "SELECT id, type, state FROM sytq_tasks WHERE state NOT IN ({}) AND created_at < %s".format(
    ", ".join(f"'{state}'" for state in sorted(TERMINAL))
)


def wait_until_calm(service: Service) -> list[str]:
    """Wait until every task has ended; return those that have not."""
    [(now,)] = service.installation.rows("SELECT UTC_TIMESTAMP(6)")
    until = time.monotonic() + CALM
    while unfinished := service.installation.rows(_UNFINISHED, now):
        if time.monotonic() > until:
            return [f"{type_name} {id} is {state} after {CALM:g} s of calm" for id, type_name, state in unfinished]
        time.sleep(0.5)
    return []


def problems(service: Service, clients: Clients) -> Iterator[str]:
    yield from clients.unexpected
    yield from _ends(service, clients.accepted)
    yield from _callbacks(service, clients.accepted)
    yield from _paid(service, clients.accepted)
    yield from _limits(service)


def _ends(service: Service, accepted: list[Accepted]) -> Iterator[str]:
    states = {
        id: (state, error) for id, state, error in service.installation.rows("SELECT id, state, error FROM sytq_tasks")
    }
    for task in accepted:
        state, error = states.get(task.id, ("lost", "there is no row"))
        if state != "succeeded":  # nothing in a storm is a task's own fault
            yield f"{task.kind} {task.id} is {state}: {error}"


def _callbacks(service: Service, accepted: list[Accepted]) -> Iterator[str]:
    bodies: dict[str, set[bytes]] = defaultdict(set)
    arrived: Counter[int] = Counter()
    for request in list(service.receiver.received):
        bodies[request.headers["webhook-id"]].add(request.body)
        arrived[int(request.path.rpartition("/")[2])] += 1
    for id, different in bodies.items():
        if len(different) > 1:
            yield f"{len(different)} bodies with the id {id}: {sorted(different)}"
    for task in accepted:
        if task.kind in ("llm", "webhook") and not arrived[task.number]:
            yield f"{task.kind} {task.id}: nothing arrived at {task.number}"


def _paid(service: Service, accepted: list[Accepted]) -> Iterator[str]:
    """P4: an answer is paid for again only where a kill or a long pause hit its worker, and that is recorded."""
    interrupted: Counter[str] = Counter()
    for id, times in service.installation.rows("SELECT task_id, interrupted FROM sytq_steps WHERE name = 'node-0'"):
        interrupted[id] += times
    tasks = {task.number: task.id for task in accepted if task.kind == "llm"}
    calls = defaultdict(list)
    for call in service.provider.calls:
        if call.answered is not None:
            calls[call.row].append(call)
    for row, answered in calls.items():
        for call, again in itertools.pairwise(answered):
            if not any(event.excuses_call(call.group, call.began, again.began, LEASE) for event in service.events.all):
                yield (
                    f"row {row} ({tasks.get(row)}) paid twice: {call.group} at {service.events.at(call.began)}, "
                    f"{again.group} at {service.events.at(again.began)}; {service.events.near(again.began, 10)}"
                )
        if row in tasks and len(answered) - 1 > interrupted[tasks[row]]:
            yield f"row {row} ({tasks[row]}): {len(answered)} answers, interrupted {interrupted[tasks[row]]} times"


def _limits(service: Service) -> Iterator[str]:
    """Calls of a worker that is stopped or cut off go on while others have its permits; a kill ends them."""
    for moment, running in service.provider.above:
        excused = any(
            event.members and event.began < moment < event.ended + 10 and event.ended - event.began > LEASE
            for event in service.events.all
        )
        if not excused:
            at, near = service.events.at(moment), service.events.near(moment, 10)
            yield f"{running} calls at the provider at {at}, limit {LIMIT}: {near}"


def figures(service: Service, clients: Clients) -> str:
    calls = Counter(call.row for call in service.provider.calls if call.answered is not None)
    twice = sum(number > 1 for number in calls.values())
    kinds = Counter(task.kind for task in clients.accepted)
    return (
        f"{len(service.events.all)} faults, accepted {dict(kinds)}, answers of the API {dict(clients.statuses)}\n"
        f"{sum(calls.values())} answers paid for {len(calls)} rows, {twice} rows more than once; "
        f"{len(service.provider.above)} calls above the limit; {len(service.receiver.received)} requests received"
    )


def warnings(service: Service) -> list[str]:
    """What was logged from WARNING on, the most frequent first, with one text of each."""
    seen: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], str] = {}
    for name, text in service.logs().items():
        for line in text.splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                entry = {"level": "plain", "msg": line[:60]}
            if entry["level"] not in ("debug", "info"):
                key = (entry["level"], entry["msg"] + (" (traceback)" if "exception" in entry else ""))
                seen[key] += 1
                more = {k: v for k, v in entry.items() if k in ("error", "reason", "exception", "loop", "type")}
                examples.setdefault(key, f"{name}: {str(more)[-400:]}")
    return [f"{number:5} {level:8} {msg}   e.g. {examples[level, msg]}" for (level, msg), number in seen.most_common()]

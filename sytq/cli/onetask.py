"""One task as the commands show it: the ledger's row, what Redis knows newer, and its history as a timeline.

Owns its fields in JSON and its lines for a person. Must not change a task.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Sequence
from typing import Any

import typer

from sytq.broker.inspection import Live
from sytq.cli.shown import as_json, cell, iso
from sytq.errors import InvalidInput, RedisUnavailable
from sytq.models import Attempt, Step, Task
from sytq.runtime import Runtime
from sytq.states import TERMINAL, UNFINISHED


def found_task(parts: Runtime, task_id: str) -> Task:
    """A task's row. Raises InvalidInput."""
    task = parts.ledger.get(task_id)
    if task is None:
        raise InvalidInput("id", f"there is no task '{cell(task_id[:64])}'")
    return task


def newer(parts: Runtime, tasks: Sequence[Task]) -> dict[str, Live]:
    """What Redis knows of tasks that have not ended by their rows; says so when it does not answer."""
    rows = {task.id: task for task in tasks if task.state not in TERMINAL}
    try:
        live = parts.inspection.live(list(rows))
    except RedisUnavailable as error:
        typer.echo(f"warning: {error}; this is what the ledger knows", err=True)
        return {}
    return {task_id: seen for task_id, seen in live.items() if seen.token >= rows[task_id].token}


def described(parts: Runtime, task: Task, live: Live | None) -> dict[str, Any]:
    """A task without its payload, result and history."""
    declared = parts.registry.get(task.type) if task.type in parts.registry else None
    state = live.state if live else task.state
    progress = live.progress if live and live.progress else _parsed(task.progress)
    return {
        "id": task.id,
        "type": task.type,
        "queue": task.queue or (declared.queue if declared else "default"),
        "priority": task.priority or (declared.priority if declared else "normal"),
        "state": state,
        "attempts": live.attempts if live else task.attempts,
        "max_attempts": task.max_attempts,
        "worker": live.worker if live else task.worker,
        "progress": progress,
        "error": task.error,
        "owner": task.owner,
        "host": task.host,
        "parent": task.parent,
        "created_at": iso(task.created_at),
        "scheduled_at": iso(task.scheduled_at),
        "started_at": iso(task.started_at),
        "finished_at": iso(task.finished_at),
        "revived_at": iso(task.revived_at),
    }


def print_task(parts: Runtime, task: Task, *, payload: bool, json_wanted: bool) -> None:
    """All that is known of a task; `payload=False` leaves out what was submitted and what came of it."""
    live = newer(parts, [task]).get(task.id)
    attempts, steps = parts.ledger.attempts(task.id), parts.ledger.steps(task.id)
    shown = described(parts, task, live)
    shown["set_aside"] = live is not None and live.parked
    shown["cancelled_by"] = parts.inspection.cancels([task.id]).get(task.id) if live else None
    contents = {"payload": _parsed(task.payload), "result": _parsed(task.result)}
    if json_wanted:
        shown |= contents if payload else {}
        shown["attempts_made"] = [_attempt(attempt) for attempt in attempts]
        shown["steps"] = [_step(step, payload) for step in steps]
        as_json(shown)
        return
    notes = [" (set aside: its type is paused)" if shown["set_aside"] else ""]
    notes += [f" (to be cancelled, by {shown['cancelled_by']})" if shown["cancelled_by"] else ""]
    lines: dict[str, object] = {"id": task.id, "type": task.type, "queue": f"{shown['queue']}, {shown['priority']}"}
    lines["state"] = shown["state"] + "".join(notes)
    lines["attempts"] = f"{shown['attempts']} of {task.max_attempts}" if task.max_attempts else shown["attempts"]
    if shown["state"] in UNFINISHED:
        lines |= {"worker": shown["worker"], "due": shown["scheduled_at"]}
    lines |= {"error": task.error, "parent": task.parent, "progress": _text(shown["progress"])}
    if payload:
        lines |= {name: _text(value) for name, value in contents.items()}
    for name, value in lines.items():
        if value not in (None, ""):
            typer.echo(f"{name:<10}{cell(value)}")
    typer.echo("")
    for at, said in sorted(_timeline(task, attempts, steps), key=lambda entry: entry[0]):
        typer.echo(f"{iso(at)}  {cell(said)}")


def _timeline(task: Task, attempts: list[Attempt], steps: list[Step]) -> Iterator[tuple[dt.datetime, str]]:
    yield task.created_at, "accepted"
    if task.revived_at:
        yield task.revived_at, "replayed"
    for attempt in attempts:
        if attempt.started_at:
            yield attempt.started_at, f"attempt {attempt.attempt} started on {attempt.worker}"
        if attempt.finished_at:
            why = f": {attempt.error}" if attempt.error else ""
            yield attempt.finished_at, f"attempt {attempt.attempt} ended, {attempt.outcome}{why}"
            if attempt.detail:
                yield attempt.finished_at, f"attempt {attempt.attempt} details: {attempt.detail}"
    for step in steps:
        again = f", interrupted {step.interrupted} times" if step.interrupted else ""
        yield step.started_at, f"step {step.name} started{again}"
        if step.finished_at:
            yield step.finished_at, f"step {step.name} done"
    if task.finished_at:
        yield task.finished_at, task.state


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "attempt": attempt.attempt,
        "outcome": attempt.outcome,
        "worker": attempt.worker,
        "error": attempt.error,
        "started_at": iso(attempt.started_at),
        "finished_at": iso(attempt.finished_at),
        "next_at": iso(attempt.next_at),
        "detail": _parsed(attempt.detail),
    }


def _step(step: Step, payload: bool) -> dict[str, Any]:
    shown = {
        "name": step.name,
        "state": step.state,
        "interrupted": step.interrupted,
        "started_at": iso(step.started_at),
        "finished_at": iso(step.finished_at),
    }
    return shown | ({"value": _parsed(step.value)} if payload else {})


def _text(value: object) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)


def _parsed(text: str | None) -> Any:
    """JSON text of the ledger; a row that another language inserted may hold anything."""
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text

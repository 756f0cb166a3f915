"""Prints one task: its row, newer state from Redis, and its timeline. Changes nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

import typer

from sytq.broker.state_index import Live
from sytq.cli.output import as_json, cell, table
from sytq.errors import InvalidInput, RedisUnavailable
from sytq.ledger.models import Task
from sytq.runtime import Runtime
from sytq.service import live_state
from sytq.service.task_timeline import summary
from sytq.service.task_view import TaskDetail, task_detail
from sytq.service.tree import Tree
from sytq.states import RETRYING, UNFINISHED


def found_task(parts: Runtime, task_id: str) -> Task:
    """A task's row. Raises InvalidInput when there is none."""
    task = parts.ledger.get(task_id)
    if task is None:
        raise InvalidInput("id", f"there is no task '{cell(task_id[:64])}'")
    return task


def newer(parts: Runtime, tasks: Sequence[Task]) -> dict[str, Live]:
    """The live state of tasks that are unfinished by their rows; empty, with a warning, while Redis is unavailable."""
    try:
        return live_state.newer(parts.inspection, tasks)
    except RedisUnavailable as error:
        typer.echo(f"warning: {error}; showing the database alone", err=True)
        return {}


def task_json(parts: Runtime, task: Task, *, payload: bool = True) -> TaskDetail:
    """A task for programs; `payload=False` leaves out payload, result and the steps' results."""
    live = newer(parts, [task]).get(task.id)
    asked = parts.inspection.cancels([task.id]).get(task.id) if live else None
    limiter = parts.inspection.waits_for(task.id) if live and live.state == RETRYING else None
    history = parts.ledger.histories([task.id])[task.id]
    return task_detail(task, parts.registry, live, asked, history, limiter=limiter, contents=payload)


def print_task(parts: Runtime, task: Task, *, payload: bool, json_wanted: bool) -> None:
    """Print a task for a person, or as one line of JSON."""
    shown = task_json(parts, task, payload=payload)
    if json_wanted:
        as_json(shown)
        return
    notes = " (set aside: its type is paused)" if shown["set_aside"] else ""
    notes += " (suspected of killing its worker: waits to run alone)" if shown["suspect"] else ""
    notes += f" (cancellation requested by {shown['cancelled_by']})" if shown["cancelled_by"] else ""
    notes += " (waits for its dependencies: see `sytq tasks tree`)" if shown["held"] else ""
    lines: dict[str, object] = {"id": task.id, "type": task.type, "queue": f"{shown['queue']}, {shown['priority']}"}
    lines["state"] = shown["state"] + notes
    lines["attempts"] = f"{shown['attempts']} of {task.max_attempts}" if task.max_attempts else shown["attempts"]
    if shown["state"] in UNFINISHED:
        lines |= {"worker": shown["worker"], "due": shown["scheduled_at"]}
    why = shown["explanation"]
    lines |= {"error": task.error, "means": f"{why['text']} (docs/{why['docs']})" if why else None}
    lines |= {"parent": task.parent, "request": task.request_id}
    lines |= {"metadata": _text(shown["metadata"]), "progress": _text(shown["progress"])}
    lines["spent"] = summary(shown["spans"])
    for name, said in shown.get("shown", {}).items():
        lines.setdefault(name, said)
    if payload:
        lines |= {"payload": _text(shown["payload"]), "result": _text(shown["result"])}
    for name, value in lines.items():
        if value not in (None, ""):
            typer.echo(f"{name:<9} {cell(value)}")
    typer.echo("")
    for moment in shown["timeline"]:
        typer.echo(f"{moment['at']}  {cell(moment['event'])}")


def print_tree(found: Tree) -> None:
    """Print a task and its descendants, each indented below its parent."""
    rows = []
    shown = Counter(node["parent"] for node in found["tasks"])
    for node in found["tasks"]:
        notes = [node["error"]] if node["error"] else []
        if node["held"] and node["after"]:
            notes.append(f"waits for dependencies: {node['after']['ended']} of {node['after']['tasks']} ended")
        if (missing := sum(node["children"].values()) - shown[node["id"]]) > 0:
            notes.append(f"{missing} more below it")
        rows.append((f"{'  ' * node['depth']}{node['type']}", node["state"], node["id"], "; ".join(notes)))
    table(("task", "state", "id", "notes"), rows)


def _text(value: object) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)

"""`sytq queues`: what waits, runs and is delayed now, as Redis knows it.

Owns the words. The numbers are sytq.broker.inspection's; limits are the configuration's.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from sytq.cli.given import After, AsJson, File, Limit, open_runtime
from sytq.cli.shown import age, as_json, iso, more, table

app = typer.Typer(help="Show queues, and what runs and is delayed in them.", no_args_is_help=True)

Queue = Annotated[str | None, typer.Option("--queue", "-q", help="Only this queue.")]


@app.command("list")
def list_(json_wanted: AsJson = False, file: File = None) -> None:
    """Show every queue by priority, with its limits."""
    parts = open_runtime(file)
    depths = parts.inspection.queues()
    delayed, parked = parts.inspection.delayed(), parts.inspection.parked()
    queues: dict[str, dict[str, Any]] = {}
    for depth in depths:
        limits = parts.settings.queues.get(depth.queue)
        queue = queues.setdefault(
            depth.queue,
            {
                "queue": depth.queue,
                "delayed": delayed[depth.queue],
                "set_aside": parked[depth.queue],
                "limit": limits.limit if limits else None,
                "rate": limits.model_dump(mode="json")["rate"] if limits else None,
                "priorities": [],
            },
        )
        queue["priorities"].append(
            {
                "priority": depth.priority,
                "waiting": depth.waiting,
                "running": depth.running,
                "oldest_seconds": depth.oldest,
            }
        )
    if json_wanted:
        as_json(list(queues.values()))
        return
    rows = []
    for queue in queues.values():
        whole = [queue["queue"], queue["delayed"] or None, queue["set_aside"] or None, queue["limit"], queue["rate"]]
        for level in queue["priorities"]:
            name, *rest = whole
            oldest = age(level["oldest_seconds"])
            rows.append((name, level["priority"], level["waiting"], level["running"], oldest, *rest))
            whole = [None] * len(whole)  # said once a queue
    table(("queue", "priority", "waiting", "running", "oldest", "delayed", "set aside", "limit", "rate"), rows)


@app.command()
def running(
    queue: Queue = None, limit: Limit = 100, after: After = None, json_wanted: AsJson = False, file: File = None
) -> None:
    """Show what workers hold now, with the worker and for how long."""
    page = open_runtime(file).inspection.running(queue=queue, limit=limit, after=after)
    if json_wanted:
        as_json({"tasks": [asdict(task) for task in page.items], "next": page.next})
        return
    rows = [
        (
            task.id,
            task.type,
            task.queue,
            task.priority,
            task.attempts,
            age(task.seconds),
            age(task.worker_age) or "gone",
            task.worker + (f" (to be cancelled, by {task.cancelled_by})" if task.cancelled_by else ""),
        )
        for task in page.items
    ]
    table(("id", "type", "queue", "priority", "attempt", "running", "heartbeat", "worker"), rows)
    more(page.next)


@app.command()
def delayed(
    queue: Queue = None, limit: Limit = 100, after: After = None, json_wanted: AsJson = False, file: File = None
) -> None:
    """Show what waits for its time or its next attempt, the next due first."""
    page = open_runtime(file).inspection.delayed_tasks(queue=queue, limit=limit, after=after)
    if json_wanted:
        found = [{**asdict(task), "due": iso(task.due)} for task in page.items]
        as_json({"tasks": found, "next": page.next})
        return
    rows = [
        (task.id, task.type, task.queue, task.priority, task.state, task.attempts, iso(task.due)) for task in page.items
    ]
    table(("id", "type", "queue", "priority", "state", "attempts", "due"), rows)
    more(page.next)

"""`sytq queues`: the waiting, running and delayed tasks, as Redis knows them now."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from sytq.cli.options import After, AsJson, File, Limit, open_runtime
from sytq.cli.output import age, listing
from sytq.ledger.values import iso
from sytq.service import status

app = typer.Typer(no_args_is_help=True)

Queue = Annotated[str | None, typer.Option("--queue", "-q", help="Only this queue.")]


@app.command("list")
def list_(json_wanted: AsJson = False, file: File = None) -> None:
    """List all queues by priority, with their limits."""
    parts = open_runtime(file)
    found = status.queues(parts.inspection, parts.registry, parts.settings.queue_limits)
    rows = []
    for queue in found:
        counts = queue["delayed"] or None, queue["set_aside"] or None, queue["suspects"] or None
        whole: list[object] = [queue["queue"], *counts, queue["limit"], queue["rate"]]
        for level in queue["priorities"]:
            name, *rest = whole
            oldest = age(level["oldest_seconds"])
            rows.append((name, level["priority"], level["waiting"], level["running"], oldest, *rest))
            whole = [None] * len(whole)  # printed once per queue
    columns = ("queue", "priority", "waiting", "running", "oldest", "delayed", "set aside", "suspects", "limit", "rate")
    listing(json_wanted, found, columns, rows)


@app.command()
def running(
    queue: Queue = None, limit: Limit = 100, after: After = None, json_wanted: AsJson = False, file: File = None
) -> None:
    """List running tasks with their worker and how long they have run."""
    page = open_runtime(file).inspection.running(queue=queue, limit=limit, after=after)
    rows = []
    for task in page.items:
        worker = task.worker + (f" (cancellation requested by {task.cancelled_by})" if task.cancelled_by else "")
        ages = age(task.seconds), age(task.worker_age) or "gone"
        rows.append((task.id, task.type, task.queue, task.priority, task.attempts, *ages, worker))
    found = {"tasks": [asdict(task) for task in page.items], "next": page.next}
    columns = ("id", "type", "queue", "priority", "attempt", "running", "heartbeat", "worker")
    listing(json_wanted, found, columns, rows, page.next)


@app.command()
def delayed(
    queue: Queue = None, limit: Limit = 100, after: After = None, json_wanted: AsJson = False, file: File = None
) -> None:
    """List scheduled and retrying tasks, next due first."""
    page = open_runtime(file).inspection.delayed_tasks(queue=queue, limit=limit, after=after)
    rows = [
        (task.id, task.type, task.queue, task.priority, task.state, task.attempts, iso(task.due)) for task in page.items
    ]
    found = {"tasks": [{**asdict(task), "due": iso(task.due)} for task in page.items], "next": page.next}
    listing(json_wanted, found, ("id", "type", "queue", "priority", "state", "attempts", "due"), rows, page.next)

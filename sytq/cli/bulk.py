"""`sytq bulk`, shared by `sytq dead`: one change to all tasks that match a query, made by a worker's task.

A query with an unknown type or id changes nothing.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from sytq.cli.noted import noted
from sytq.cli.options import VALID_MOMENT, AsJson, File, Why, ahead, open_runtime, refuse_unknown, signed
from sytq.cli.output import as_json, cell, report
from sytq.cli.wait import follow
from sytq.errors import InvalidInput
from sytq.ledger.query import Filter
from sytq.ledger.search import Search
from sytq.runtime import Runtime
from sytq.service import bulk as operations
from sytq.states import SUCCEEDED

Detach = Annotated[bool, typer.Option("--detach", help="Print the operation's id and return without waiting.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count the matching tasks; change nothing.")]

#: action -> its past participle, and the reason why matching tasks may stay unchanged.
_WORDS = {
    "cancel": ("cancelled", "they ended in the meantime"),
    "retry": ("retried", "unfinished tasks have their unique keys, or they have changed in the meantime"),
    "reschedule": ("rescheduled", "they are no longer scheduled or retrying"),
    "delete": ("deleted", "they have changed in the meantime"),
}


def _action(text: str) -> str:
    if text in _WORDS:
        return text
    raise typer.BadParameter(f"'{text[:64]}' is not an action; valid: {', '.join(_WORDS)}")


def bulk(
    action: Annotated[str, typer.Argument(parser=_action, metavar="ACTION", help="One of: " + ", ".join(_WORDS) + ".")],
    query: Annotated[str, typer.Argument(metavar="QUERY", help="The tasks to change, such as 'type:webhook age:<1h'.")],
    to: Annotated[
        dt.datetime | None,
        typer.Option("--to", parser=ahead, metavar="WHEN", help=f"The new time, for reschedule: {VALID_MOMENT}."),
    ] = None,
    why: Why = "",
    dry_run: DryRun = False,
    detach: Detach = False,
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Cancel, retry, reschedule or delete all tasks that match a query, and print their number.

    A worker does the work; Ctrl-C only stops waiting for it, and says how far it is.
    """
    if (to is None) == (action == "reschedule"):
        raise typer.BadParameter("--to is required for reschedule and not valid otherwise")
    parts = open_runtime(file)
    operate(parts, action, query, to=to, why=why, dry_run=dry_run, detach=detach, json_wanted=json_wanted)


def operate(
    parts: Runtime,
    action: str,
    query: str,
    *,
    to: dt.datetime | None = None,
    why: str = "",
    done: str | None = None,
    dry_run: bool,
    detach: bool,
    json_wanted: bool,
) -> None:
    """Apply `action` to all matching tasks; `done` replaces its participle in the output. Exits 1 on failure."""
    usual, left = _WORDS[action]
    done = done or usual
    history = Search(parts.database)
    now = history.now()
    payload = operations.description(action, query, now, signed(why), to)
    wanted = operations.targets(action, query, now)
    _refuse_mistakes(parts, history, wanted)
    if dry_run:
        matched = history.count(wanted, seconds=math.inf).number
        counted = {"operation": None, "matched": matched, done: 0, "dry_run": True}
        report(json_wanted, counted, f"{matched} would be {done}")
        return
    task = parts.submitter.prepare(parts.registry.of_role("operation").name, payload)
    parts.submitter.submit([task])
    noted(parts, f"bulk.{action}", task.id, query)
    hint = f"It continues without this command: `sytq wait {task.id}` follows it, `sytq cancel {task.id}` stops it."
    if detach:
        if json_wanted:
            as_json({"operation": task.id})
        else:
            typer.echo(task.id)
            typer.echo(hint, err=True)
        return
    progress: dict[str, Any] = {}

    def reached(new: Mapping[str, Any]) -> None:
        if json_wanted and new != progress and new["done"] < (new["of"] or 0):
            as_json({"operation": task.id, "progress": new})
        progress.update(new)

    try:
        row = follow(parts, [task.id], None, reached)[task.id]
    except KeyboardInterrupt:
        far = f"{progress['done']} of {progress['of']} tasks done, {progress['text']}. " if progress else ""
        typer.echo(f"\n{far}{hint}", err=True)
        raise typer.Exit(130) from None
    if row.state != SUCCEEDED:
        typer.echo(f"sytq: the operation {task.id} is {row.state}: {row.error}", err=True)
        raise typer.Exit(1)
    result = json.loads(row.result or "{}")
    if json_wanted:
        as_json({"operation": task.id, "matched": result["matched"], done: result["changed"], "dry_run": False})
        return
    typer.echo(f"{result['changed']} {done}")
    if result["unchanged"]:
        typer.echo(f"{result['unchanged']} unchanged: {left}", err=True)


def _refuse_mistakes(parts: Runtime, history: Search, wanted: Filter) -> None:
    """Raise InvalidInput when the query names a type or an id that does not exist."""
    if wanted.named("type"):
        page = history.page(wanted, limit=1)
        if not page.tasks and page.next is None:
            refuse_unknown(parts, wanted)
    if ids := wanted.named("id"):
        found = set(history.matching(wanted, ids))
        for task_id in ids:
            if task_id not in found:
                raise InvalidInput("id", f"there is no matching task '{cell(task_id[:64])}'; nothing was changed")

"""`sytq ls` and `sytq dead list`: a page of tasks that match a query."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any

import typer
from rich.console import Console

from sytq.cli.options import After, AsJson, File, Limit, Query, open_runtime, refuse_unknown
from sytq.cli.output import age, listing
from sytq.ledger.query import Filter
from sytq.ledger.search import Search, TaskPage
from sytq.ledger.values import iso, utcnow
from sytq.service.task_view import task_view


def lister(doc: str, read: Callable[[str], Filter], columns: Mapping[str, str]) -> Callable[..., None]:
    """Make a list command; `read` turns the query into a filter. `columns` are title -> field of a task's view."""

    def command(
        query: Query = "", limit: Limit = 20, after: After = None, json_wanted: AsJson = False, file: File = None
    ) -> None:
        parts = open_runtime(file)
        wanted = read(query)
        page = _found(Search(parts.database), wanted, limit, after)
        if not page.tasks and page.next is None:
            refuse_unknown(parts, wanted)
        found = [task_view(task, parts.registry) for task in page.tasks]
        rows = [[_cell(view, field) for field in columns.values()] for view in found]
        listing(json_wanted, {"tasks": found, "next": page.next}, list(columns), rows, page.next)
        if page.searched_to is not None:
            typer.echo(f"Stopped: older tasks than {iso(page.searched_to)} were not looked at.", err=True)

    command.__doc__ = doc
    return command


def _found(search: Search, wanted: Filter, limit: int, after: str | None) -> TaskPage:
    """Search until the page is full or nothing is left; Ctrl-C ends it with what was found until then."""
    page = search.page(wanted, limit=limit, after=after)
    if page.searched_to is None:
        return page
    with Console(stderr=True).status("") as status, contextlib.suppress(KeyboardInterrupt):
        while page.searched_to is not None:
            status.update(f"{len(page.tasks)} found back to {iso(page.searched_to)}; Ctrl-C shows them")
            more = search.page(wanted, limit=limit - len(page.tasks), after=page.next)
            page = TaskPage(page.tasks + more.tasks, more.next, more.searched_to)
    return page


def _cell(view: Mapping[str, Any], field: str) -> Any:
    return since(view[field]) if field.endswith("_at") else view[field]


def since(moment: str | None) -> str | None:
    """How long ago a moment of a task's view was."""
    if moment is None:
        return None
    then = dt.datetime.fromisoformat(moment).replace(tzinfo=None)
    return age(max(0.0, (utcnow() - then).total_seconds()))

"""`sytq ls` and `sytq dead list`: a page of tasks that match a query."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping

from sytq.cli.options import After, AsJson, File, Limit, Query, open_runtime, refuse_unknown
from sytq.cli.output import age, listing
from sytq.ledger.query import Filter
from sytq.ledger.search import Search
from sytq.ledger.values import utcnow
from sytq.service.task_view import TaskView, task_view

Columns = Mapping[str, Callable[[TaskView], object]]


def lister(doc: str, read: Callable[[str], Filter], columns: Columns) -> Callable[..., None]:
    """Make a list command; `read` turns the query into a filter."""

    def command(
        query: Query = "", limit: Limit = 20, after: After = None, json_wanted: AsJson = False, file: File = None
    ) -> None:
        parts = open_runtime(file)
        wanted = read(query)
        page = Search(parts.database).page(wanted, limit=limit, after=after)
        if not page.tasks:
            refuse_unknown(parts, wanted)
        found = [task_view(task, parts.registry) for task in page.tasks]
        rows = [[column(task) for column in columns.values()] for task in found]
        listing(json_wanted, {"tasks": found, "next": page.next}, list(columns), rows, page.next)

    command.__doc__ = doc
    return command


def since(moment: str | None) -> str | None:
    """How long ago a moment of a task's view was."""
    if moment is None:
        return None
    then = dt.datetime.fromisoformat(moment).replace(tzinfo=None)
    return age(max(0.0, (utcnow() - then).total_seconds()))

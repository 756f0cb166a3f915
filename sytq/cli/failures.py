"""`sytq failures`: dead tasks by cause."""

from __future__ import annotations

from typing import Annotated

import typer

from sytq.cli.options import AsJson, File, OnlyType, open_runtime
from sytq.cli.output import listing
from sytq.cli.task_list import since
from sytq.ledger.failures import Failures
from sytq.service import failures as service


def failures(
    period: Annotated[str, typer.Option("--period", help="What died within: hour, day, week or all.")] = "day",
    type_name: OnlyType = None,
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Group dead tasks by cause, the most frequent first; `sytq dead replay` takes a group's query."""
    parts = open_runtime(file)
    if type_name is not None:
        parts.registry.get(type_name)
    found = service.failures(Failures(parts.database), period, type_name=type_name)
    titles = ("tasks", "type", "first", "last", "error", "query")
    rows = [
        (one["tasks"], one["type"], since(one["first_at"]), since(one["last_at"]), one["error"], one["q"])
        for one in (*found["failures"], *found["retrying"])
    ]
    listing(json_wanted, found, titles, rows)

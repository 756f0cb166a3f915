"""`sytq spend`: the cost of provider calls."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from sytq.cli.options import AsJson, File, Limit, ago, open_runtime
from sytq.cli.output import as_json, table

from . import spend as ledger
from .config import LlmSettings

_NUMBERS = {"prompt": "prompt", "cached": "cached", "completion": "answer", "reasoning": "reasoning"}


def spend(
    by: Annotated[
        Literal["day", "provider", "model", "type", "owner", "table", "row", "task"],
        typer.Option("--by", help="Group the sums by this."),
    ] = "day",
    since: Annotated[
        str | None, typer.Option("--since", metavar="WHEN", help="Only calls of that UTC day and later.")
    ] = None,
    task_id: Annotated[str | None, typer.Option("--task", metavar="ID", help="Only calls of this task.")] = None,
    limit: Limit = 100,
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Show calls, tokens and cost of providers: days in order, other groups costliest first."""
    parts = open_runtime(file)
    start = ago(since).date() if since else None
    rows = ledger.summary(parts.database, by, since=start, task_id=task_id, limit=limit)
    currency = parts.settings.of(LlmSettings).llm.currency
    if json_wanted:
        as_json({"currency": currency, "by": by, "sums": rows})
        return
    columns = (*ledger.GROUPS[by], "calls", *_NUMBERS, "cost", "unknown")
    titles = (*ledger.GROUPS[by], "calls", *_NUMBERS.values(), currency, "calls of unknown cost")
    table(titles, ([row[column] for column in columns] for row in rows))

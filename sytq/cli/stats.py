"""`sytq stats`: counts and durations of the tasks of a period, by type."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any

import typer
from rich.progress import SpinnerColumn, TextColumn

from sytq.cli.options import AsJson, File, OnlyType, ago, open_runtime
from sytq.cli.output import age, listing, progress_bar
from sytq.ledger import statistics
from sytq.ledger.search import Search
from sytq.ledger.values import iso

_VALID = "a duration back from now such as 24h, or a time with its UTC offset."


def stats(
    since: Annotated[
        dt.datetime | None, typer.Option("--since", parser=ago, metavar="WHEN", help=f"Begin: {_VALID} Default: 1h.")
    ] = None,
    until: Annotated[
        dt.datetime | None, typer.Option("--until", parser=ago, metavar="WHEN", help=f"End: {_VALID} Default: now.")
    ] = None,
    type_name: OnlyType = None,
    json_wanted: AsJson = False,
    file: File = None,
) -> None:
    """Count the tasks of a period by type, and show how long they waited and ran."""
    parts = open_runtime(file)
    if type_name is not None:
        parts.registry.get(type_name)
    now = Search(parts.database).now()  # the database's clock, as in the tasks
    end = until.replace(tzinfo=None) if until else now
    start = since.replace(tzinfo=None) if since else end - dt.timedelta(hours=1)
    seconds = (end - start).total_seconds()
    if seconds <= 0:
        raise typer.BadParameter("the period begins after its end", param_hint="--since")
    with progress_bar(SpinnerColumn(), TextColumn("{task.completed} tasks counted")) as bar:
        shown = bar.add_task("")
        found = statistics.of_period(
            parts.database, start, end, type_name, lambda count: bar.update(shown, completed=count)
        )
    by_type = {name: one.as_json(seconds) for name, one in sorted(found.items())}
    whole = statistics.total(found.values()).as_json(seconds)
    counts = ("accepted", "succeeded", "dead", "cancelled", "retries")
    times = ("waited_p50", "waited_p95", "ran_p50", "ran_p95", "took_p99")

    def row(name: str, one: dict[str, Any]) -> list[object]:
        ended, took = (one[key] or None for key in counts), (age(one[key]) for key in times)
        return [name, *ended, f"{one['per_minute']:g}", *took]

    rows = [row(name, one) for name, one in by_type.items()]
    titles = ("type", *counts, "ends/min", *(key.replace("_", " ") for key in times))
    answer = {"since": iso(start), "until": iso(end), "types": by_type, "total": whole}
    listing(json_wanted, answer, titles, [*rows, row("(all)", whole)])

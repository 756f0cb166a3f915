"""Task type `report`: what was done in a period, as files for people and programs."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from sytq import Context, task
from sytq.config import Section
from sytq.durations import Duration

from ..email.message import Mailbox
from .figures import SPEND_COLUMNS, TASK_COLUMNS, Figures, count
from .page import page

Format = Literal["csv", "json", "html"]


class Report(BaseModel):
    """A period: from `since` to `until`, or `last` before `until`, which defaults to the time of submission."""

    model_config = ConfigDict(extra="forbid")

    last: Annotated[Duration, Field(gt=0)] = 86400.0
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    formats: list[Format] = Field(default=["csv", "json", "html"], min_length=1)
    email: list[Mailbox] = Field(default=[], max_length=100)

    @model_validator(mode="after")
    def _in_order(self) -> Report:
        if self.since and self.until and self.since >= self.until:
            raise ValueError("since must be before until")
        return self


class Config(Section):
    """`types.report`."""

    folder: Path = Path("reports")


@task("report", payload=Report, config=Config, admin_only=True)
def report(ctx: Context, payload: Report) -> dict[str, Any]:
    """Count a period's tasks, their durations and costs; write CSV, JSON and a page."""
    until = (payload.until or ctx.created_at).astimezone(dt.UTC)
    since = (payload.since or until - dt.timedelta(seconds=payload.last)).astimezone(dt.UTC)
    found = count(ctx, since.replace(tzinfo=None), until.replace(tzinfo=None))
    folder = ctx.config.folder
    folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    stem = f"report-{since:%Y%m%dT%H%M}Z-{until:%Y%m%dT%H%M}Z-{ctx.id[-12:]}"
    texts: dict[str, str] = {}
    if "html" in payload.formats:
        texts[f"{stem}.html"] = page(found)
    if "json" in payload.formats:
        texts[f"{stem}.json"] = json.dumps(found.as_json(), ensure_ascii=False, indent=1) + "\n"
    if "csv" in payload.formats:
        texts[f"{stem}-tasks.csv"] = _csv(TASK_COLUMNS, found.by_day_and_type)
        if found.spend is not None:
            texts[f"{stem}-spend.csv"] = _csv(SPEND_COLUMNS, found.spend)
    files = [_write(ctx, folder / name, text) for name, text in texts.items()]
    result = {"since": _rfc3339(since), "until": _rfc3339(until), "tasks": found.total["tasks"], "files": files}
    if payload.email:
        result["email"] = ctx.enqueue("email", _mail(found, payload, files, since, until), key="email")
    return result


def _write(ctx: Context, file: Path, text: str) -> str:
    """Write a file atomically, even when two attempts of this task write it."""
    partial = file.with_name(f"{file.name}.{ctx.token}.partial")
    try:
        partial.write_text(text, encoding="utf-8", newline="")
        partial.rename(file)
    finally:
        partial.unlink(missing_ok=True)
    return str(file.resolve())


def _csv(columns: Sequence[str], rows: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, columns)
    writer.writeheader()
    for row in rows:
        # A spreadsheet would evaluate such a name: another program may have inserted the task.
        writer.writerow({key: f"'{value}" if str(value)[:1] in "=+-@" else value for key, value in row.items()})
    return out.getvalue()


def _mail(found: Figures, payload: Report, files: list[str], since: dt.datetime, until: dt.datetime) -> dict[str, Any]:
    total = found.total
    lines = [
        f"{total['tasks']} tasks ended from {_rfc3339(since)} to {_rfc3339(until)}:",
        f"{total['succeeded']} succeeded, {total['dead']} dead, {total['cancelled']} cancelled;"
        f" {total['retries']} retries.",
    ]
    return {
        "to": payload.email,
        "subject": f"sytq: {total['tasks']} tasks, {total['dead']} dead, {since:%Y-%m-%d} to {until:%Y-%m-%d}",
        "text": "\n".join(lines) + "\n",
        "attachments": [{"path": file} for file in files],
    }


def _rfc3339(moment: dt.datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")

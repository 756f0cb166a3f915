"""Task type `backup`: the database as of one moment in one file, which is complete or absent."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import peewee
from pydantic import BaseModel, ConfigDict, Field

from sytq import Context, Plugin, task
from sytq.config import Section, Settings
from sytq.errors import DatabaseUnavailable
from sytq.ledger.backup import Summary, check, dump
from sytq.ledger.backup.tables import notes, obstacle
from sytq.ledger.database import open_database

from .llm.config import LlmSettings
from .llm.row import ValuationRecord

_NAME = re.compile(r"backup-\d{8}T\d{6}Z-[0-9a-f]{12}\.jsonl\.gz")
_TIME = "%Y%m%dT%H%M%SZ"
_FORGOTTEN = 86400.0  # seconds after which a partial file is deleted
_AT_LEAST = 3600.0  # seconds for an attempt at least: the default of five minutes is too short for gigabytes
_TIMEOUT = 60.0  # seconds for one statement, such as the count of a table's rows

Number = Annotated[int, Field(ge=0)]


class Backup(BaseModel):
    """An empty payload: the configuration says what to back up, and where to."""

    model_config = ConfigDict(extra="forbid")


class Config(Section):
    """`types.backup`: the folder, and how many backups stay: the last ones, and the newest of days, weeks, months."""

    folder: Path = Path("backups")
    last: Annotated[int, Field(ge=1)] = 7
    daily: Number = 7
    weekly: Number = 4
    monthly: Number = 6


def _tables(settings: Settings) -> Iterator[Any]:
    """What stands in the way of a backup or its restore in the tables of `llm.tables`: a check of `sytq doctor`."""
    from sytq.cli.doctor.finding import OK, WARN, Finding

    from .llm.doctor_database import ledger

    callers = list(settings.of(LlmSettings).llm.tables)
    database = ledger(settings)
    if database is None:
        return
    try:
        with database.connection_context():
            stops = [f"table '{name}' {why}" for name in callers if (why := obstacle(database, name))]
            lacks = [note for name in callers if not stops for note in notes(database, name, callers)]
    except (DatabaseUnavailable, peewee.PeeweeException):
        yield Finding("backup", WARN, "unknown while the database is unavailable", "see the check of the database")
        return
    for said in stops:
        yield Finding("backup", WARN, f"the type `backup` fails: {said}", "correct llm.tables")
    for said in lacks:
        yield Finding(
            "backup", WARN, said, "keep it in mind for a restore, or back it up with the database's own tools"
        )
    if not stops and not lacks:
        yield Finding("backup", OK, "a backup has all that the tables of llm.tables have")


plugin = Plugin("backup", checks=lambda settings: {"backup": _tables})


def _timeout(settings: Settings) -> float:
    return max(settings.worker.job_timeout, _AT_LEAST)


@task("backup", payload=Backup, config=Config, timeout=_timeout, unique=lambda payload: "", admin_only=True)
def backup(ctx: Context, payload: Backup) -> dict[str, Any]:
    """Write the tables of sytq and of callers into a compressed file, verify it, and delete expired backups."""
    config: Config = ctx.config
    config.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = config.folder / f"backup-{ctx.created_at:{_TIME}}-{ctx.id[-12:]}.jsonl.gz"
    summary = check(file) if file.exists() else _write(ctx, file)  # exists: an earlier attempt finished it
    removed = _rotate(config)
    return {
        "file": str(file.resolve()),
        "bytes": file.stat().st_size,
        "rows": summary.rows,
        "sha256": summary.sha256,
        "removed": removed,
        "notes": summary.header.notes,
    }


def _write(ctx: Context, file: Path) -> Summary:
    # Each attempt has its own: an earlier attempt presumed dead may still write its file, which it cannot rename.
    partial = file.with_name(f"{file.name}.{ctx.token}.partial")
    for older in file.parent.glob(f"{file.name}.*.partial"):
        older.unlink(missing_ok=True)
    database = open_database(ctx.settings.database_url, pool=1, timeout=_TIMEOUT)
    try:
        callers = list(ctx.settings.of(LlmSettings).llm.tables)
        plugins = _of_plugins(ctx.settings, database)
        written = dump(database, partial, callers, lambda done, of, table: ctx.progress(done, of, table), plugins)
        if check(partial) != written:
            raise OSError(f"{partial} does not read as it was written")
        ctx.progress(written.total, written.total, "checked")  # raises Lost when another attempt has taken over
        partial.rename(file)
        _settle(file.parent)
        return written
    finally:
        database.close_all()  # type: ignore[attr-defined]
        partial.unlink(missing_ok=True)


def _of_plugins(settings: Settings, database: peewee.Database) -> list[str]:
    """The tables of plugins; a caller's rows are backed up if `llm.tables` lists their table."""
    models = {model for plugin in settings.installed.plugins for model in plugin.models} - {ValuationRecord}
    with database.connection_context():
        there = set(database.get_tables())
    return sorted({model._meta.table_name for model in models} & there)


def _settle(folder: Path) -> None:
    """Make a rename survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rotate(config: Config) -> list[str]:
    """Delete expired backups and the partial files of dead workers; return the names of the deleted backups."""
    for partial in config.folder.glob("backup-*.partial"):
        with contextlib.suppress(FileNotFoundError):
            if partial.stat().st_mtime < time.time() - _FORGOTTEN:  # noqa: TID251
                partial.unlink()
    found = sorted((file.name for file in config.folder.iterdir() if _NAME.fullmatch(file.name)), reverse=True)
    going = sorted(set(found) - kept(found, config))
    for name in going:
        (config.folder / name).unlink(missing_ok=True)
    return going


def kept(names: list[str], config: Config) -> set[str]:
    """The names that the policy keeps; `names` are sorted, newest first."""
    keep = set(names[: config.last])
    periods: list[tuple[int, Callable[[dt.datetime], object]]] = [
        (config.daily, lambda moment: moment.date()),
        (config.weekly, lambda moment: moment.isocalendar()[:2]),
        (config.monthly, lambda moment: (moment.year, moment.month)),
    ]
    for number, period in periods:
        newest: dict[object, str] = {}
        for name in names:
            newest.setdefault(period(dt.datetime.strptime(name.split("-")[1], _TIME)), name)
        keep |= set(list(newest.values())[:number])
    return keep

"""What of a caller's table stands in the way of valuations and of the prompt form. Changes nothing.

The database says what a statement may do (rights, views); types, defaults and character sets are compared here.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import peewee
import structlog

from sytq.ledger.database import is_mysql, read
from sytq.ledger.refusals import code_of, text_of

from .config import LlmSettings, StatusLabels
from .row import FORM, FORM_TABLE, LINE, READ, WRITTEN

if TYPE_CHECKING:
    from sytq.runtime import Runtime

log = structlog.get_logger(__name__)

_EVERY = 300.0  # seconds between two looks of a worker at the tables: their owners alter them
_PROMPT_FORM = "the prompt form (POST /api/v1/tasks/llm) answers 503"
_NUMBERS = {"tinyint", "smallint", "mediumint", "int", "bigint", "decimal"}
_TEXTS = {"char", "varchar", "tinytext", "text", "mediumtext", "longtext"}
_BYTES = {"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"}
_TIMES = {"timestamp", "datetime"}
_KINDS: Mapping[str, tuple[set[str], str]] = {
    **dict.fromkeys(("report", "failed_info", "progress", "progress_info"), (_TEXTS | _BYTES, "text")),
    **dict.fromkeys(("user_message", "sys_message", "callback_url"), (_TEXTS | _BYTES | {"json"}, "text")),
    **dict.fromkeys(("failed_times", "current_task_node"), (_NUMBERS, "a whole number")),
    "status": (_TEXTS | _BYTES | {"enum"}, "a word of llm.status_labels"),
    "updated_at": (_TIMES, "the time"),
}
_UNICODE = {"utf8mb4", "utf16", "utf16le", "utf32", "gb18030"}
#: Bytes, or characters, that a column needs at least.
_SIZES = {"report": 65_535, "failed_info": LINE, "progress_info": LINE, "progress": len("50/50")}


@dataclass(frozen=True, slots=True)
class Obstacle:
    """A sentence that names column, table and what cannot work; `stops` when valuations cannot."""

    said: str
    todo: str
    stops: bool = True


@dataclass(frozen=True, slots=True)
class Column:
    """A column as the database describes it; `kind` is empty in SQLite, which takes any type."""

    name: str
    kind: str
    type: str
    required: bool  # NOT NULL without a default
    generated: bool
    charset: str | None
    size: int | None


def obstacles(database: peewee.Database, table: str, labels: StatusLabels) -> list[Obstacle]:
    """The obstacles in one table. Raises DatabaseUnavailable."""
    return read(database, lambda: list(_obstacles(database, table, labels)))


def _obstacles(database: peewee.Database, table: str, labels: StatusLabels) -> Iterator[Obstacle]:
    columns = {column.name: column for column in (_mysql if is_mysql(database) else _sqlite)(database, table)}
    if not columns:
        yield Obstacle(f"table {table} does not exist", "create it, or take it out of llm.tables; see docs/llm.md")
        return
    form = table == FORM_TABLE
    missing = [name for name in ("id", *READ, *WRITTEN) if name not in columns]
    if missing:
        yield Obstacle(
            f"table {table} lacks {', '.join(missing)}: its rows cannot be valued", f"add to {table} what lacks"
        )
    elif is_mysql(database):
        yield from _refusals(database, table, form)
    elif database.execute_sql("SELECT 1 FROM sqlite_master WHERE type = 'view' AND name = ?", (table,)).fetchone():
        yield Obstacle(f"{table} is a view: SQLite does not write into one", "give llm.tables a table")
    for column in columns.values():
        yield from _of_column(table, column, labels)
        if form:
            yield from _of_form(table, column)
    yield from _of_charsets(table, columns)
    if is_mysql(database):
        yield from _of_table(database, table)


def _refusals(database: peewee.Database, table: str, form: bool) -> Iterator[Obstacle]:
    """What the database itself refuses: it plans statements, which need the same rights, and runs none."""
    settings = ", ".join(f"{name} = NULL" for name in WRITTEN)
    statements = {
        f"SELECT {', '.join(READ)} FROM `{table}` WHERE id = 0 FOR UPDATE": "its rows cannot be read",  # noqa: S608
        f"UPDATE `{table}` SET {settings} WHERE id = 0": "its rows cannot be valued",  # noqa: S608
    }
    if form:
        values = ", ".join(["NULL"] * len(FORM))
        statements[f"INSERT INTO `{table}` ({', '.join(FORM)}) VALUES ({values})"] = _PROMPT_FORM  # noqa: S608
    for statement, consequence in statements.items():
        try:
            database.execute_sql(f"EXPLAIN {statement}").fetchall()
        except peewee.PeeweeException as error:
            if code_of(error) == _CANNOT_EXPLAIN:
                continue
            todo = "see what the database says: a right that lacks (GRANT), or a view that takes no changes"
            yield Obstacle(f"table {table}: {consequence}: {text_of(error)[:200]}", todo, consequence != _PROMPT_FORM)


_CANNOT_EXPLAIN = 1345  # MySQL: the right SHOW VIEW lacks; the statement itself may work


def _of_column(table: str, column: Column, labels: StatusLabels) -> Iterator[Obstacle]:
    """What stands in the way of reading and writing a row."""
    named = f"column {column.name} of {table} is {column.type}"
    if column.generated and column.name in WRITTEN:
        yield Obstacle(
            f"column {column.name} of {table} is generated, and valuations write it", "make it a plain column"
        )
    if not column.kind:
        return
    if column.name == "id" and column.kind not in _NUMBERS:
        yield Obstacle(f"{named}: ids of rows are whole numbers, and others find no row", "give the table a BIGINT id")
    kinds, holds = _KINDS.get(column.name, ({column.kind}, ""))
    if column.kind not in kinds:
        yield Obstacle(f"{named}: it cannot hold {holds}", f"ALTER TABLE {table} MODIFY {column.name} to hold {holds}")
    elif column.name == "status":
        words = [labels.pending, labels.processing, labels.completed, labels.failed]
        if unfit := [word for word in words if not _holds(column, word)]:
            todo = f"ALTER TABLE {table} MODIFY status VARCHAR(50) CHARACTER SET utf8mb4, or choose llm.status_labels"
            yield Obstacle(f"{named}: it does not take {', '.join(unfit)} of llm.status_labels", todo)
    elif column.size is not None and column.size < _SIZES.get(column.name, 0):
        todo = f"ALTER TABLE {table} MODIFY {column.name} {'LONGTEXT' if column.name == 'report' else 'TEXT'}"
        yield Obstacle(f"{named}: longer texts do not fit, and the task is dead then", todo, stops=False)


def _of_form(table: str, column: Column) -> Iterator[Obstacle]:
    """What stands in the way of inserting a row for a prompt."""
    if column.name == "id" and column.kind in _NUMBERS and (column.kind != "bigint" or "unsigned" in column.type):
        said = (
            f"column id of {table} is {column.type}: ids of prompts are negative numbers of 64 bits, and {_PROMPT_FORM}"
        )
        todo = f"ALTER TABLE {table} MODIFY id BIGINT, or insert rows and submit their ids (POST /api/tasks/llm)"
        yield Obstacle(said, todo, stops=False)
    if column.required and column.name not in FORM:
        said = f"column {column.name} of {table} is NOT NULL without a default: {_PROMPT_FORM}"
        todo = f"ALTER TABLE {table} ALTER {column.name} SET DEFAULT ..., or insert rows and submit their ids"
        yield Obstacle(said, todo, stops=False)
    if column.generated and column.name in FORM and column.name not in WRITTEN:
        yield Obstacle(f"column {column.name} of {table} is generated: {_PROMPT_FORM}", "make it plain", stops=False)


def _of_charsets(table: str, columns: Mapping[str, Column]) -> Iterator[Obstacle]:
    narrow: dict[str, list[str]] = {}
    for column in columns.values():
        if column.charset not in (None, *_UNICODE) and _KINDS.get(column.name, (None, ""))[1] == "text":
            narrow.setdefault(str(column.charset), []).append(column.name)
    for charset, names in narrow.items():
        said = f"columns {', '.join(names)} of {table} are {charset}: texts with other characters (emoji) do not fit"
        yield Obstacle(said, f"ALTER TABLE {table} CONVERT TO CHARACTER SET utf8mb4", stops=False)


def _of_table(database: peewee.Database, table: str) -> Iterator[Obstacle]:
    (engine,) = database.execute_sql(
        "SELECT engine FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = %s", (table,)
    ).fetchone()
    if engine is None:
        return  # a view
    if engine.lower() != "innodb":
        said = f"table {table} has the engine {engine}: a crash may leave a row without its callback, or half written"
        yield Obstacle(said, f"ALTER TABLE {table} ENGINE=InnoDB", stops=False)
    unique = database.execute_sql(
        "SELECT MAX(LOWER(column_name)) FROM information_schema.statistics WHERE table_schema = DATABASE()"
        " AND table_name = %s AND non_unique = 0 GROUP BY index_name HAVING COUNT(*) = 1",
        (table,),
    ).fetchall()
    if ("id",) not in unique:
        said = f"column id of {table} has no unique index of its own: one task may write several rows"
        yield Obstacle(said, f"ALTER TABLE {table} ADD UNIQUE (id)", stops=False)


def _holds(column: Column, word: str) -> bool:
    if column.kind == "enum":
        return word.lower() in re.findall(r"'((?:[^']|'')*)'", column.type.lower())
    if column.size is not None and column.size < len(word if column.charset else word.encode()):
        return False
    if column.charset in (None, "utf8mb3", "utf8", *_UNICODE):
        return True
    try:
        return bool(word.encode({"latin1": "cp1252"}.get(str(column.charset), str(column.charset))))
    except UnicodeEncodeError:
        return False
    except LookupError:
        return word.isascii()


def _mysql(database: peewee.Database, table: str) -> Iterator[Column]:
    rows = database.execute_sql(
        "SELECT column_name, data_type, column_type, is_nullable, column_default, extra, character_set_name,"
        " character_maximum_length FROM information_schema.columns"
        " WHERE table_schema = DATABASE() AND table_name = %s ORDER BY ordinal_position",
        (table,),
    )
    for name, kind, full, nullable, default, extra, charset, size in rows.fetchall():
        kind, extra = kind.lower(), extra.lower()
        generated = "virtual" in extra or "stored" in extra or "persistent" in extra
        filled = nullable == "YES" or default is not None or "auto_increment" in extra or kind == "enum" or generated
        yield Column(name.lower(), kind, full, not filled, generated, charset, size)


def _sqlite(database: peewee.Database, table: str) -> Iterator[Column]:
    for _, name, full, required, default, _, hidden in database.execute_sql(
        f'PRAGMA table_xinfo("{table}")'
    ).fetchall():
        generated = hidden in (2, 3)
        yield Column(
            name.lower(), "", full, bool(required) and default is None and not generated, generated, None, None
        )


def tell(table: str, obstacle: Obstacle) -> None:
    """Log an obstacle for the operator."""
    said = f"{obstacle.said}; fix: {obstacle.todo}"
    (log.error if obstacle.stops else log.warning)("table obstacle found", table=table, error=said)


def watch(runtime: Runtime) -> Callable[[], float]:
    """The loop that tells the obstacles in all tables, each once, from a worker's start on."""
    settings = runtime.settings.of(LlmSettings).llm
    reported: dict[str, list[Obstacle]] = {}
    due = 0.0

    def work() -> float:
        nonlocal due
        if time.monotonic() >= due:
            for table in settings.tables:
                found = obstacles(runtime.database, table, settings.status_labels)
                for obstacle in found:
                    if obstacle not in reported.get(table, ()):
                        tell(table, obstacle)
                reported[table] = found
            due = time.monotonic() + _EVERY
        return 1.0

    return work

"""A caller's row: reads and writes it inside a transaction of the task, and explains errors of the caller's table.

Table names come from the allow-list only; columns may all be NULL.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import peewee
from peewee import BigIntegerField, CharField, DateTimeField, IntegerField, Model, TextField

from sytq import Fail, Waiting
from sytq.ledger.database import execute, is_mariadb, is_mysql
from sytq.ledger.refusals import code_of, text_of

from .config import StatusLabels

_SPEND = "sytq_spend"
_OF_CALLER = "in a statement on the caller's table"
LINE = 500  # characters of _LINES
_LINES = ("progress_info", "failed_info")
#: Columns that valuations read and write, beside `id`, and those of a row that the prompt form inserts into FORM_TABLE.
READ = ("status", "user_message", "sys_message", "callback_url")
WRITTEN = (
    "status", "report", "failed_times", "failed_info", "progress", "progress_info", "current_task_node", "updated_at",
)  # fmt: skip
FORM_TABLE = "valuation_records"
FORM = (
    "id", "status", "user_message", "sys_message", "callback_url", "report", "failed_info", "progress", "progress_info",
)  # fmt: skip
_READ = ", ".join(f"`{name}`" for name in ("id", *READ))
_NOWAIT = (1205, 3572)  # MariaDB's and MySQL's code of a lock that another transaction has
NOTHING: Mapping[str, str] = {}
_SAME_TABLE = (1093, 1443)  # refusals of a statement that reads the table, or a view of it, that it changes
_FIRST_LOOK, _LAST_LOOK = 0.2, 2.0  # seconds between two looks for a missing row


class ValuationRecord(Model):
    """A caller's row of contract A; any column but `id` may be NULL, and the caller may change it meanwhile."""

    id = BigIntegerField(primary_key=True)
    status = CharField(null=True, max_length=50)
    user_message = TextField(null=True)
    sys_message = TextField(null=True)
    report = TextField(null=True)
    failed_times = IntegerField(null=True)
    failed_info = TextField(null=True)
    progress = CharField(null=True, max_length=50)
    progress_info = TextField(null=True)
    current_task_node = IntegerField(null=True)
    callback_url = CharField(null=True)
    created_at = DateTimeField(null=True)
    updated_at = DateTimeField(null=True)

    class Meta:
        table_name = FORM_TABLE


class RowMissing(Exception):
    """A task's row is not there; its caller may have submitted the task before its COMMIT."""

    def __init__(self, table: str, id: int) -> None:
        super().__init__(f"{table} has no row with id {id}")

    def then(self, age: float, timeout: float) -> Waiting | Fail:
        """What a task of this age does: look again until `timeout`, without using an attempt."""
        if age < timeout:
            after = min(_next_look(age), timeout - age + 0.05)
            return Waiting(after, reason=f"{self} yet: looking again until its caller commits, {timeout:g} s long")
        return Fail(
            f"{self}, {age:.0f} s after the task was submitted; if its caller commits later than that, raise "
            f"llm.row_timeout ({timeout:g} s), else submit again once the row is there"
        )


class RowLocked(RowMissing):
    """Another transaction is changing the row: what it will ask is not known before that COMMIT."""

    def __init__(self, table: str, id: int) -> None:
        Exception.__init__(self, f"row {id} of {table} is locked by another transaction, perhaps its caller's")

    def then(self, age: float, timeout: float) -> Waiting:
        return Waiting(_next_look(age), reason=f"{self}: looking again")


def _next_look(age: float) -> float:
    return min(max(age, _FIRST_LOOK), _LAST_LOOK)


class Rows:
    """One caller's table. Call methods inside a transaction; errors are Peewee's, `of_caller` (see `explain`)."""

    def __init__(self, database: peewee.Database, table: str) -> None:
        self.name = table
        self._database = database

    def lock(self, id: int, **options: Any) -> dict[str, Any]:
        """As `get`, and no other transaction changes the row until the caller's ends.

        Raises RowMissing and RowLocked without waiting for another transaction.
        """
        try:
            row = self.get(id, lock=True, **options)
        except peewee.OperationalError as error:
            if code_of(error) not in _NOWAIT:
                raise
            if self.get(id) is not None:  # a lock alone may be that of an INSERT
                raise RowLocked(self.name, id) from None
            row = None
        if row is None:
            raise RowMissing(self.name, id)
        return row

    def get(
        self, id: int, *, whole: bool = False, lock: bool = False, beside: Mapping[str, str] = NOTHING, of: str = ""
    ) -> dict[str, Any] | None:
        """The columns that a valuation reads, or with `whole` all of the caller's table; None without such a row.
        Queries of one value of the task `of` are read `beside` them.

        Raises Fail for a table whose ids are no numbers.
        """
        locking = " FOR UPDATE NOWAIT" if lock and is_mysql(self._database) else ""  # SQLite locks everything
        columns = ["*" if whole else _READ, *(f"({query}) AS {name}" for name, query in beside.items())]
        sql = f"SELECT {', '.join(columns)} FROM `{self.name}` WHERE `id` = ?{locking}"  # noqa: S608
        with self._theirs():
            found = execute(self._database, sql, *[of] * len(beside), id)
            values = found.fetchone()
        if values is None:
            return None
        row = {column[0]: _readable(column[0], value) for column, value in zip(found.description, values, strict=True)}
        row |= {name.lower(): value for name, value in row.items()}
        if not isinstance(row["id"], int | Decimal):  # MySQL takes '7-up' for 7
            raise Fail(f"column id of {self.name} holds no whole numbers, so that {id} may mean several rows")
        return row

    def update(self, id: int, only: Mapping[str, Any] | None = None, *, failed: bool = False, **values: Any) -> bool:
        """Write columns, with short texts for people cut to length, and one more in `failed_times` if it `failed`.
        False without such a row that has the values of `only`."""
        only = only or {}
        found = ["`id` = ?", *(f"`{name}` {'IS' if value is None else '='} ?" for name, value in only.items())]
        return self._update(values, found, id, *only.values(), failed=failed)

    def update_free(self, id: int, callback_url: str, **values: Any) -> bool:
        """As `update`, without waiting for another transaction, of a row that still has this `callback_url`. Raises
        RowLocked. False where the database cannot do that in one statement."""
        found, of = ["`id` = ?", "COALESCE(HEX(`callback_url`), '') = ?"], [id, callback_url.encode().hex().upper()]
        if is_mysql(self._database):
            if not is_mariadb(self._database):  # MySQL may lock the row before it asks the query that does not wait
                return False
            # By `id` too: by the query alone MariaDB may read and lock every row of the table.
            lock = f"SELECT `id` FROM `{self.name}` WHERE `id` = ? FOR UPDATE NOWAIT"  # noqa: S608
            found, of = [*found, f"`id` = (SELECT `id` FROM ({lock}) AS free)"], [*of, id]  # noqa: S608
        try:
            return self._update(values, found, *of)
        except peewee.OperationalError as error:
            if code_of(error) in _SAME_TABLE:
                return False
            if code_of(error) not in _NOWAIT:
                raise
            raise RowLocked(self.name, id) from None

    def _update(self, values: Mapping[str, Any], found: Sequence[str], *of: Any, failed: bool = False) -> bool:
        values = {name: line(value) if name in _LINES and value else value for name, value in values.items()}
        # SQLite lacks MySQL's automatic update; the time is the database's.
        changes = [*(f"`{name}` = ?" for name in values), "`updated_at` = CURRENT_TIMESTAMP"]
        if failed:
            changes.append("`failed_times` = COALESCE(`failed_times`, 0) + 1")
        sql = f"UPDATE `{self.name}` SET {', '.join(changes)} WHERE {' AND '.join(found)}"  # noqa: S608
        with self._theirs():
            return bool(execute(self._database, sql, *values.values(), *of).rowcount)

    @contextmanager
    def _theirs(self) -> Iterator[None]:
        """Mark errors: in the same transaction are statements on sytq's own tables."""
        try:
            yield
        except peewee.PeeweeException as error:
            if _SPEND not in text_of(error):  # read beside the row; the other tables of sytq have been written by then
                error.add_note(_OF_CALLER)
            raise


class NoText:
    """Bytes of a column that are no text. A prompt that takes them fails: the model would be asked something else."""

    def __init__(self, column: str) -> None:
        self._column = column

    def __str__(self) -> str:
        raise Fail(f"column {self._column} holds bytes that are no text in UTF-8")


def _readable(column: str, value: Any) -> Any:
    """The text of a column that keeps bytes (BLOB, VARBINARY)."""
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return NoText(column)


def completed(labels: StatusLabels, report: str, nodes: int) -> dict[str, Any]:
    """The columns of a row that has its report."""
    return {
        "status": labels.completed,
        "report": report,
        "progress": f"{nodes}/{nodes}",
        "progress_info": "done",
        "current_task_node": nodes,
        "failed_info": "",  # not NULL: the Go service, to which a team may go back, cannot read it
    }


def failed(labels: StatusLabels, error: str | None) -> dict[str, Any]:
    """The columns of a row whose task is dead or cancelled."""
    error = line(error or "the task ended without saying why")
    return {"status": labels.failed, "failed_info": error, "progress_info": f"failed: {error}"}


def line(text: str) -> str:
    """One line for a person, of bounded length."""
    text = re.sub(r"\s+", " ", text).strip()
    return text if len(text) <= LINE else text[: LINE - 1] + "…"


#: MySQL's and MariaDB's refusals of a row or its table; {name} is a column, a key or a constraint.
_DEFECTS = {
    1048: "column {name} of {table} takes no NULL",
    1062: "the unique key {name} of {table} has such a row already",
    1264: "column {name} of {table} does not take the number (unsigned, or too small)",
    1265: "column {name} of {table} does not take the value (an ENUM needs every word of llm.status_labels)",
    1267: "column status of {table} cannot be compared with llm.status_labels, as its character set differs",
    1292: "column {name} of {table} does not take the time",
    1364: "column {name} of {table} is NOT NULL without a default",
    1423: "the view {table} leaves out a column that is NOT NULL without a default",
    1451: "the foreign key {name} of {table} refuses the row",
    1452: "the foreign key {name} of {table} refuses the row",
    1526: "no partition of {table} takes the row",
    1644: "a trigger of {table} refuses the row",
    1906: "column {name} of {table} is generated",
    3105: "column {name} of {table} is generated",
    3140: "column {name} of {table} takes only JSON",
    3819: "the check constraint {name} of {table} refuses the row",
    4025: "the check constraint {name} of {table} refuses the row",
}
#: Refusals of views, triggers and what these call, whose text has names alone.
_NAMES_ONLY = {1288, 1305, 1318, 1348, 1356, 1365, 1369, 1393, 1394, 1442, 1443, 1449, 1471, 1690}
#: Likewise those of SQLite.
_SQLITE_NAMES_ONLY = re.compile(
    r"(NOT NULL|UNIQUE|CHECK|FOREIGN KEY) constraint failed|cannot (modify|UPDATE|INSERT)|table \S+ has no column"
)


def explain(error: peewee.PeeweeException, table: str, values: dict[str, Any]) -> str | None:
    """The defect of the caller's table that made a statement fail, or None.

    `values` are the written values; the message names only their size.
    """
    code, text = code_of(error), text_of(error)
    named = re.findall(r"(?:column|field|key|constraint) (?:[`'][^`']+[`']\.)*[`']([^`']+)[`']", text, re.IGNORECASE)
    name = named[-1] if named else "report"
    if code == 1146 or text.startswith("no such table"):
        other = re.search(r"(?:\.|: )(\w+)(?:'|$)", text)
        if other and other[1] != table:
            return f"a trigger or view of {table} needs the table {other[1]}, which does not exist"
        return f"table {table} does not exist"
    if code == 1054 or text.startswith("no such column"):
        return f"table {table} lacks a column of contract A: {line(text)}"
    if code == 1406:
        size = len(str(values.get(name, "")).encode())
        wider = "LONGTEXT" if name in ("report", "failed_info", "progress_info") else "VARCHAR(255)"
        return (
            f"column {name} of {table} is too small for {size} bytes, and nothing is ever cut; "
            f"fix: ALTER TABLE {table} MODIFY {name} {wider}"
        )
    if code == 1366 and not text.startswith("Incorrect string"):
        return f"column {name} of {table} holds numbers, and a word is written into it"
    if code == 1366:
        return (
            f"column {name} of {table} cannot store every character of the text; "
            f"fix: ALTER TABLE {table} CONVERT TO CHARACTER SET utf8mb4"
        )
    if code in _DEFECTS:
        return _DEFECTS[code].format(name=name, table=table)
    if code in _NAMES_ONLY or (code is None and _SQLITE_NAMES_ONLY.match(text)):
        return f"table {table} refuses the row: {line(text)}"
    return None


def of_caller(error: peewee.PeeweeException) -> bool:
    """Whether a statement on the caller's table failed, and not one on sytq's own."""
    return _OF_CALLER in getattr(error, "__notes__", ())


def column_of(error: peewee.PeeweeException) -> str | None:
    """The column whose value does not fit: too long, or not in its character set."""
    code, text = code_of(error), text_of(error)
    named = re.findall(r"column (?:[`'][^`']+[`']\.)*[`']([^`']+)[`'] at row", text)
    return str(named[-1]) if code in (1366, 1406) and named else None

"""The meaning of a database's refusal, by exclusion: a conflict, a fault of the statement's own making, or "not now".

Only what is proven to be a fault is one. Everything else passes: a full disk, a cluster's node that is not in sync, too
many connections, an error that nobody has met. Must not know any table.
"""

from __future__ import annotations

import sqlite3
from typing import Literal

import peewee

from sytq.errors import DatabaseUnavailable
from sytq.tls import explain

Verdict = Literal["conflict", "fault", "not now"]

#: SQLSTATE classes of faults of a statement, its values or its table: cardinality, data, integrity, syntax and names,
#: a view's check, and what a trigger raises.
_FAULTS = {"21", "22", "23", "42", "44", "45"}
#: MySQL's and MariaDB's codes of faults that have the general SQLSTATE (HY000, 01000): wrong value, truncated, no
#: default, mixed or impossible collation, generated column, check constraint, no JSON, no partition; and of a view or a
#: trigger that cannot be used as it is.
_FAULT_CODES = {
    *(1265, 1267, 1364, 1366, 1411, 1525, 1526, 1906, 3105, 3140, 3819, 3988, 4025),
    *(1288, 1348, 1356, 1393, 1394, 1423, 1442, 1443, 1449, 1471),
}
#: Codes of SQLSTATE 42000 that pass: rights and unknown databases, which a person mends, and limits of a user.
_PASSING_CODES = {1044, 1049, 1142, 1143, 1203, 1226, 1227, 1370, 1461}
#: SQLSTATE class of a transaction that was rolled back, and the codes of conflicts with the general one: lock wait
#: timeout, record changed since it was read, table changed since the transaction began.
_ROLLED_BACK = "40"
_CONFLICT_CODES = {1020, 1205, 1213, 1412}

#: The driver's codes of a connection that is gone, or was lost during a statement.
_BROKEN = {2006, 2013}

_ROLLBACK_REFUSED = ("cannot rollback", "no such savepoint", "SAVEPOINT")

_SQLITE_CONFLICTS = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_SQLITE_FAULTS = {
    sqlite3.SQLITE_ERROR,  # of the statement
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_RANGE,
    sqlite3.SQLITE_TOOBIG,
}


def verdict(error: peewee.PeeweeException) -> Verdict:
    """Whether the transaction may run again at once, can never succeed as it is, or may succeed later."""
    cause = _cause(error)
    if isinstance(cause, sqlite3.Error):
        return _of_sqlite(cause)
    code = code_of(error)
    state = getattr(cause, "sqlstate", None) or ""  # None where the driver itself says so: a connection broke
    if state[:2] == _ROLLED_BACK or code in _CONFLICT_CODES:
        return "conflict"
    if code in _PASSING_CODES:
        return "not now"
    # A proxy may leave out the SQLSTATE; the driver knows the common codes.
    known = code is not None and isinstance(error, peewee.DataError | peewee.IntegrityError)
    return "fault" if state[:2] in _FAULTS or code in _FAULT_CODES or known else "not now"


def _of_sqlite(cause: sqlite3.Error) -> Verdict:
    code = getattr(cause, "sqlite_errorcode", None)
    if code is None:  # Python's own: an argument of a wrong type, or a connection that was closed
        return "fault" if isinstance(cause, sqlite3.ProgrammingError) and "closed" not in str(cause) else "not now"
    code &= 0xFF  # without the extension, such as BUSY_SNAPSHOT
    return "conflict" if code in _SQLITE_CONFLICTS else "fault" if code in _SQLITE_FAULTS else "not now"


def is_broken_connection(error: peewee.PeeweeException) -> bool:
    """Whether the connection ended in the middle of a statement. Not one whose server did not answer in time."""
    cause = _cause(error)
    timed_out = isinstance(cause.__cause__ or cause.__context__, TimeoutError)
    return code_of(error) in _BROKEN and getattr(cause, "sqlstate", None) is None and not timed_out


def of_driver(error: Exception) -> bool:
    """Whether the driver failed over an answer that is none of a database, such as a proxy's."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    module = "" if at is None else at.tb_frame.f_globals.get("__name__", "")
    return module.startswith("pymysql.") and not isinstance(error, TypeError | UnicodeError)  # these are of an argument


def code_of(error: peewee.PeeweeException) -> int | None:
    """The number of MySQL's or MariaDB's error; None for SQLite."""
    args = _cause(error).args
    return args[0] if args and isinstance(args[0], int) else None


def text_of(error: peewee.PeeweeException) -> str:
    """What the database said; of a fault it may quote values."""
    cause = _cause(error)
    return str(cause.args[-1] if cause.args else cause)


def of_own_tables(error: peewee.PeeweeException, what: str) -> DatabaseUnavailable:
    """What a fault of sytq's own tables means for a task, which is not to blame: it waits until a person mends them."""
    code = code_of(error)  # the text of a fault may quote values
    return DatabaseUnavailable(
        f"the database refuses {what}{f' (error {code})' if code else ''}: run `sytq db check`, and see that sytq's"
        " tables are as `sytq db migrate` made them"
    )


def said(error: peewee.PeeweeException) -> str:
    """One line of what the database said, for a refusal that is no fault: a fault's text quotes values."""
    if why := explain(error):
        return f"the database does not answer: no TLS with it: {why}"
    cause, code = _cause(error), code_of(error)
    text = text_of(error)[:200] or "the connection was lost"  # PyMySQL has no words for a second use of such a one
    if isinstance(cause, sqlite3.Error):
        answers = getattr(cause, "sqlite_errorcode", sqlite3.SQLITE_CANTOPEN) != sqlite3.SQLITE_CANTOPEN
    else:
        answers = getattr(cause, "sqlstate", None) is not None
    number = f" (error {code})" if answers and code else ""
    return f"the database {'refuses' if answers else 'does not answer'}: {text}{number}"


def _cause(error: BaseException) -> BaseException:
    """The driver's exception: Peewee keeps it (`orig`), at times within another of its own."""
    while isinstance(cause := getattr(error, "orig", None), Exception):
        error = cause
    # A database may have ended the transaction by itself (a full disk, a deadlock): the rollback is refused then.
    if any(words in str(error) for words in _ROLLBACK_REFUSED) and error.__context__ is not None:
        return _cause(error.__context__)
    return error

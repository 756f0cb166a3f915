"""A filter as a condition on `sytq_tasks`, for MySQL, MariaDB and SQLite. Every value is bound, none becomes SQL.

JSON numbers are compared as numbers, strings by their code points, whatever the collation of the table.
"""

from __future__ import annotations

import datetime as dt
import functools
import json
import operator
from collections.abc import Callable, Sequence
from typing import Any

import peewee
from peewee import fn

from sytq.ledger.models import Task
from sytq.ledger.query.fields import FIELDS
from sytq.ledger.query.parse import Filter, Term, Value
from sytq.states import SCHEDULED

_RELATION: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_COLUMN: dict[str, Any] = {
    "fingerprint": Task.error_fingerprint,
    "request": Task.request_id,
    "age": Task.created_at,
    "created": Task.created_at,
    "scheduled": Task.scheduled_at,
    "started": Task.started_at,
    "finished": Task.finished_at,
    "revived": Task.revived_at,
}
INTEGERS = ("INTEGER", "UNSIGNED INTEGER")
REALS = ("REAL", "DOUBLE", "DECIMAL")


def condition(wanted: Filter, *, mysql: bool) -> peewee.Node | None:
    """Return the condition on a row, None for any row. A filter with relative times needs its `now`."""
    parts = [_term(term, wanted.now, mysql) for term in wanted.terms]
    return functools.reduce(operator.and_, parts) if parts else None


def _term(term: Term, now: dt.datetime | None, mysql: bool) -> Any:
    if FIELDS.get(term.field) is None:
        found = _json(term, mysql)
    else:
        column = _callback_url(mysql) if term.field == "callback_url" else _COLUMN.get(term.field)
        column = getattr(Task, term.field) if column is None else column
        found = _plain(term, column, now, mysql) if term.values else _is_set(term, column)
    # A term on a field that is not set (NULL) is false, and its negation true.
    return fn.COALESCE(found, _bound(0)) == _bound(0) if term.negated else found


def _is_set(term: Term, column: Any) -> Any:
    return _bound(1) == _bound(1) if FIELDS[term.field] == "flag" else column.is_null(False)


def _plain(term: Term, column: Any, now: dt.datetime | None, mysql: bool) -> Any:
    kind = FIELDS[term.field]
    if kind == "word":
        reads = [value.read for value in term.values]
        return column.in_(reads) if len(reads) > 1 else column == reads[0]
    if kind == "flag":
        # As task views show it: a task cancelled while held keeps the mark.
        held = column.is_null(False) & (Task.state == SCHEDULED)
        return _any(held if value.read == "true" else ~held for value in term.values)
    if kind == "text":
        return _any(_contains(column, value.text, mysql) for value in term.values)
    if kind == "number":
        return _any(_RELATION[term.operator](column, value.read) for value in term.values)
    return _any(_at(term, column, value.read, now) for value in term.values)


def _callback_url(mysql: bool) -> Any:
    """The URL alone: headers are never shown, hence never searched."""
    found = fn.JSON_EXTRACT(Task.callback, _bound("$.url"))
    return peewee.Case(None, [(fn.JSON_VALID(Task.callback), fn.JSON_UNQUOTE(found) if mysql else found)])


def _contains(column: Any, text: str, mysql: bool) -> Any:
    # Not LIKE: collations and escapes differ between servers.
    if mysql:
        return fn.LOCATE(_binary(fn.LOWER(_bound(text))), _binary(fn.LOWER(column))) > 0
    return fn.INSTR(fn.LOWER(column), fn.LOWER(_bound(text))) > 0


def _at(term: Term, column: Any, read: dt.datetime | dt.date | dt.timedelta, now: dt.datetime | None) -> Any:
    if isinstance(read, dt.timedelta):
        assert now is not None, "the caller sets `now`"
        if term.field == "scheduled":
            return _RELATION[term.operator](column, _time(now + read))
        return _RELATION[_MIRRORED[term.operator]](column, _time(now - read))  # older is earlier
    if isinstance(read, dt.datetime):
        return _RELATION[term.operator](column, _time(read))
    first = dt.datetime.combine(read, dt.time())
    if term.operator == "=":
        return (column >= _time(first)) & (column < _time(first + dt.timedelta(days=1)))
    return _RELATION[term.operator](column, _time(first))


def json_value(column: Any, steps: Sequence[str], mysql: bool) -> tuple[Any, Any]:
    """The type and the text of the value below these names; only for a column that is JSON."""
    plain = "$" + "".join(f'."{step}"' for step in steps)
    path = _bound(plain)
    escaped = json.dumps(plain)[1:-1].replace('\\"', '"')
    if escaped != plain:
        # Other programs (PHP) write such names as \uXXXX, and the database compares them as they are written. In SQLite
        # a JSON null has a type, and is NULL when extracted.
        look = fn.JSON_EXTRACT if mysql else fn.JSON_TYPE
        written = look(column, path).is_null() & look(column, _bound(escaped)).is_null(False)
        path = peewee.Case(None, [(written, _bound(escaped))], path)
    found = fn.JSON_EXTRACT(column, path)
    if mysql:
        return fn.JSON_TYPE(found), fn.JSON_UNQUOTE(found)
    return fn.UPPER(fn.JSON_TYPE(column, path)), found


def _json(term: Term, mysql: bool) -> Any:
    column = getattr(Task, term.field)
    kind, text = json_value(column, term.path, mysql)
    if term.values:
        holds = _any(_compare(term.operator, value, kind, text, mysql) for value in term.values)
    else:
        holds = kind != _bound("NULL")
    # Another program may have written text that is not JSON; it must not fail the whole query.
    return peewee.Case(None, [(fn.JSON_VALID(column), holds)]) == _bound(1)


def _compare(relation: str, value: Value, kind: Any, text: Any, mysql: bool) -> Any:
    """Compare the row's value to a term's, as the JSON of its text or as a string."""
    compare = _RELATION[relation]
    read = value.read
    if read is None:
        return (kind == _bound("NULL")) | _is_string(compare, value.text, kind, text, mysql)
    if isinstance(read, bool):
        said = _bound(value.text if mysql else value.text.upper())
        same = (kind == _bound("BOOLEAN")) & (text == said) if mysql else kind == said
        return same | _is_string(compare, value.text, kind, text, mysql)
    if isinstance(read, str):
        return _is_string(compare, read, kind, text, mysql)
    whole = peewee.Cast(text, "DECIMAL(65,0)" if mysql else "INTEGER")
    real = text + peewee.SQL("0e0") if mysql else peewee.Cast(text, "REAL")
    as_whole = compare(whole, _bound(read)) if isinstance(read, int) else compare(real, _bound(read))
    number = peewee.Case(
        None,
        [
            (kind.in_([_bound(name) for name in INTEGERS]), as_whole),
            (kind.in_([_bound(name) for name in REALS]), compare(real, _bound(float(read)))),
        ],
        _bound(0),
    )
    if relation != "=":
        return number == _bound(1)
    return (number == _bound(1)) | _is_string(compare, value.text, kind, text, mysql)


def _is_string(compare: Callable[[Any, Any], Any], wanted: str, kind: Any, text: Any, mysql: bool) -> Any:
    is_string = kind == _bound("STRING" if mysql else "TEXT")
    return is_string & compare(_binary(text), _binary(_bound(wanted))) if mysql else is_string & compare(text, wanted)


def _any(parts: Any) -> Any:
    return functools.reduce(operator.or_, parts)


def _binary(node: Any) -> Any:
    """Bytes, so that case, accents and trailing spaces differ."""
    return peewee.Cast(node, "BINARY")


def _bound(value: Any) -> Any:
    """A parameter without the conversion of the comparison's other side."""
    return peewee.Value(value, converter=False)


def _time(moment: dt.datetime) -> Any:
    # All six digits, as the ledger writes them: SQLite compares text.
    return _bound(moment.isoformat(" ", "microseconds"))

"""A filter in SQL, on both databases, matches exactly the rows that a plain evaluation matches."""

from __future__ import annotations

import datetime as dt
import json
import operator
import string
from typing import Any

import peewee
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sytq.errors import InvalidQuery
from sytq.ids import new_id
from sytq.ledger.models import Task
from sytq.ledger.query import Filter, Term, Value, parse
from sytq.ledger.query.fields import FIELDS, NESTED
from sytq.ledger.search import Count, Search
from sytq.states import PRIORITIES, STATES, TERMINAL

NOW = dt.datetime(2026, 6, 15, 12, 0, 0, 250_000)
COLUMN = {"age": "created_at", "fingerprint": "error_fingerprint", "request": "request_id"}
RELATION = {"=": operator.eq, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


# -- a plain evaluation


def matches(row: dict[str, Any], wanted: Filter) -> bool:
    return all(holds(row, term) != term.negated for term in wanted.terms)


def holds(row: dict[str, Any], term: Term) -> bool:
    if term.field == "held":
        held = row["held"] is not None and row["state"] == "scheduled"
        return not term.values or any((value.text == "true") == held for value in term.values)
    if term.field == "callback_url":
        try:
            url = json.loads(row["callback"] or "{}").get("url")
        except ValueError:
            return False
        return url is not None and (not term.values or any(value.text.lower() in url.lower() for value in term.values))
    if term.field in NESTED:
        return json_holds(row[term.field], term)
    column = {"age": "created_at", "fingerprint": "error_fingerprint", "request": "request_id"}.get(
        term.field, term.field
    )
    if FIELDS[term.field] == "moment" and term.field != "age":
        column = f"{term.field}_at"
    found = row[column]
    if found is None:
        return False
    return not term.values or any(one(found, term, value) for value in term.values)


def one(found: Any, term: Term, value: Value) -> bool:
    kind, read, relation = FIELDS[term.field], value.read, RELATION[term.operator]
    if kind == "text":
        lower = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
        return value.text.translate(lower) in found.translate(lower)
    if kind != "moment":
        return bool(relation(found, read))
    if isinstance(read, dt.timedelta):
        return bool(relation(found - NOW if term.field == "scheduled" else NOW - found, read))
    if isinstance(read, dt.datetime):
        return bool(relation(found, read))
    day = dt.datetime.combine(read, dt.time())
    return found.date() == read if term.operator == "=" else bool(relation(found, day))


def json_holds(text: str | None, term: Term) -> bool:
    try:
        found = json.loads(text or "")
    except ValueError:
        return False
    for step in term.path:
        if not isinstance(found, dict) or step not in found:
            return False
        found = found[step]
    if not term.values:
        return found is not None
    return any(json_one(found, RELATION[term.operator], term.operator, value) for value in term.values)


def json_one(found: Any, relation: Any, sign: str, value: Value) -> bool:
    read = value.read
    if isinstance(found, str):
        if isinstance(read, str) or sign == "=":
            wanted = read if isinstance(read, str) else value.text
            return bool(relation(found.encode(), wanted.encode()))
        return False
    if read is None or isinstance(read, bool):
        return found is read
    if isinstance(found, int | float) and not isinstance(found, bool) and isinstance(read, int | float):
        same = isinstance(found, int) and isinstance(read, int)
        return bool(relation(found, read) if same else relation(float(found), float(read)))
    return False


# -- rows and queries

LETTERS = st.text("abAB %_'\"\\`;-.*,()$0123\u4e2d\U0001f600", max_size=6)
SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3)
    | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([1.0, -0.0, 0.5, 1e22])
    | LETTERS | st.sampled_from(["1", "true", "null", "a ", "a", "A", "1.0"])
)  # fmt: skip
KEYS = st.sampled_from(["a", "b", "A", "order-id", "$", "\u4e2d", "0"])
PAYLOADS = st.dictionaries(KEYS, SCALARS | st.dictionaries(KEYS, SCALARS, max_size=2) | st.lists(SCALARS, max_size=2))
MOMENTS = st.sampled_from([-86400, -3600, -3600.000001, -60, -0.25, 0, 60, 3600]).map(
    lambda seconds: NOW + dt.timedelta(seconds=seconds)
)
WORDS = st.sampled_from(["plain", "webhook", "other"])
CALLBACKS = [
    '{"url": "http://Plain.example/a"}', '{"url": "http://other/", "headers": {"X-Key": "webhook"}}', "{}", "no json",
]  # fmt: skip
ROWS = st.fixed_dictionaries(
    {
        "type": WORDS,
        "queue": st.none() | WORDS,
        "priority": st.none() | st.sampled_from(PRIORITIES),
        "state": st.sampled_from(STATES),
        "payload": PAYLOADS.map(lambda value: json.dumps(value, ensure_ascii=False)) | st.just("no json"),
        "metadata": st.none() | PAYLOADS.map(json.dumps),
        "request_id": st.none() | WORDS,
        "error": st.none() | LETTERS,
        "error_fingerprint": st.none() | WORDS,
        "attempts": st.integers(0, 4),
        "max_attempts": st.none() | st.integers(1, 4),
        "owner": st.none() | WORDS,
        "parent": st.none() | WORDS,
        "worker": st.none() | WORDS,
        "host": st.none() | WORDS,
        "unique_key": st.none() | WORDS,
        "ordering_key": st.none() | st.sampled_from(["plain", "h::\u4e2d", "H::\u4e2d"]),
        "held": st.none() | st.sampled_from(["run", "cancel", "skipped"]),
        "callback": st.none() | st.sampled_from(CALLBACKS),
        "version": st.none() | st.integers(1, 3),
        "result": st.none() | PAYLOADS.map(json.dumps) | st.sampled_from(["7", "[1]", "no json"]),
        "created_at": MOMENTS,
        "scheduled_at": st.none() | MOMENTS,
        "started_at": st.none() | MOMENTS,
        "finished_at": st.none() | MOMENTS,
        "revived_at": st.none() | MOMENTS,
    }
).map(lambda row: row | ({"finished_at": NOW} if row["state"] in TERMINAL and row["finished_at"] is None else {}))


def quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


SIGNS = st.sampled_from(["", ">", ">=", "<", "<="])
JSON_VALUES = SCALARS.map(json.dumps) | SCALARS.filter(lambda v: isinstance(v, str)).map(quoted) | st.just("*")
DURATIONS = st.sampled_from(["1h", "60s", "0s", "250ms", "24h"])
TIMES = DURATIONS | st.sampled_from(
    ["2026-06-15", "2026-06-14", "2026-06-15T11:00:00.25Z", "2026-06-15T14:00:00+02:00"]
)
NAMES = ["type", "queue", "owner", "parent", "worker", "host", "fingerprint", "request", "unique_key"]
CONDITIONS = st.one_of(
    st.tuples(st.sampled_from(NAMES), st.just(""), WORDS | st.just("*")),
    st.tuples(st.just("state"), st.just(""), st.lists(st.sampled_from(STATES), min_size=1, max_size=3).map(",".join)),
    st.tuples(st.just("priority"), st.just(""), st.sampled_from(PRIORITIES)),
    st.tuples(st.just("error"), st.just(""), LETTERS.filter(bool).map(quoted) | st.just("*")),
    st.tuples(st.just("ordering_key"), st.just(""), st.sampled_from(["plain", "h::\u4e2d", "plain,h::\u4e2d", "*"])),
    st.tuples(st.just("held"), st.just(""), st.sampled_from(["true", "false", "true,false", "*"])),
    st.tuples(st.just("callback_url"), st.just(""), WORDS | st.just("*")),
    st.tuples(st.sampled_from(["attempts", "max_attempts", "version"]), SIGNS, st.integers(0, 4).map(str)),
    st.tuples(st.just("age"), SIGNS, DURATIONS),
    st.tuples(st.sampled_from(["created", "scheduled", "started", "finished", "revived"]), SIGNS, TIMES | st.just("*")),
    st.tuples(
        st.tuples(st.sampled_from(["payload", "result"]), st.lists(KEYS, min_size=1, max_size=2)).map(
            lambda pair: ".".join([pair[0], *pair[1]])
        ),
        SIGNS,
        JSON_VALUES,
    ),
)  # fmt: skip
QUERIES = st.lists(
    st.tuples(st.sampled_from(["", "-"]), CONDITIONS).map(lambda t: f"{t[0]}{t[1][0]}:{t[1][1]}{t[1][2]}"),
    min_size=1,
    max_size=3,
).map(" ".join)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(ROWS, min_size=1, max_size=8), query=QUERIES)
def test_sql_matches_the_same_rows_as_the_filter(
    database: peewee.Database, rows: list[dict[str, Any]], query: str
) -> None:
    try:
        wanted = parse(query).at(NOW)
    except InvalidQuery:
        assume(False)
    made = {new_id(): row for row in rows}
    with database.connection_context(), database.atomic():
        Task.delete().execute()
        for task_id, row in made.items():
            times = {
                name: None
                if row[name] is None
                else peewee.AsIs(row[name].isoformat(" ", "microseconds"), converter=False)
                for name in ("created_at", "scheduled_at", "started_at", "finished_at", "revived_at")
            }
            Task.insert(id=task_id, **(row | times)).execute()
    found = {task.id for page in Search(database).pages(wanted, size=3) for task in page}
    expected = {task_id for task_id, row in made.items() if matches(row, wanted)}
    assert found == expected, query
    assert Search(database).count(wanted, seconds=60) == Count(len(expected))


def test_relative_times_use_the_database_clock(database: peewee.Database) -> None:
    with database.connection_context():
        Task.insert(id=new_id(), type="plain", payload="{}", created_at=NOW).execute()
        database.execute_sql(f"INSERT INTO sytq_tasks (id, type, payload) VALUES ('{new_id()}', 'now', '{{}}')")
    history = Search(database)
    assert abs(history.now() - dt.datetime.now(dt.UTC).replace(tzinfo=None)) < dt.timedelta(seconds=30)
    (recent,) = history.page(parse("age:<1m"), limit=5).tasks
    (old,) = history.page(parse("created:>1h"), limit=5).tasks
    assert (recent.type, old.type) == ("now", "plain")


@pytest.mark.parametrize(
    "evil",
    ["x' OR '1'='1", 'x" OR 1=1 --', "x\\' OR 1=1", "%", "_", "x; DROP TABLE sytq_tasks", "{}", "%s", "?", "%(x)s"],
)
def test_a_query_cannot_inject_sql(database: peewee.Database, evil: str) -> None:
    with database.connection_context():
        Task.insert(id=new_id(), type="plain", payload='{"a": 1}', error="b", created_at=NOW).execute()
    for query in (f"error:{quoted(evil)}", f"payload.a:{quoted(evil)}", f"payload.a:>{quoted(evil)}"):
        assert Search(database).count(parse(query)).number == 0
    step = evil.replace(" ", "").replace('"', "").replace("\\", "").replace("=", "").replace("(", "").replace(")", "")
    assert Search(database).count(parse(f"payload.{step}:*")).number == 0
    assert Search(database).count(parse("")).number == 1


@pytest.mark.parametrize(
    ("payload", "query", "found"),
    [
        ('{"a": "x"}', "payload.a:X", False),
        ('{"a": "x "}', "payload.a:x", False),
        ('{"a": "e"}', "payload.a:\u00e9", False),
        ('{"a": "\u00e9"}', "payload.a:\u00e9", True),
        ('{"a": 9007199254740993}', "payload.a:9007199254740993", True),
        ('{"a": 9007199254740993}', "payload.a:9007199254740992", False),
        ('{"a": 9223372036854775807}', "payload.a:>9223372036854775806", True),
        ('{"a": 10}', "payload.a:>9", True),
        ('{"a": "10"}', "payload.a:>9", False),
        ('{"a": "10"}', 'payload.a:<"9"', True),
        ('{"a": 1.0}', "payload.a:1", True),
        ('{"a": 1}', 'payload.a:"1"', False),
        ('{"a": "1"}', "payload.a:1", True),
        ('{"a": 1}', "payload.a:true", False),
        ('{"a": null}', "payload.a:*", False),
        ('{"a": false}', "payload.a:*", True),
        ("[1]", "payload.a:*", False),
        ("no json", "-payload.a:*", True),
        ('{"a": [1]}', "payload.a:1", False),
        ('{"a": {"b": "c"}}', "payload.a.b:c", True),
        ('{"中": 1.0}', "payload.中:1.0", True),
        (r'{"\u4e2d": 1.0}', "payload.中:1.0", True),
        (r'{"\u4e2d": {"\u00fc": "x"}}', "payload.中.ü:x", True),
        (r'{"\u4e2d": null}', "payload.中:null", True),
        (r'{"\u4e2d": 2}', "payload.中:1", False),
    ],
)
def test_json_is_compared_as_json(database: peewee.Database, payload: str, query: str, found: bool) -> None:
    with database.connection_context():
        Task.insert(id=new_id(), type="plain", payload=payload, created_at=NOW).execute()
    assert Search(database).count(parse(query)).number == found

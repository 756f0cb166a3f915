"""Contract C: programs in other languages write to a stream, and its messages become tasks."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from sytq.broker.connection import Redis
from sytq.errors import InvalidInput
from sytq.ledger.models import Task
from sytq.streams.client import Consumer, Producer
from sytq.streams.codec import ExternalStream
from tests.installation import Installation
from tests.servers import poll

STREAM = "goodshunter:task:queue"
GROUP = "scheduler_group"
#: As the contract has it.
BYTES = (
    b'{"task_id":7,"action":"execute","timestamp":"2026-01-09T23:13:17.123456789+09:00",'
    b'"retry":0,"source":"user_create"}'
)

Make = Callable[..., Installation]


@pytest.fixture
def make(tmp_path: Path, redis_url: str) -> Iterator[Make]:
    made: list[Installation] = []

    def build(*streams: dict[str, Any], database_url: str = "", **settings: str) -> Installation:
        settings["SYTQ_STREAMS"] = json.dumps(streams)
        made.append(Installation(tmp_path, database_url or f"sqlite:///{tmp_path / 'sytq.db'}", redis_url, **settings))
        return made[-1]

    yield build
    for installation in made:
        installation.close()


def trial(tmp_path: Path, type_name: str, seconds: float = 0.0, stream: str = STREAM, **more: Any) -> dict[str, Any]:
    """A stream whose messages become tasks of one of the trial types, named t<task_id>."""
    payload = {"journal": str(tmp_path / "journal"), "name": "t{task_id}", "seconds": seconds}
    return {"stream": stream, "type": type_name, "payload": payload, **more}


def seen(client: redis.Redis, stream: str = STREAM) -> tuple[int, int | None, int]:
    """XLEN, lag and XPENDING, at one moment, once the worker has made the group."""
    poll(lambda: client.exists(stream) and client.xinfo_groups(stream), message="the group is made")
    with client.pipeline() as pipe:
        pipe.xlen(stream)
        pipe.xinfo_groups(stream)
        pipe.xpending(stream, GROUP)
        length, (group,), pending = pipe.execute()
    return length, group["lag"], pending["pending"]


def wait_empty(client: redis.Redis, stream: str = STREAM, timeout: float = 60) -> None:
    poll(lambda: seen(client, stream) == (0, 0, 0), timeout, message=lambda: f"the stream empties: {seen(client)}")


def dead_letters(client: redis.Redis, stream: str = f"{STREAM}:dlq") -> list[dict[str, str]]:
    return [{k.decode(): v.decode(errors="replace") for k, v in f.items()} for _, f in client.xrange(stream)]


def rows(installation: Installation) -> list[Task]:
    with installation.runtime.database.connection_context():
        return list(Task.select().order_by(Task.id))


def test_a_message_of_the_contract_runs_and_leaves_the_stream(
    make: Make, redis_client: redis.Redis, database_url: str
) -> None:
    redis_client.execute_command("XADD", STREAM, "*", "data", BYTES)  # before the group exists
    installation = make(database_url=database_url, APP_ENABLE_REDIS_QUEUE="true")
    installation.start_worker()
    wait_empty(redis_client)
    (row,) = rows(installation)
    row = installation.wait_state(row.id, "succeeded")
    assert (row.type, json.loads(row.payload)) == ("default", json.loads(BYTES))
    assert json.loads(row.result) == json.loads(BYTES)
    (group,) = redis_client.xinfo_groups(STREAM)
    assert group["name"] == GROUP.encode()


def test_xlen_lag_and_xpending_keep_their_meaning(make: Make, redis_client: redis.Redis, tmp_path: Path) -> None:
    installation = make(trial(tmp_path, "plain"))
    installation.hold(*(f"t{n}" for n in range(1, 7)))
    worker = installation.start_worker(threads=2)
    assert seen(redis_client) == (0, 0, 0)
    Producer(installation.environ["SYTQ_REDIS__URL"]).submit_tasks([(n, "periodic") for n in range(1, 7)])
    for name in ("t1", "t2"):
        installation.wait_note(f"start {name}")
    assert seen(redis_client) == (6, 4, 2)  # unfinished, not yet read, in progress
    assert {c["name"].decode() for c in redis_client.xpending(STREAM, GROUP)["consumers"]} == {
        found.name for found in installation.runtime.inspection.workers()
    }
    assert len(redis_client.xread({STREAM: "0"})[0][1]) == 6

    def reaches(wanted: tuple[int, int, int]) -> bool:
        length, lag, pending = now = seen(redis_client)
        assert lag is None or length == lag + pending
        return now == wanted

    for n, left in ((1, (4, 2, 2)), (3, (2, 0, 2)), (5, (0, 0, 0))):
        installation.release(f"t{n}", f"t{n + 1}")
        poll(lambda left=left: reaches(left), message=lambda left=left: f"{left}, not {seen(redis_client)}")  # type: ignore[misc]
    assert worker.alive
    assert installation.notes() == {f"{word} t{n}": 1 for n in range(1, 7) for word in ("start", "end")}


@pytest.mark.parametrize("type_name", ["gentle", "checking"])
def test_stop_cancels_a_running_task(make: Make, redis_client: redis.Redis, tmp_path: Path, type_name: str) -> None:
    installation = make(trial(tmp_path, type_name, seconds=60))
    installation.start_worker()
    producer = Producer(installation.environ["SYTQ_REDIS__URL"])
    redis_client.execute_command("XADD", STREAM, "*", "data", BYTES)  # by another producer
    installation.wait_note("start t7")
    producer.submit_task(8, "system")
    installation.wait_note("start t8")
    producer.stop_task(7)
    poll(lambda: redis_client.xlen(STREAM) == 1, message="execute and stop of 7 are gone")
    first, second = rows(installation)
    if json.loads(first.payload)["name"] != "t7":
        first, second = second, first
    assert installation.wait_state(first.id, "cancelled").error == f"cancelled by stop from {STREAM}"
    assert installation.row(second.id).state == "running"
    producer.stop_task(8)
    wait_empty(redis_client)
    assert dead_letters(redis_client) == []


def test_stop_reaches_a_worker_without_free_slots(make: Make, redis_client: redis.Redis, tmp_path: Path) -> None:
    installation = make(trial(tmp_path, "checking"))
    worker = installation.start_worker(threads=1)
    producer = Producer(installation.environ["SYTQ_REDIS__URL"])
    producer.submit_task(1, "system")
    installation.wait_note("start t1")
    producer.submit_tasks([(2, "system"), (3, "system")])
    producer.stop_task(2)  # it waits in the stream, not yet read
    producer.stop_task(1)  # it runs, and every message in front of this one waits for it
    installation.wait_note("start t3")
    producer.stop_task(3)
    wait_empty(redis_client)
    assert installation.notes() == {f"{word} t{n}": 1 for n in (1, 3) for word in ("start", "noticed")}
    assert "task stopped before its start" in worker.text()


def test_stop_cancels_an_accepted_waiting_task(make: Make, redis_client: redis.Redis, tmp_path: Path) -> None:
    installation = make(trial(tmp_path, "plain"))
    installation.runtime.operator.pause("plain", by="ann", why="a test")
    installation.start_worker()
    producer = Producer(installation.environ["SYTQ_REDIS__URL"])
    producer.submit_task(7, "user_create")
    poll(lambda: rows(installation), message="it is accepted")
    producer.stop_task(7)
    producer.submit_task(7, "user_create")  # another message, after the stop
    poll(lambda: redis_client.xlen(STREAM) == 1, message="execute and stop are gone")
    installation.runtime.operator.resume("plain")
    wait_empty(redis_client)
    poll(lambda: [row.state for row in rows(installation)].count("succeeded") == 1, message="the second one runs")
    assert sorted(row.state for row in rows(installation)) == ["cancelled", "succeeded"]
    assert installation.notes()["start t7"] == 1


def test_stop_without_a_task_is_acknowledged(make: Make, redis_client: redis.Redis) -> None:
    installation = make({"stream": STREAM})
    worker = installation.start_worker()
    producer = Producer(installation.environ["SYTQ_REDIS__URL"])
    producer.submit_task(7, "system")
    wait_empty(redis_client)
    producer.stop_task(7)  # its task has ended
    producer.stop_task(9)  # it never had one
    wait_empty(redis_client)
    poll(lambda: worker.text().count("nothing to stop") == 2, message=worker.text)  # by way of the master
    assert dead_letters(redis_client) == []


def test_a_failing_task_is_retried_and_then_its_message_is_a_dead_letter(
    make: Make, redis_client: redis.Redis, tmp_path: Path
) -> None:
    installation = make(trial(tmp_path, "failing", max_retries=2))
    installation.start_worker()
    entry = redis_client.execute_command("XADD", STREAM, "*", "data", BYTES)
    wait_empty(redis_client)
    (letter,) = dead_letters(redis_client)
    assert set(letter) == {"original_id", "payload", "reason", "failed_at"}
    assert letter["original_id"] == entry.decode()
    assert json.loads(letter["payload"]) == json.loads(BYTES) | {"retry": 2}
    assert letter["reason"] == "ValueError: t7 fails (failed after 3 attempts)"
    age = dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(letter["failed_at"])
    assert dt.timedelta(0) < age < dt.timedelta(minutes=5)
    assert installation.notes()["start t7"] == 3


@pytest.mark.parametrize(("max_retries", "retry", "attempts"), [(3, 0, 4), (0, 0, 1), (3, 1, 3), (3, 9, 1)])
def test_stream_settings_and_retry_field_bound_the_attempts(
    make: Make, redis_client: redis.Redis, tmp_path: Path, max_retries: int, retry: int, attempts: int
) -> None:
    installation = make(trial(tmp_path, "failing", max_retries=max_retries, retry_delay="300ms"))
    installation.start_worker()
    redis_client.xadd(STREAM, {"data": json.dumps(json.loads(BYTES) | {"retry": retry})})
    wait_empty(redis_client)
    (letter,) = dead_letters(redis_client)
    assert json.loads(letter["payload"])["retry"] == retry + attempts - 1
    starts = [float(line.split()[2]) for line in installation.journal.read_text().splitlines() if line[:6] == "start "]
    assert len(starts) == attempts
    assert all(0.3 <= later - earlier < 2 for earlier, later in itertools.pairwise(starts))


def test_unparsable_message_becomes_a_dead_letter_at_once(
    make: Make, redis_client: redis.Redis, tmp_path: Path
) -> None:
    good = json.loads(BYTES)
    bad: dict[str, bytes] = {
        "data: not JSON in UTF-8": b"{not json",
        "data: not JSON": b'{"task_id": 7, "action": "execute", "x": NaN}',
        "data: not a JSON object": b"[7]",
        "task_id: nothing is not valid": json.dumps({k: v for k, v in good.items() if k != "task_id"}).encode(),
    }
    for name, values in {
        "task_id": [0, -1, 1 << 64, 7.0, True, "7"],
        "action": ["run", None],
        "source": [1, ["user_create"]],
        "timestamp": ["yesterday", "2026-01-09 23:13:17", "2026-13-09T23:13:17Z", 1767968000],
        "retry": [-1, "0", 1.5],
    }.items():
        for value in values:
            shown = "nothing" if value is None else repr(value)
            bad[f"{name}: {shown} is not valid; valid: "] = json.dumps(good | {name: value}).encode()
    installation = make(trial(tmp_path, "plain"))
    installation.start_worker()
    for number, message in enumerate(bad.values(), start=1):
        redis_client.xadd(STREAM, {"data": message})
        redis_client.xadd(STREAM, {"data": json.dumps(good | {"task_id": number})})
    redis_client.xadd(STREAM, {"payload": "x"})
    wait_empty(redis_client)
    letters = dead_letters(redis_client)
    assert [letter["payload"] for letter in letters] == [
        *(message.decode(errors="replace") for message in bad.values()),
        '{"payload": "x"}',
    ]
    for letter, reason in zip(letters, [*bad, "data: missing"], strict=True):
        assert letter["reason"].startswith(reason)
    assert installation.notes() == {f"{w} t{n}": 1 for n in range(1, len(bad) + 1) for w in ("start", "end")}


def test_a_message_is_read_as_go_reads_json(make: Make, redis_client: redis.Redis) -> None:
    written = {
        b'{"task_id":1,"action":"execute","source":"unknown"}': {"source": "unknown"},
        b'{"task_id":2,"action":"execute","source":""}': {"source": ""},
        b'{"task_id":3,"action":"execute","source":null}': {"source": None},
        '{"task_id":4,"action":"execute","source":"夜间"}'.encode(): {"source": "夜间"},
        b'{"Task_ID":5,"ACTION":"execute","Source":"x","RETRY":0,"own":1}': {"source": "x", "retry": 0, "own": 1},
        b'{"task_id":9,"action":"stop","task_id":6,"action":"execute"}': {},
        b'{"TASK_ID":9,"task_id":7,"action":"execute"} and more': {},
        b'{"task_id":8,"action":"execute","x":"\xff\xc3","y":"\\ud800"}': {"x": "\ufffd\ufffd", "y": "\ufffd"},
    }
    installation = make({"stream": STREAM})
    for data in written:  # before there is a group: it is made from id 0
        redis_client.xadd(STREAM, {"data": data})
    installation.start_worker()
    wait_empty(redis_client)
    assert dead_letters(redis_client) == []
    found = {payload["task_id"]: payload for payload in (json.loads(row.payload) for row in rows(installation))}
    assert set(found) == set(range(1, 9))
    for task_id, expected in enumerate(written.values(), start=1):
        assert found[task_id]["action"] == "execute"
        assert expected.items() <= found[task_id].items()


def take(client: redis.Redis, name: str, count: int) -> list[bytes]:
    """Messages that a consumer of another program takes at once, to work on them one after the other."""
    reply = client.xreadgroup(GROUP, name, {STREAM: ">"}, count=count)
    return [entry for entry, _ in reply[0][1]]


def test_a_slow_consumer_of_another_program_keeps_its_messages(
    make: Make, redis_client: redis.Redis, tmp_path: Path
) -> None:
    redis_client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    installation = make(trial(tmp_path, "plain"))
    producer = Producer(installation.environ["SYTQ_REDIS__URL"])
    producer.submit_tasks([(n, "unknown") for n in range(1, 13)])
    theirs = take(redis_client, "consumer-1", 12)
    # Idle as after some minutes of work, but less than claim_idle.
    redis_client.xclaim(STREAM, GROUP, "consumer-1", 0, theirs, idle=200_000, justid=True)
    worker = installation.start_worker()
    producer.submit_task(13, "unknown")
    installation.wait_note("end t13")
    for entry in theirs[:11]:  # their work ends: acknowledged, not deleted
        assert redis_client.xack(STREAM, GROUP, entry) == 1
    poll(lambda: seen(redis_client) == (1, 0, 1), message=lambda: f"what they finished leaves: {seen(redis_client)}")
    # The last one is taken over once it was idle for claim_idle.
    redis_client.xclaim(STREAM, GROUP, "consumer-1", 0, theirs[11:], idle=300_001, justid=True)
    installation.wait_note("end t12")
    wait_empty(redis_client)
    assert installation.notes() == {f"{word} t{n}": 1 for n in (12, 13) for word in ("start", "end")}
    poll(lambda: "messages taken over" in worker.text(), message="it is logged")
    (taken_over,) = re.findall(r".*messages taken over.*", worker.text())
    assert json.loads(taken_over)["consumers"] == ["consumer-1"]


def test_claim_idle_is_a_setting_of_the_stream(make: Make, redis_client: redis.Redis, tmp_path: Path) -> None:
    redis_client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    redis_client.xadd(STREAM, {"data": BYTES})
    take(redis_client, "consumer-1", 1)
    installation = make(trial(tmp_path, "plain", claim_idle="200ms"))
    installation.start_worker()
    wait_empty(redis_client)
    assert installation.notes() == {"start t7": 1, "end t7": 1}


@pytest.fixture
def stream(redis_url: str) -> ExternalStream:
    made = ExternalStream(Redis(redis_url, home=STREAM), STREAM, GROUP, "mine", f"{STREAM}:dlq")
    made.make_group()
    return made


def test_held_messages_are_not_idle_to_another_program(stream: ExternalStream, redis_client: redis.Redis) -> None:
    # The Go consumer claims what is idle for a minute.
    entries = [redis_client.xadd(STREAM, {"data": BYTES}) for _ in range(3)]
    assert [entry for entry, _ in stream.read(3, 0)] == entries
    redis_client.xclaim(STREAM, GROUP, "mine", 0, entries, idle=59_000, justid=True)
    redis_client.xclaim(STREAM, GROUP, "theirs", 0, entries[2:], idle=59_000, justid=True)
    stream.set_idle(entries, 0)
    pending = redis_client.xpending_range(STREAM, GROUP, "-", "+", 10)
    assert [(one["consumer"], one["time_since_delivered"] < 50_000, one["times_delivered"]) for one in pending] == [
        (b"mine", True, 1),
        (b"mine", True, 1),
        (b"theirs", False, 1),  # claimed meanwhile: it stays theirs
    ]


@pytest.mark.parametrize("waiting", [0, 1])
def test_messages_that_others_acknowledged_leave_the_stream(
    stream: ExternalStream, redis_client: redis.Redis, waiting: int
) -> None:
    entries = [redis_client.xadd(STREAM, {"data": BYTES}) for _ in range(81)]
    later = [redis_client.xadd(STREAM, {"data": BYTES}) for _ in range(waiting)]
    assert take(redis_client, "theirs", 81) == entries
    assert stream.tidy() == b"-"
    assert redis_client.xlen(STREAM) == 81 + waiting
    kept = [entries[20], entries[60]]
    redis_client.xack(STREAM, GROUP, *(entry for entry in entries if entry not in kept))
    assert stream.tidy() == b"-"
    # A gap at the last delivered entry would hide the lag: that entry stays while another waits behind it.
    assert [entry for entry, _ in redis_client.xrange(STREAM)] == [*kept, *entries[80:][:waiting], *later]
    assert redis_client.xinfo_groups(STREAM)[0]["lag"] == waiting
    redis_client.xack(STREAM, GROUP, *kept)
    assert stream.tidy() == b"-"
    assert [entry for entry, _ in redis_client.xrange(STREAM)] == later
    assert redis_client.xinfo_groups(STREAM)[0]["lag"] == waiting


def test_messages_that_another_group_may_need_stay(stream: ExternalStream, redis_client: redis.Redis) -> None:
    redis_client.xgroup_create(STREAM, "audit", id="0")
    entry = redis_client.xadd(STREAM, {"data": BYTES})
    take(redis_client, "theirs", 1)
    redis_client.xack(STREAM, GROUP, entry)
    assert stream.tidy() == b"-"
    assert redis_client.xlen(STREAM) == 1


def test_messages_to_be_delivered_again_stay(stream: ExternalStream, redis_client: redis.Redis) -> None:
    entries = [redis_client.xadd(STREAM, {"data": BYTES}) for _ in range(12)]
    take(redis_client, "theirs", 12)
    redis_client.xack(STREAM, GROUP, *entries[:11])
    redis_client.xgroup_setid(STREAM, GROUP, entries[3])  # the operator wants the fifth and the following again
    assert stream.tidy() == b"-"
    assert [entry for entry, _ in redis_client.xrange(STREAM)] == entries[4:]
    redis_client.xgroup_setid(STREAM, GROUP, "0")
    assert stream.tidy() == b"-"
    assert redis_client.xlen(STREAM) == 8
    assert take(redis_client, "theirs", 12) == entries[4:]


def test_tidying_a_long_stream_goes_on_where_it_stopped(stream: ExternalStream, redis_client: redis.Redis) -> None:
    entries = [redis_client.xadd(STREAM, {"data": BYTES}) for _ in range(1200)]
    take(redis_client, "theirs", 1200)
    redis_client.xack(STREAM, GROUP, *entries[700:])
    start, pages = stream.tidy(), 1
    while start != b"-":
        start, pages = stream.tidy(start), pages + 1
    assert (pages, redis_client.xlen(STREAM)) == (3, 700)


def test_payload_refused_by_its_type_becomes_a_dead_letter(make: Make, redis_client: redis.Redis) -> None:
    installation = make(
        {"stream": "a", "type": "plain", "payload": {"journal": "{task_id}"}},
        {"stream": "b", "type": "plain", "payload": {"journal": "{path}"}, "dead_letter": "graveyard"},
    )
    installation.start_worker()
    for stream in ("a", "b"):
        redis_client.xadd(stream, {"data": BYTES})
        wait_empty(redis_client, stream)
    assert [letter["reason"] for letter in dead_letters(redis_client, "a:dlq")] == [
        "journal: Input should be a valid string"
    ]
    (letter,) = dead_letters(redis_client, "graveyard")
    assert letter["reason"].startswith("path: missing, and the template has a place for it")
    assert letter["payload"] == BYTES.decode()


def test_several_streams_feed_several_types_each_with_its_template(
    make: Make, redis_client: redis.Redis, tmp_path: Path
) -> None:
    template = {"id": "{task_id}", "text": "task {task_id} by {source}", "list": ["{retry}", "{x}"], "as is": "{}"}
    installation = make(
        trial(tmp_path, "plain", stream="a"),
        trial(tmp_path, "gentle", stream="b", group="theirs"),
        {"stream": "c", "payload": template},
    )
    installation.start_worker()
    for task_id, stream in enumerate("abc", start=1):
        message = json.loads(BYTES) | {"task_id": task_id, "x": {"deep": None}}
        redis_client.xadd(stream, {"data": json.dumps(message)})
    poll(lambda: [redis_client.xlen(stream) for stream in "abc"] == [0, 0, 0], message="all are done")
    assert installation.notes() == {"start t1": 1, "end t1": 1, "start t2": 1, "end t2": 1}
    types = {row.type: row for row in rows(installation)}
    assert set(types) == {"plain", "gentle", "default"}
    filled = {"id": 3, "text": "task 3 by user_create", "list": [0, {"deep": None}], "as is": "{}"}
    assert json.loads(types["default"].payload) == filled


def test_messages_of_one_unique_key_end_with_one_task(make: Make, redis_client: redis.Redis, tmp_path: Path) -> None:
    installation = make(trial(tmp_path, "lonely", seconds=60))
    installation.start_worker()
    producer = Producer(installation.environ["SYTQ_REDIS__URL"])
    producer.submit_task(7, "system")
    installation.wait_note("start t7")
    producer.submit_task(7, "periodic")
    poll(lambda: seen(redis_client) == (2, 0, 2), message="both are held")
    assert len(rows(installation)) == 1
    producer.stop_task(7)
    wait_empty(redis_client)
    assert [row.state for row in rows(installation) if row.type == "lonely"] == ["cancelled"]


def test_each_message_of_a_batch_of_1000_runs_once(make: Make, redis_client: redis.Redis, database_url: str) -> None:
    installation = make({"stream": STREAM}, database_url=database_url)
    for _ in range(2):
        installation.start_worker()
    producer = Producer(installation.environ["SYTQ_REDIS__URL"])
    ids = producer.submit_tasks([(n, "periodic") for n in range(1, 1001)])
    assert len(set(ids)) == 1000
    wait_empty(redis_client)
    poll(lambda: {row.state for row in rows(installation)} == {"succeeded"}, message="their history is written")
    done = rows(installation)
    assert sorted(json.loads(row.payload)["task_id"] for row in done) == list(range(1, 1001))
    assert {row.attempts for row in done} == {1}


def test_producer_writes_the_format_of_the_contract(redis_url: str, redis_client: redis.Redis) -> None:
    producer = Producer(redis_url)
    assert producer.queue_length() == 0
    first = producer.submit_task((1 << 64) - 1, "user_create")
    producer.stop_task(7)
    assert producer.queue_length() == 2
    (id, fields), (_, stop) = redis_client.xrange(STREAM)
    assert (id.decode(), set(fields)) == (first, {b"data"})
    text = fields[b"data"].decode()
    timestamp = json.loads(text)["timestamp"]
    assert text == (
        f'{{"task_id":18446744073709551615,"action":"execute","timestamp":"{timestamp}","retry":0,"source":"user_create"}}'
    )
    assert len(timestamp) == len("2026-01-09T14:13:17.123456789Z")
    assert abs(dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(timestamp)) < dt.timedelta(minutes=5)
    assert json.loads(stop[b"data"])["action"] == "stop"
    for bad in (0, -1, 1 << 64, True, "7"):
        with pytest.raises(InvalidInput, match="task_id"):
            producer.submit_task(bad, "system")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="source: 7 is not valid; valid: a word"):
        producer.submit_task(7, 7)  # type: ignore[arg-type]
    sources = ("nightly import", "")
    for source in sources:
        producer.submit_task(7, source)
    written = [json.loads(fields[b"data"])["source"] for _, fields in redis_client.xrange(STREAM)]
    assert written == ["user_create", "system", "nightly import", "unknown"]
    producer.close()


def test_consumer_reads_acknowledges_and_lists_pending_messages(redis_url: str, redis_client: redis.Redis) -> None:
    producer, consumer = Producer(redis_url), Consumer(redis_url, name="one")
    assert consumer.pending() == []
    sent = producer.submit_tasks([(n, "periodic") for n in range(1, 6)])
    redis_client.xadd(STREAM, {"data": "nonsense"})
    messages = consumer.read(count=10, wait=0)
    assert [(m.id, m.task_id, m.action, m.source, m.retry) for m in messages] == [
        (id, n, "execute", "periodic", 0) for n, id in enumerate(sent, start=1)
    ]
    assert [letter["payload"] for letter in dead_letters(redis_client)] == ["nonsense"]
    assert consumer.read(wait=0.01) == []
    assert [(p.id, p.consumer, p.deliveries) for p in consumer.pending()] == [(id, "one", 1) for id in sent]
    assert consumer.ack(sent[0])
    assert not consumer.ack(sent[0])
    assert consumer.ack_batch(sent[:3]) == 2
    assert (producer.queue_length(), len(consumer.pending())) == (2, 2)
    # A consumer of the same name continues at once; another consumer claims the messages after `takeover`.
    again = Consumer(redis_url, name="one")
    assert [m.id for m in again.read(wait=0)] == sent[3:]
    other = Consumer(redis_url, takeover=0.2)
    taken = poll(lambda: other.read(wait=0.01), message="unfinished messages are claimed")
    assert [m.id for m in taken] == sent[3:]
    assert other.ack_batch(m.id for m in taken) == 2
    assert seen(redis_client) == (0, 0, 0)
    for each in (producer, consumer, again, other):
        each.close()

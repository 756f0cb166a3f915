"""Inspection: depths and ages, running, delayed and parked tasks, dead letters, lists of the ledger."""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from sytq.broker.dispatcher import Dispatcher, Envelope
from sytq.broker.inspection import Depth, Inspection
from sytq.broker.keys import GROUP
from sytq.errors import InvalidInput
from sytq.ledger.events import Event
from sytq.ledger.models import Task
from sytq.ledger.query import parse
from sytq.ledger.search import COUNT_MAX, Count, Search
from sytq.ledger.values import from_ms, utcnow
from sytq.states import DEAD, QUEUED, STATES
from tests.installation import Installation
from tests.servers import poll


def later(seconds: float) -> dt.datetime:
    return utcnow().replace(microsecond=0) + dt.timedelta(seconds=seconds)


def depth(inspection: Inspection, queue: str, priority: str = "normal") -> Depth:
    (found,) = [d for d in inspection.queues() if (d.queue, d.priority) == (queue, priority)]
    return found


def everything(page: Callable[..., Any], limit: int, **options: Any) -> list[Any]:
    """All items of a list, read in pages; every page but the last is full."""
    found: list[Any] = []
    after: str | None = None
    while True:
        part = page(limit=limit, after=after, **options)
        items = part.tasks if hasattr(part, "tasks") else part.items
        found += items
        after = part.next
        if after is None:
            return found
        assert len(items) == limit


def test_an_unused_redis_is_empty_and_no_error(installation: Installation) -> None:
    inspection = installation.runtime.inspection
    assert {(d.waiting, d.running, d.oldest) for d in inspection.queues()} == {(0, 0, None)}
    assert set(inspection.delayed().values()) == set(inspection.parked().values()) == {0}
    assert inspection.running().items == inspection.delayed_tasks().items == inspection.unreadable().items == []
    assert inspection.live(["x"]) == inspection.cancels(["x"]) == {}
    assert inspection.workers() == []


def test_waiting_tasks_are_counted_with_the_age_of_the_oldest(installation: Installation) -> None:
    inspection = installation.runtime.inspection
    first = installation.submit("plain", "a", seconds=60)
    poll(lambda: (depth(inspection, "plain").oldest or 0) > 0.3, message="it grows older")
    others = [installation.submit("plain", f"t{n}", seconds=60) for n in range(3)]
    installation.submit("plain", "u", priority="urgent")
    assert (depth(inspection, "plain").waiting, depth(inspection, "plain").running) == (4, 0)
    urgent, normal = depth(inspection, "plain", "urgent").oldest or 0, depth(inspection, "plain").oldest or 0
    assert normal - urgent > 0.3, "each has the age of its own first"
    installation.start_worker(threads=1)
    installation.wait_note("start a")
    poll(lambda: depth(inspection, "plain").running == 1, message="one runs, as there is one thread")
    assert depth(inspection, "plain").waiting == 3
    assert inspection.live([first])[first].state == "running"
    installation.runtime.operator.cancel(others[0], "ann")
    assert depth(inspection, "plain").waiting == 2


def test_the_age_is_of_the_oldest_undelivered_task(redis_url: str, installation: Installation) -> None:
    inspection, keys = installation.runtime.inspection, installation.runtime.keys
    with redis.Redis.from_url(redis_url) as client:
        seconds, micros = client.time()
        now = seconds * 1000 + micros // 1000
        stream = keys.stream("plain", "low")
        for ago in (9000, 5000, 2000):
            client.xadd(stream, {"id": "x", "message": "x"}, id=f"{now - ago}-0")

        def oldest() -> float:
            """Seconds that the oldest task had waited when the clock was read."""
            since = time.time() * 1000 - now
            age = depth(inspection, "plain", "low").oldest
            assert age is not None
            return age - since / 1000

        assert 8.9 <= oldest() < 10
        client.xgroup_create(stream, GROUP, "0")
        client.xreadgroup(GROUP, "somebody", {stream: ">"}, count=1)
        found = depth(inspection, "plain", "low")
        assert (found.waiting, found.running) == (2, 1) and 4.9 <= oldest() < 6
        client.xdel(stream, f"{now - 5000}-0")
        assert 1.9 <= oldest() < 3
        client.xreadgroup(GROUP, "somebody", {stream: ">"})
        assert depth(inspection, "plain", "low").oldest is None


def test_queues_of_types_not_installed_are_listed(installation: Installation) -> None:
    inspection, redis, keys = installation.runtime.inspection, installation.runtime.redis, installation.runtime.keys
    later = int(dt.datetime.now(dt.UTC).timestamp() * 1000) + 3_600_000
    Dispatcher(redis, keys).dispatch(
        [
            Envelope("a", "other", "elsewhere", "high", "{}", 1),
            Envelope("b", "other", "elsewhere", "high", "{}", 1, due_ms=later),
        ]
    )
    assert depth(inspection, "elsewhere", "high").waiting == 1
    assert inspection.delayed()["elsewhere"] == 1
    assert [task.id for task in inspection.delayed_tasks(queue="elsewhere").items] == ["b"]
    assert inspection.running(queue="elsewhere").items == []
    with pytest.raises(InvalidInput, match="elsewhere"):
        inspection.running(queue="nowhere")
    parked = keys.parked("elsewhere")
    redis.ask("HSET", parked, "gone", "{}")  # parked by a worker that has the type; the task then ended
    assert inspection.parked()["elsewhere"] == 1
    installation.runtime.operator.restore_pauses()
    assert inspection.parked()["elsewhere"] == 0, "also what is set aside there is looked through"


def test_running_tasks_are_listed_in_pages_with_their_worker(installation: Installation) -> None:
    inspection = installation.runtime.inspection
    names = {"plain": [f"p{n}" for n in range(3)], "gentle": [f"g{n}" for n in range(4)]}
    tasks = {
        installation.submit(type_name, name, seconds=60): type_name for type_name in names for name in names[type_name]
    }
    tasks[installation.submit("gentle", "gu", seconds=60, priority="urgent")] = "gentle"
    worker = installation.start_worker()
    for name in ("p0", "p1", "p2", "g0", "g1", "g2", "g3", "gu"):
        installation.wait_note(f"start {name}")
    whole = everything(inspection.running, limit=100)
    assert {task.id: task.type for task in whole} == tasks
    assert [(task.queue, task.priority) for task in whole] == [
        ("gentle", "urgent"),
        *[("gentle", "normal")] * 4,
        *[("plain", "normal")] * 3,
    ]
    for limit in (1, 2, 3, 4, 8):
        assert [task.id for task in everything(inspection.running, limit=limit)] == [task.id for task in whole]
    plain = everything(inspection.running, limit=2, queue="plain")
    assert {task.id for task in plain} == {id for id, type_name in tasks.items() if type_name == "plain"}
    (name,) = [info.name for info in inspection.workers()]
    assert {(task.worker, task.attempts, task.cancelled_by) for task in whole} == {(name, 1, None)}
    assert all(0 <= task.seconds < 30 and task.worker_age is not None and task.worker_age < 4 for task in whole)
    assert installation.runtime.operator.cancel(plain[0].id, "ann: a mistake") == "asked"
    assert inspection.cancels(list(tasks)) == {plain[0].id: "ann: a mistake"}
    assert everything(inspection.running, limit=1, queue="plain")[0].cancelled_by == "ann: a mistake"
    worker.kill()
    poll(lambda: inspection.running(limit=1).items[0].worker_age > 0.5, message="its heartbeat grows old")


def test_delayed_tasks_are_listed_by_due_time(tmp_path: Path, redis_url: str) -> None:
    retry = '{"retry": {"first": "1h", "max": "2h"}}'
    installation = Installation(tmp_path, f"sqlite:///{tmp_path / 'sytq.db'}", redis_url, SYTQ_TYPES__FAILING=retry)
    try:
        inspection = installation.runtime.inspection
        same = [installation.submit("plain", "-", run_at=later(500)) for _ in range(5)]
        due = later(400)
        near = installation.submit("plain", "-", run_at=due, priority="low")
        failing = installation.submit("failing", "f")
        installation.start_worker()
        poll(lambda: inspection.live([failing])[failing].state == "retrying", message="it waits for another attempt")
        whole = everything(inspection.delayed_tasks, limit=100)
        assert [task.id for task in whole] == [failing, near, *sorted(same)]
        assert [(task.state, task.attempts, task.type) for task in whole[:2]] == [
            ("retrying", 1, "failing"),
            ("scheduled", 0, "plain"),
        ]
        assert whole[1].priority == "low"
        assert abs(whole[1].due - due.replace(tzinfo=dt.UTC).timestamp()) < 1
        for limit in (1, 2, 3, 7):
            assert everything(inspection.delayed_tasks, limit=limit) == whole
        assert inspection.delayed() | {"gentle": 1, "plain": 6} == inspection.delayed()
        # Nothing is left out if the last task of a page leaves before the next page is read.
        page = inspection.delayed_tasks(queue="plain", limit=3)
        installation.runtime.operator.cancel(page.items[-1].id, "ann")
        rest = inspection.delayed_tasks(queue="plain", limit=10, after=page.next).items
        assert set(same) - {task.id for task in page.items} <= {task.id for task in rest}
    finally:
        installation.close()


def test_tasks_of_a_paused_type_are_shown_as_parked(installation: Installation) -> None:
    inspection = installation.runtime.inspection
    installation.runtime.operator.pause("plain", by="ann", why="moving")
    task = installation.submit("plain", "a")
    assert not inspection.live([task])[task].parked
    installation.start_worker()
    poll(lambda: inspection.parked()["plain"] == 1, message="a worker met it")
    assert inspection.live([task])[task].parked
    assert depth(inspection, "plain") == Depth("plain", "normal", 0, 0, None)


def test_dead_letters_are_listed_with_their_bytes(redis_url: str, installation: Installation) -> None:
    inspection, keys = installation.runtime.inspection, installation.runtime.keys
    junk = [b"\xff\x00 no message"]
    # Messages in form, but not of this service.
    odd = {"options": None}, {"options": {"traceparent": 1}}, {"args": 1}, {"message_timestamp": None}
    message = {"queue_name": "plain", "actor_name": "plain", "args": [{}], "kwargs": {}, "message_id": "y"}
    junk += [json.dumps(message | {"options": {}} | fields).encode() for fields in odd]
    with redis.Redis.from_url(redis_url) as client:
        for body in junk:
            client.xadd(keys.stream("plain", "high"), {"id": "x", "message": body})
        among = installation.submit("plain", "among", priority="high")
        installation.start_worker()
        installation.wait_state(among, "succeeded")
        poll(lambda: len(inspection.unreadable().items) == len(junk), message="they are set aside")
        client.xadd(keys.deadletters, {"reason": "DataError('too long')", "kind": "ended", "id": "y", "data": "{}"})
    found = everything(inspection.unreadable, limit=2)
    assert [item.raw for item in found] == [b"{}", *reversed(junk)]
    assert (found[0].source, found[0].reason) == ("events", "DataError('too long')")
    assert {item.source for item in found[1:]} == {keys.stream("plain", "high")}


@pytest.mark.parametrize(
    "cursor", ["", "x", "YzIwMjYtMDEtMDEgMDA6MDA6MDA", "plain/normal/1", "plain/nosuch/1-1", "1-1/"]
)
def test_a_cursor_of_another_list_is_refused(installation: Installation, cursor: str) -> None:
    parts = installation.runtime
    for page in (parts.inspection.running, parts.inspection.delayed_tasks, parts.inspection.unreadable):
        with pytest.raises(InvalidInput, match=r"after: .* is no cursor"):
            page(limit=1, after=cursor)
    with pytest.raises(InvalidInput, match=r"after: .* is no cursor"):
        Search(parts.database).page(parse(""), limit=1, after=cursor)
    with pytest.raises(InvalidInput, match=r"queue: 'nosuch' is not a queue; valid: .*gentle"):
        parts.inspection.running(queue="nosuch")


@pytest.fixture
def ledger(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[Installation]:
    made = Installation(tmp_path, database_url, redis_url)
    yield made
    made.close()


def test_the_ledger_lists_each_task_once_latest_first(ledger: Installation) -> None:
    history, submitter = Search(ledger.runtime.database), ledger.runtime.submitter
    batch = [ledger.prepare("plain" if n % 2 else "gentle", f"t{n}") for n in range(9)]
    submitter.submit(batch)  # one statement: on MySQL all have the same time
    last = ledger.submit("plain", "last")
    whole = everything(history.page, limit=100, wanted=parse(""))
    assert whole[0].id == last and {task.id for task in whole} == {last, *(task.id for task in batch)}
    assert whole == sorted(whole, key=lambda task: (task.created_at, task.id), reverse=True)
    assert "payload" not in whole[0].__data__
    for limit in (1, 2, 3, 10):
        assert [task.id for task in everything(history.page, limit=limit, wanted=parse(""))] == [t.id for t in whole]
    plain = everything(history.page, limit=2, wanted=parse("type:plain state:queued,dead"))
    assert [task.id for task in plain] == [task.id for task in whole if task.type == "plain"]
    assert everything(history.page, limit=2, wanted=parse("queue:gentle state:dead")) == []
    assert len(everything(history.page, limit=2, wanted=parse("queue:gentle"))) == 5
    counts = history.counts(["plain", "gentle"])
    assert counts.by_type["plain"] == dict.fromkeys(STATES, 0) | {QUEUED: 5}
    assert list(counts.oldest) == [QUEUED] and abs((utcnow() - counts.oldest[QUEUED]).total_seconds()) < 60


def test_ended_tasks_are_listed_by_end_and_found_by_outcome(ledger: Installation) -> None:
    history, parts = Search(ledger.runtime.database), ledger.runtime
    tasks = [ledger.prepare("plain", f"t{n}") for n in range(8)]
    parts.ledger.accept(tasks)
    start = 1_700_000_000_000
    ends = [
        start + 1000 * (n // 2) + (250 if n >= 4 else 0) for n in range(8)
    ]  # pairs with the same time, some without ms
    said = ["100% wrong", "a_b", "axb", "100 wrong"] * 2
    parts.recording.write(
        [
            Event(task.id, DEAD, 1, 1, finished_at=from_ms(end), error=error, outcome=DEAD)
            for task, end, error in zip(tasks, ends, said, strict=True)
        ]
    )
    expected = [task.id for _, task in sorted(zip(ends, tasks, strict=True), key=lambda p: (p[0], p[1].id))][::-1]
    for limit in (1, 2, 3, 8):
        assert [t.id for t in everything(history.page, limit=limit, wanted=parse("state:dead,succeeded"))] == expected
    assert [task.id for page in history.pages(parse("state:dead"), size=3) for task in page] == expected
    moment = dt.datetime.fromtimestamp(start / 1000 + 1, dt.UTC).isoformat()
    assert history.count(parse(f"state:dead finished:>={moment}")).number == 6
    assert history.count(parse(f"state:dead finished:<{moment}")).number == 2
    assert (
        history.count(parse("state:dead error:100%")).number == history.count(parse("state:dead error:a_b")).number == 2
    )
    assert history.count(parse(f"state:dead id:{tasks[0].id},nosuch")).number == 1
    assert history.count(parse("state:succeeded")).number == 0
    assert history.count(parse("state:dead"), 3) == Count(3, exact=False)


def test_paging_continues_while_listed_tasks_are_deleted(ledger: Installation) -> None:
    history, parts = Search(ledger.runtime.database), ledger.runtime
    tasks = [ledger.prepare("hopeless", f"t{n}") for n in range(7)]
    parts.ledger.accept(tasks)
    ended = from_ms(1_700_000_000_000)
    parts.recording.write([Event(task.id, DEAD, 1, 1, finished_at=ended, error="x", outcome=DEAD) for task in tasks])
    seen = []
    for page in history.pages(parse("state:dead"), size=2):
        seen += [task.id for task in page]
        assert parts.operator.delete([task.id for task in page]) == len(page)
    assert sorted(seen) == sorted(task.id for task in tasks)
    assert history.count(parse("")).number == 0


def test_counts_stop_at_the_maximum(ledger: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sytq.ledger.search.COUNT_MAX", 3)
    assert COUNT_MAX >= 1000
    ledger.runtime.ledger.accept([ledger.prepare("plain", f"t{n}") for n in range(6)])
    assert Search(ledger.runtime.database).counts(["plain"]).by_type["plain"][QUEUED] == 4
    with ledger.runtime.database.connection_context():
        assert Task.select().count() == 6

"""P1 to P3 for dependents: under every fault, a dependent runs once and receives every end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sytq.ledger.events import Event
from sytq.ledger.models import Task
from sytq.ledger.values import utcnow
from tests.installation import Installation
from tests.servers import MySQLServer, RedisServer, poll

pytestmark = pytest.mark.faults

Start = Callable[[], Installation]


@pytest.fixture
def on_both(tmp_path: Path, database_url: str, own_redis: RedisServer) -> Iterator[Installation]:
    made = Installation(tmp_path, database_url, own_redis.url)
    yield made
    if not own_redis.running:
        own_redis.start()
    made.close()


def fan_out(installation: Installation, number: int, seconds: float, *, dies: bool = False) -> str:
    journal = str(installation.journal)
    parts = [{"journal": journal, "name": f"p{n}", "seconds": seconds} for n in range(number)]
    payload = {"journal": journal, "name": "all", "parts": parts, "dies": dies}
    task = installation.runtime.submitter.prepare("fan", payload)
    installation.runtime.submitter.submit([task])
    return task.id


def assert_receives_all_ends(installation: Installation, root: str, number: int) -> None:
    dependent = json.loads(installation.wait_state(root, "succeeded", timeout=60).result or "null")
    row = installation.wait_state(dependent, "succeeded", timeout=60)
    ends = json.loads(row.result or "null")["heard"]
    assert [(state, result["part"]) for _, state, result, _ in ends] == [("succeeded", f"p{n}") for n in range(number)]
    with installation.runtime.database.connection_context():
        assert Task.select().where(Task.parent == root).count() == number + 1


def test_p3_workers_killed_during_a_workflow_lose_no_task(on_both: Installation) -> None:
    worker = on_both.start_worker(threads=4)
    on_both.hold("p23")  # so that no worker is killed while it runs the dependent
    root = fan_out(on_both, 24, 0.1)
    for part in ("p5", "p11", "p17", "p23"):
        on_both.wait_note(f"part {part}")
        worker.kill()
        worker = on_both.start_worker(threads=4)
    on_both.release("p23")
    assert_receives_all_ends(on_both, root, 24)
    assert on_both.notes()["collect all"] == 1  # no worker died while it ran


def test_p3_parent_dying_before_its_dependent_creates_no_duplicates(
    on_both: Installation,
) -> None:
    on_both.start_worker()
    root = fan_out(on_both, 5, 0.0, dies=True)
    with on_both.runtime.database.connection_context():
        poll(lambda: Task.select().where(Task.parent == root).count() == 5, message="the children")
    on_both.start_worker()
    assert_receives_all_ends(on_both, root, 5)
    notes = on_both.notes()
    assert notes["collect all"] == 1
    assert sum(count for note, count in notes.items() if note.startswith("part ")) >= 5


def test_p2_an_emptied_redis_loses_no_workflow(on_both: Installation, own_redis: RedisServer) -> None:
    on_both.start_worker(threads=2)
    root = fan_out(on_both, 12, 0.3)
    for part in ("p1", "p5", "p9", "p11"):
        on_both.wait_note(f"part {part}", timeout=60)
        own_redis.client().flushall()
    assert_receives_all_ends(on_both, root, 12)


def test_p2_redis_outage_at_the_last_end_only_delays_dependents(on_both: Installation, own_redis: RedisServer) -> None:
    on_both.start_worker()
    on_both.hold("p0", "p1", "p2")
    root = fan_out(on_both, 3, 0.0)
    for part in range(3):
        on_both.wait_note(f"part p{part}")
    own_redis.kill()
    on_both.release("p0", "p1", "p2")
    own_redis.start()
    assert_receives_all_ends(on_both, root, 3)
    assert on_both.notes()["collect all"] == 1


def test_p1_database_outage_at_the_last_end_only_delays_dependents(
    tmp_path: Path, own_mysql: MySQLServer, redis_url: str
) -> None:
    database = own_mysql.create_database("sytq")
    installation = Installation(tmp_path, database, redis_url, SYTQ_DATABASE__TIMEOUT="2s")
    try:
        worker = installation.start_worker()
        installation.hold("p0", "p1", "p2")
        root = fan_out(installation, 3, 0.0)
        for part in range(3):
            installation.wait_note(f"part p{part}")
        own_mysql.kill()
        installation.release("p0", "p1", "p2")
        poll(lambda: "loop waits" in worker.text(), message="the recorder notices")
        own_mysql.start()
        assert_receives_all_ends(installation, root, 3)
        assert installation.notes()["collect all"] == 1
    finally:
        installation.close()


def test_p1_recorder_death_after_its_commit_only_delays_dependents(on_both: Installation) -> None:
    child = on_both.prepare("plain", "child")
    last = on_both.prepare("plain", "last", after=[child.id])
    on_both.runtime.ledger.accept([child, last])
    end = Event(child.id, "succeeded", 1, 1, finished_at=utcnow())
    released = on_both.runtime.recording.write([end])
    assert [task.id for task in released] == [last.id]  # and the dispatch never happens
    on_both.start_worker()
    on_both.wait_state(last.id, "succeeded")
    assert on_both.notes() == {"start last": 1, "end last": 1}


def test_p6_end_recorded_twice_starts_dependents_once(on_both: Installation, own_redis: RedisServer) -> None:
    on_both.start_worker()
    root = fan_out(on_both, 6, 0.0)
    # The recorder reads everything from the beginning, as after a failover to an outdated replica.
    events = on_both.runtime.keys.events
    for part in range(6):
        on_both.wait_note(f"part p{part}")
        own_redis.client().xgroup_setid(events, "recorder", "0")
    assert_receives_all_ends(on_both, root, 6)
    own_redis.client().xgroup_setid(events, "recorder", "0")
    after = on_both.submit("plain", "after")
    on_both.wait_state(after, "succeeded")
    assert on_both.notes()["collect all"] == 1


def test_end_written_by_another_program_reaches_dependents(on_both: Installation) -> None:
    child = on_both.prepare("plain", "child", run_at=utcnow().replace(year=2040))
    careful, careless = (
        on_both.prepare("plain", rule, after=[child.id], on_failure=rule) for rule in ("cancel", "run")
    )
    on_both.runtime.submitter.submit([child, careful, careless])
    on_both.start_worker()
    with on_both.runtime.database.connection_context():
        Task.update(state="cancelled", finished_at=utcnow()).where(Task.id == child.id).execute()
    on_both.wait_state(careless.id, "succeeded")
    assert on_both.row(careful.id).error == f"not run: plain {child.id} is cancelled"

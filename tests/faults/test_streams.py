"""Contract C under faults: a message stays pending until its task has ended."""

from __future__ import annotations

import json
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from sytq.broker.connection import Redis
from sytq.ledger.ledger import NewTask
from sytq.ledger.models import Task
from sytq.runtime import Runtime
from sytq.streams.client import Consumer, Producer
from sytq.streams.loop import message_task_id
from tests.installation import Installation
from tests.processes import Process
from tests.servers import RedisServer, poll
from tests.topologies import RedisCluster

pytestmark = pytest.mark.faults

STREAM, GROUP = "their:queue", "scheduler_group"
Make = Callable[..., Installation]


@pytest.fixture
def make(tmp_path: Path, redis_url: str) -> Iterator[Make]:
    made: list[Installation] = []

    def build(type_name: str, url: str = redis_url, *, seconds: float = 0.0, **settings: str) -> Installation:
        payload = {"journal": str(tmp_path / "journal"), "name": "t{task_id}", "seconds": seconds}
        stream = {"stream": STREAM, "type": type_name, "payload": payload, "claim_idle": "1s"}
        settings["SYTQ_STREAMS"] = json.dumps([stream])
        made.append(Installation(tmp_path, f"sqlite:///{tmp_path / 'sytq.db'}", url, **settings))
        return made[-1]

    yield build
    for installation in made:
        installation.close()


def producer(installation: Installation) -> Producer:
    return Producer(installation.environ["SYTQ_REDIS__URL"], STREAM)


def holders(client: redis.Redis) -> dict[str, str]:
    """Entry id -> consumer."""
    found = client.xpending_range(STREAM, GROUP, "-", "+", 1000)
    return {each["message_id"].decode(): each["consumer"].decode() for each in found}


def wait_empty(client: redis.Redis, timeout: float = 60) -> None:
    poll(lambda: client.xlen(STREAM) == 0, timeout, message="the stream empties")
    assert holders(client) == {}


def states(runtime: Runtime) -> Counter[str]:
    with runtime.database.connection_context():
        return Counter(row.state for row in Task.select())


@pytest.mark.parametrize("type_name", ["plain", "gentle"])
def test_message_of_a_killed_worker_is_finished_once_by_another(
    make: Make, redis_client: redis.Redis, type_name: str
) -> None:
    installation = make(type_name)
    installation.hold("t7")
    first = installation.start_worker()
    producer(installation).submit_task(7, "system")
    installation.wait_note("start t7")
    ((entry, holder),) = holders(redis_client).items()
    first.kill()
    installation.start_worker()
    installation.wait_note("start t7", times=2)
    assert set(holders(redis_client)) == {entry}  # pending until its work has ended
    installation.release("t7")
    wait_empty(redis_client)
    assert holder not in holders(redis_client).values()
    assert installation.notes() == {"start t7": 2, "end t7": 1}
    poll(lambda: states(installation.runtime) == {"succeeded": 1}, message="one task")


def test_dead_consumer_does_not_repeat_tasks_ended_on_other_workers(make: Make, redis_client: redis.Redis) -> None:
    installation = make("gentle")
    installation.hold(*(f"t{n}" for n in range(1, 21)))
    # It reads all the messages, and leaves all tasks but perhaps the first to others.
    holding = installation.start_worker(SYTQ_QUEUES__GENTLE='{"limit": 1}')
    name = poll(installation.runtime.inspection.workers, message="the first heartbeat")[0].name
    installation.start_worker(SYTQ_STREAMS="[]")  # runs tasks and reads no stream
    producer(installation).submit_tasks([(n, "periodic") for n in range(1, 21)])
    for n in range(1, 21):
        installation.wait_note(f"start t{n}")
    assert set(holders(redis_client).values()) == {name}
    ids = {message_task_id(STREAM, entry): n for n, entry in enumerate(holders(redis_client), start=1)}
    live = installation.runtime.inspection.live(list(ids))
    elsewhere = {n for id, n in ids.items() if live[id].worker != name}
    assert len(elsewhere) >= 19
    holding.signal(signal.SIGSTOP)  # before any of them ends
    installation.release(*(f"t{n}" for n in range(1, 21)))
    for n in elsewhere:
        installation.wait_note(f"end t{n}")
    assert len(holders(redis_client)) == 20
    holding.kill()
    installation.start_worker()
    wait_empty(redis_client)
    notes = installation.notes()
    assert {n for n in range(1, 21) if notes[f"start t{n}"] == 1} == elsewhere
    assert all(notes[f"end t{n}"] == 1 for n in range(1, 21))
    poll(
        lambda: states(installation.runtime) == {"succeeded": 20},
        message=lambda: f"each succeeds once: {states(installation.runtime)}",
    )


def test_message_of_an_ended_task_is_only_acknowledged(make: Make, redis_client: redis.Redis) -> None:
    installation = make("plain")
    gone = Consumer(installation.environ["SYTQ_REDIS__URL"], STREAM, name="gone")
    producer(installation).submit_tasks([(1, "system"), (2, "system")])
    gone.pending()
    done, new = poll(lambda: gone.read(wait=0), message="the consumer reads")  # and dies
    ledger, task_id = installation.runtime.ledger, message_task_id(STREAM, done.id)
    ledger.accept([NewTask(task_id, "plain", "plain", "normal", "{}")])
    with installation.runtime.database.connection_context():
        Task.update(state="succeeded").where(Task.id == task_id).execute()
    installation.start_worker()
    installation.wait_note("end t2")
    wait_empty(redis_client)
    assert installation.notes() == {"start t2": 1, "end t2": 1}
    assert installation.row(message_task_id(STREAM, new.id)).attempts <= 1


def test_messages_of_a_stopped_worker_are_claimed_at_once(make: Make, redis_client: redis.Redis) -> None:
    installation = make("gentle", SYTQ_WORKER__LIVENESS="10m")
    installation.hold("t7")
    first = installation.start_worker(SYTQ_WORKER__SHUTDOWN_TIMEOUT="0s")
    producer(installation).submit_task(7, "system")
    installation.wait_note("start t7")
    assert first.terminate() == 0
    second = installation.start_worker()
    poll(lambda: "messages taken over" in second.text(), message="the message is claimed")
    installation.wait_note("start t7", times=2)
    installation.release("t7")
    wait_empty(redis_client)
    assert installation.notes() == {"start t7": 2, "end t7": 1}


def test_stop_read_by_a_killed_worker_still_cancels_its_task(make: Make, redis_client: redis.Redis) -> None:
    installation = make("gentle", seconds=60)
    gone = Consumer(installation.environ["SYTQ_REDIS__URL"], STREAM, name="gone")
    mine = producer(installation)
    mine.submit_task(7, "system")
    mine.stop_task(7)
    poll(lambda: gone.read(wait=0), message="the consumer reads both")  # and dies
    installation.start_worker()
    wait_empty(redis_client)
    poll(lambda: states(installation.runtime) == {"cancelled": 1}, message="it is cancelled")
    assert installation.notes()["end t7"] == 0


def test_a_lost_reply_loses_no_message(make: Make, own_redis: RedisServer) -> None:
    installation = make("plain", own_redis.url)
    worker = installation.start_worker()
    client = own_redis.client()
    mine = producer(installation)
    mine.submit_task(1, "system")
    installation.wait_note("end t1")
    wait_empty(client)
    (consumer,) = (each["name"] for each in client.xinfo_consumers(STREAM, GROUP))
    with client.pipeline() as pipe:  # delivered to the worker, which never gets the reply
        pipe.xadd(STREAM, {"data": '{"task_id": 2, "action": "execute"}'})
        pipe.xreadgroup(GROUP, consumer, {STREAM: ">"})
        pipe.execute()
    installation.wait_note("end t2")
    wait_empty(client)
    assert worker.alive


def test_streams_recover_after_redis_is_emptied_or_restarted(make: Make, own_redis: RedisServer) -> None:
    installation = make("plain", own_redis.url, seconds=0.5)
    worker = installation.start_worker()
    mine = producer(installation)
    mine.submit_task(1, "system")
    installation.wait_note("start t1")
    own_redis.client().flushall()
    mine.submit_task(2, "system")
    installation.wait_note("end t2")
    wait_empty(own_redis.client())
    mine.submit_task(3, "system")
    installation.wait_note("start t3")
    own_redis.kill()
    own_redis.start()
    wait_empty(own_redis.client())
    mine.submit_task(4, "system")
    wait_empty(own_redis.client())
    assert worker.alive
    assert installation.notes() == {f"{word} t{n}": 1 for n in range(1, 5) for word in ("start", "end")}


@pytest.fixture
def cluster() -> Iterator[RedisCluster]:
    made = RedisCluster()
    try:
        made.start()
        yield made
    finally:
        made.remove()


def test_external_stream_works_in_a_cluster_slot_of_its_own(cluster: RedisCluster, make: Make) -> None:
    installation = make("gentle", cluster.url)
    installation.hold("t1", "t2")
    client = Redis(cluster.url)
    first = installation.start_worker()
    mine = producer(installation)
    mine.submit_task(1, "system")
    client.ask("XADD", STREAM, "*", "data", "nonsense")
    installation.wait_note("start t1")
    first.kill()
    installation.release("t1")
    installation.start_worker()
    mine.submit_task(2, "system")
    installation.wait_note("start t2")
    mine.stop_task(2)
    poll(lambda: mine.queue_length() == 0, message="the stream empties")
    assert installation.notes() == {"start t1": 2, "end t1": 1, "start t2": 1}
    ((_, letter),) = client.ask("XRANGE", f"{STREAM}:dlq", "-", "+")
    assert (letter[b"payload"], letter[b"reason"]) == (b"nonsense", b"data: not JSON in UTF-8")
    places = {cluster.owner(key).port for key in (STREAM, f"{STREAM}:dlq", installation.runtime.keys.live)}
    assert len(places) > 1
    client.close()


def wait_refused(worker: Process, seen: int) -> None:
    """Wait for a round of the loop that Redis refuses; such a round is logged once."""
    said = re.compile(rf'"error": "Redis refuses [^"]*", "loop": "stream {STREAM}"')
    poll(lambda: said.search(worker.text(), seen), message=lambda: worker.text()[-2000:])


def test_refused_rights_delay_messages_and_repeat_none(make: Make, own_redis: RedisServer) -> None:
    with own_redis.client() as client:

        def user(*rules: str) -> None:
            client.execute_command("ACL", "SETUSER", "app", "reset", "on", "nopass", "~*", "+@all", *rules)

        user()
        installation = make("gentle", own_redis.url.replace("redis://", "redis://app:any@"))
        worker = installation.start_worker()
        for number, rules in enumerate(("resetkeys ~{sytq}:*", "-xack", "-@scripting"), start=1):
            name, seen = f"t{number}", len(worker.text())
            installation.hold(name)
            client.xadd(STREAM, {"data": json.dumps({"task_id": number, "action": "execute"})})
            installation.wait_note(f"start {name}")
            user(*rules.split())
            client.xadd(STREAM, {"data": "unreadable"})
            installation.release(name)
            wait_refused(worker, seen)
            user()
            wait_empty(client)
            assert installation.notes()[f"start {name}"] == installation.notes()[f"end {name}"] == 1, rules
            assert client.xlen(f"{STREAM}:dlq") == number, rules
        poll(lambda: states(installation.runtime) == {"succeeded": 3}, message="the ends are recorded")
        assert worker.alive and "loop failed" not in worker.text()

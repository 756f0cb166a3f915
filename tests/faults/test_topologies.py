"""P1, P2, P3 on every kind of Redis: a cluster, a master with Sentinels, and each supported server program."""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sytq.broker.connection import Redis
from sytq.broker.keys import GROUP
from sytq.errors import RedisUnavailable
from tests.installation import Installation
from tests.servers import RedisServer, poll
from tests.topologies import RedisCluster, SentinelGroup, server_programs

pytestmark = pytest.mark.faults

#: A key of ours; all others share its slot.
OURS = "{sytq}"


@pytest.fixture
def cluster() -> Iterator[RedisCluster]:
    made = RedisCluster()
    try:
        made.start()
        yield made
    finally:
        made.remove()


@pytest.fixture
def watched() -> Iterator[SentinelGroup]:
    made = SentinelGroup()
    try:
        made.start()
        yield made
    finally:
        made.remove()


@pytest.fixture
def install(tmp_path: Path) -> Iterator[Callable[[str], Installation]]:
    """Make an installation on a Redis; it is closed before the Redis is removed."""
    made: list[Installation] = []

    def make(redis_url: str) -> Installation:
        made.append(Installation(tmp_path, f"sqlite:///{tmp_path / 'sytq.db'}", redis_url))
        return made[-1]

    yield make
    for one in made:
        one.close()


def assert_tasks_run(installation: Installation) -> None:
    """Sync and async tasks, retries up to the dead state, a delayed task, and nothing left behind."""
    soon = dt.datetime.now(dt.UTC).replace(tzinfo=None) + dt.timedelta(seconds=0.5)
    plain = installation.submit("plain", "p")
    gentle = installation.submit("gentle", "g")
    failing = installation.submit("failing", "f")
    delayed = installation.submit("plain", "d", run_at=soon)
    for task in (plain, gentle, delayed):
        assert installation.wait_state(task, "succeeded").attempts == 1
    assert installation.wait_state(failing, "dead").attempts == 3
    installation.wait_note("dead-3 f")
    assert installation.notes() == {
        **{f"{word} {name}": 1 for word in ("start", "end") for name in "pgd"},
        "start f": 3,
        "dead-3 f": 1,
    }
    inspection = installation.runtime.inspection
    poll(
        lambda: {depth.waiting + depth.running for depth in inspection.queues()} == {0},
        message="the task that wrote the last note is acknowledged",
    )
    assert sum(inspection.delayed().values()) == 0
    assert inspection.totals()["plain", "succeeded"] == 2
    assert [worker.age < 4 for worker in inspection.workers()] == [True]


@pytest.mark.parametrize("program", server_programs().values(), ids=server_programs())
def test_p1_tasks_run_on_every_server_program(install: Callable[[str], Installation], program: str) -> None:
    server = RedisServer(program)
    try:
        server.start()
        installation = install(server.url)
        installation.start_worker()
        assert_tasks_run(installation)
        installation.close()
    finally:
        server.remove()


def test_p3_killed_workers_tasks_restart_on_a_cluster(
    cluster: RedisCluster, install: Callable[[str], Installation]
) -> None:
    installation = install(cluster.url)
    first = installation.start_worker()
    assert_tasks_run(installation)
    installation.hold("a")
    task = installation.submit("plain", "a")
    installation.wait_note("start a")
    first.kill()
    installation.release("a")
    installation.start_worker()
    assert installation.wait_state(task, "succeeded").attempts == 1
    assert installation.notes()["end a"] == 1


def test_p2_death_of_a_cluster_node_without_our_slot_has_no_effect(
    cluster: RedisCluster, install: Callable[[str], Installation]
) -> None:
    installation = install(cluster.url)
    worker = installation.start_worker()
    running = installation.submit("gentle", "running", seconds=3)
    installation.wait_note("start running")
    owner = cluster.owner(OURS)
    other = next(node for node in cluster.nodes[:3] if node is not owner)
    other.kill()
    poll(lambda: b"fail" in owner.ask("CLUSTER", "NODES"), message="the cluster notices")
    assert_tasks_run_through(installation, "after")
    assert installation.wait_state(running, "succeeded").attempts == 1
    late = install(cluster.url)  # and a new client connects despite the dead node
    late.runtime.redis.ask("PING")
    late.start_worker()
    assert_tasks_run_through(late, "late")
    assert "Redis" not in worker.text()


def test_p2_slot_migration_under_load_loses_no_task(
    cluster: RedisCluster, install: Callable[[str], Installation]
) -> None:
    installation = install(cluster.url)
    worker = installation.start_worker()
    source = cluster.owner(OURS)
    running = installation.submit("gentle", "running", seconds=2)
    tasks = [installation.submit("plain", f"t{n}", seconds=0.02) for n in range(40)]
    installation.wait_note("start t5")
    during: list[str] = []
    cluster.move(OURS, meanwhile=lambda: during.append(installation.submit("plain", f"m{len(during)}")))
    assert cluster.owner(OURS) is not source
    for task in (running, *tasks, *during):
        assert installation.wait_state(task, "succeeded").attempts == 1
    assert set(installation.notes().values()) == {1}
    assert during, "tasks were submitted during the move"
    assert worker.alive


def test_p2_replica_takes_over_when_the_cluster_node_of_our_slot_dies(
    cluster: RedisCluster, install: Callable[[str], Installation]
) -> None:
    installation = install(cluster.url)
    owner = cluster.owner(OURS)
    replica = cluster.replicate(owner)
    assert_survives_failover(installation, owner)
    assert cluster.owner(OURS) is replica


def test_p2_sentinel_failover_loses_no_task(watched: SentinelGroup, install: Callable[[str], Installation]) -> None:
    installation = install(watched.url)
    master = watched.master()
    assert_survives_failover(installation, master)
    assert watched.master() is not master
    master.start()  # it comes back as a replica
    poll(lambda: master.client().info("replication")["role"] == "slave", message="the old master follows the new one")
    assert_tasks_run_through(installation, "after")


def test_restarted_sentinels_are_asked_again(watched: SentinelGroup) -> None:
    connection = Redis(watched.url)
    first, second, third = watched.sentinels
    first.kill()
    together = threading.Barrier(20)

    def ask(_: int) -> bool:
        together.wait()
        return bool(connection.ask("PING"))

    with ThreadPoolExecutor(20) as threads:  # redis-py reorders its list while it asks
        assert all(threads.map(ask, range(20)))
    first.start()
    for others in ((second, third), (first, third), (first, second)):
        for sentinel in others:
            sentinel.kill()
        connection.close()
        assert connection.ask("PING")
        for sentinel in others:
            sentinel.start()
    for sentinel in watched.sentinels:
        sentinel.kill()
    connection.close()
    with pytest.raises(RedisUnavailable, match="none of the 3 Sentinels names a running master of 'main'"):
        connection.ask("PING")


def assert_tasks_run_through(installation: Installation, name: str) -> None:
    for type_name in ("plain", "gentle"):
        task = installation.submit(type_name, f"{type_name}-{name}")
        assert installation.wait_state(task, "succeeded").attempts == 1


def assert_survives_failover(installation: Installation, master: RedisServer) -> None:
    """Kill the server of our keys while its replica is in sync: all tasks continue there, and none runs twice."""
    # A busy machine may take seconds to elect; no lease may expire meanwhile.
    workers = [installation.start_worker(SYTQ_WORKER__LIVENESS="7s") for _ in range(2)]
    running = [installation.submit(type_name, f"{type_name}-running", seconds=5) for type_name in ("plain", "gentle")]
    soon = dt.datetime.now(dt.UTC).replace(tzinfo=None) + dt.timedelta(seconds=4)
    delayed = installation.submit("plain", "delayed", run_at=soon)
    for type_name in ("plain", "gentle"):
        installation.wait_note(f"start {type_name}-running")
    with master.client() as client:
        assert client.wait(1, 60_000) == 1, "the replica has everything"
    master.kill()
    meanwhile = [installation.submit("plain", f"t{n}") for n in range(5)]
    assert all(installation.row(task) for task in meanwhile), "they are accepted"
    for task in (*running, *meanwhile, delayed):
        row = installation.wait_state(task, "succeeded")
        assert row.attempts == 1, installation.notes()
    assert json.loads(row.result) == {"name": "delayed"}
    assert set(installation.notes().values()) == {1}
    assert all(worker.alive for worker in workers)


def test_p6_attempt_unknown_to_a_promoted_replica_is_repeated_once(
    own_redis: RedisServer, install: Callable[[str], Installation]
) -> None:
    installation = install(own_redis.url)
    installation.hold("a")
    task = installation.submit("gentle", "a")
    keys = installation.runtime.keys
    stream = keys.stream("gentle", "normal")
    with own_redis.client() as client:
        before = client.hget(keys.live, task)
        assert before is not None
        installation.start_worker()
        installation.wait_note("start a")
        with client.pipeline() as pipe:  # the state of a replica that lags behind by this attempt
            pipe.hset(keys.live, task, before)
            ((entry, _),) = client.xrange(stream)
            pipe.xack(stream, GROUP, entry)
            pipe.xgroup_setid(stream, GROUP, "0")
            pipe.execute()
    installation.wait_note("start a", times=2)
    installation.release("a")
    installation.wait_state(task, "succeeded")
    assert installation.notes()["start a"] == 2

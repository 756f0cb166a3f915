"""P2: Redis restarts, fails over, is full or loses the scripts; accepted tasks still run."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installation import Installation
from tests.processes import Process
from tests.proxy import Proxy
from tests.servers import RedisServer, poll

pytestmark = pytest.mark.faults

SOON = {"SYTQ_WORKER__LIVENESS": "2s", "SYTQ_WORKER__HEARTBEAT": "500ms"}
WITHOUT_FILE = ("--appendonly", "no")


@pytest.fixture
def breakable(tmp_path: Path, own_redis: RedisServer) -> Iterator[Installation]:
    made = Installation(tmp_path, f"sqlite:///{tmp_path / 'sytq.db'}", own_redis.url)
    yield made
    made.close()


class Load:
    """Tasks in every state at the moment of the fault: running (sync and async), waiting, delayed, about to fail.

    The running tasks continue until `release` or `assert_goes_on`.
    """

    def __init__(self, installation: Installation) -> None:
        self._on = installation
        self._held = True
        installation.hold("plain", "gentle")
        self.worker = installation.start_worker(threads=2)
        self.running = {kind: installation.submit(kind, kind) for kind in ("plain", "gentle")}
        for name in self.running:
            installation.wait_note(f"start {name}")
        self.others = {f"w{n}": installation.submit("plain", f"w{n}", seconds=0.2) for n in range(10)}
        installation.wait_note("start w0")
        later = dt.datetime.now(dt.UTC).replace(tzinfo=None) + dt.timedelta(seconds=2)
        self.others["delayed"] = installation.submit("plain", "delayed", run_at=later)
        self.failing = installation.submit("failing", "failing")

    def release(self) -> None:
        if self._held:
            self._held = False
            self._on.release(*self.running)

    def assert_goes_on(self) -> None:
        """All tasks end as without the fault, and the worker still takes new tasks."""
        self.release()
        for name, task in (self.running | self.others).items():
            row = self._on.wait_state(task, "succeeded")
            assert (name, row.attempts, self._on.notes()[f"end {name}"]) == (name, 1, 1)
        self._on.wait_state(self.failing, "dead")
        assert_consumes(self._on, self.worker)
        for surprise in ("Exception in thread", "unexpected error", "loop failed"):
            assert surprise not in self.worker.text()


def assert_consumes(installation: Installation, worker: Process) -> None:
    """The worker's process is the same, and takes new tasks on its threads and its event loop."""
    assert worker.alive
    assert worker.text().count("worker started") == 1
    for kind in ("plain", "gentle"):
        installation.wait_state(installation.submit(kind, "afterwards"), "succeeded")


@pytest.mark.parametrize("options", [(), WITHOUT_FILE], ids=["with its file", "emptied"])
def test_p2_redis_restarted_under_load_loses_no_task(
    breakable: Installation, own_redis: RedisServer, options: tuple[str, ...]
) -> None:
    own_redis.stop()
    own_redis.options = options
    own_redis.start()
    load = Load(breakable)
    own_redis.stop()
    poll(lambda: "heartbeat failed" in load.worker.text(), message="the worker notices")
    load.release()  # so that they end while it is unavailable
    own_redis.start()
    load.assert_goes_on()


def test_p2_scripts_flushed_under_load_are_loaded_again(breakable: Installation, own_redis: RedisServer) -> None:
    load = Load(breakable)
    with own_redis.client() as client:
        for _ in range(5):
            client.script_flush()
    load.assert_goes_on()
    assert "fetch failed" not in load.worker.text()  # the worker does not notice: they are sent again


def test_p2_redis_loading_its_data_only_delays_tasks(breakable: Installation, own_redis: RedisServer) -> None:
    load = Load(breakable)
    with own_redis.client() as client:
        client.mset({f"ballast-{n}": "x" * 100 for n in range(2000)})
        client.bgrewriteaof()
        poll(lambda: not client.info("persistence")["aof_rewrite_in_progress"], message="the file is rewritten")
    own_redis.stop()
    load.release()
    # A millisecond a key, so that this little takes two seconds; and an answer now and then, as a large file allows.
    own_redis.options = ("--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024")
    own_redis.start()
    assert "loading the dataset" in load.worker.text()
    load.assert_goes_on()


def test_p2_failover_to_an_empty_replica_loses_no_task(breakable: Installation, own_redis: RedisServer) -> None:
    load = Load(breakable)
    empty = RedisServer()
    empty.start()
    try:
        with own_redis.client() as client:
            client.replicaof("127.0.0.1", str(empty.port))
            poll(lambda: client.info("replication")["master_link_status"] == "up", message="it has become a replica")
            poll(lambda: "read only replica" in load.worker.text(), message="the worker is refused")
            load.release()
            late = breakable.submit("plain", "late")
            assert breakable.row(late).state == "queued"
            client.replicaof("NO", "ONE")
        load.others["late"] = late
        load.assert_goes_on()
    finally:
        empty.remove()


def test_p2_full_redis_only_delays_tasks(breakable: Installation, own_redis: RedisServer) -> None:
    load = Load(breakable)
    with own_redis.client() as client:
        client.config_set("maxmemory", 1)
        late = breakable.submit("plain", "late")
        poll(lambda: "maxmemory" in load.worker.text(), message="the worker is refused")
        # Ended tasks are still acknowledged, as that frees memory rather than using it.
        load.release()
        for name in load.running:
            breakable.wait_note(f"end {name}")

        def states() -> set[str]:
            """By Redis, or by the ledger where Redis has forgotten it since."""
            live = breakable.runtime.inspection.live(list(load.running.values()))
            return {live[task].state if task in live else breakable.row(task).state for task in load.running.values()}

        poll(lambda: states() == {"succeeded"}, message=lambda: f"the outcomes are taken: {states()}")
        client.config_set("maxmemory", 0)
    load.others["late"] = late
    load.assert_goes_on()


@pytest.mark.parametrize("fault", ["away", "full", "refused"])
def test_p2_outage_longer_than_the_lease_expires_no_live_worker(
    breakable: Installation, own_redis: RedisServer, fault: str
) -> None:
    proxy = Proxy(own_redis.port)
    busy = breakable.start_worker(SYTQ_REDIS__URL=proxy.url, **SOON)
    breakable.hold("plain", "gentle")
    tasks = {kind: breakable.submit(kind, kind) for kind in ("plain", "gentle")}
    for name in tasks:
        breakable.wait_note(f"start {name}")
    idle = breakable.start_worker(**SOON)
    with own_redis.client() as client:
        if fault == "away":
            own_redis.stop()
        elif fault == "full":
            client.config_set("maxmemory", 1)
        else:
            client.execute_command("ACL", "SETUSER", "default", "-@scripting")
        poll(lambda: "heartbeat failed" in idle.text(), message="a failed heartbeat is logged")
        noticed = time.monotonic()
        poll(lambda: time.monotonic() - noticed > 3, message="longer than the liveness limit")
        proxy.cut()  # so that the idle worker comes back first
        if fault == "away":
            own_redis.start()
        elif fault == "full":
            client.config_set("maxmemory", 0)
        else:
            client.execute_command("ACL", "SETUSER", "default", "+@all")
        breakable.wait_state(breakable.submit("plain", "new"), "succeeded")
        proxy.heal()
    breakable.release(*tasks)
    for name, task in tasks.items():
        row = breakable.wait_state(task, "succeeded")
        assert (name, row.attempts, breakable.notes()[f"start {name}"]) == (name, 1, 1)
    assert busy.alive
    assert idle.alive
    proxy.close()

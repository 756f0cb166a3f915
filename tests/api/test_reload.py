"""SIGHUP under load: the processes are replaced and no request fails, not even on kept-alive connections."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.installation import Installation
from tests.processes import Process, gunicorn_command
from tests.servers import poll

pytestmark = pytest.mark.faults

BODY = b'{"url": "http://example.com/"}'
LOOK = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
SUBMIT = f"POST /api/v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(BODY)}\r\n\r\n".encode() + BODY

SLOW_START = """
import threading

from sytq.api.gunicorn_conf import *
from sytq.api.worker import Worker

class worker_class(Worker):
    def {method}(self):
        self.log.info("starts slowly")
        threading.Event().wait(40)
"""


SLOW_FORK = """
import pathlib
import time

from sytq.api.gunicorn_conf import *

def post_fork(server, worker):
    server.log.info("starts slowly")
    while not pathlib.Path(__file__).with_suffix(".go").exists():
        time.sleep(0.05)
"""


class Clients(threading.Thread):
    """Kept-alive connections that send without pause and reconnect only when a response says so."""

    def __init__(self, api: Installation, requests: list[bytes]) -> None:
        super().__init__()
        self.api = api
        self.requests = requests
        self.seen: Counter[object] = Counter()
        self.connections = 0
        self.ended = False
        self.start()

    def run(self) -> None:
        async def all_of_them() -> None:
            await asyncio.gather(*map(self._ask_on, self.requests))

        asyncio.run(all_of_them())

    async def _ask_on(self, request: bytes) -> None:
        while not self.ended:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.api.port)
            self.connections += 1
            head = b""
            try:
                while not self.ended and b"connection: close" not in head:
                    writer.write(request)
                    head = (await reader.readuntil(b"\r\n\r\n")).lower()
                    await reader.readexactly(int(head.partition(b"content-length: ")[2].split(b"\r\n")[0]))
                    self.seen[int(head[9:12])] += 1
            except (OSError, EOFError) as error:
                self.seen[repr(error)] += 1
            finally:
                writer.close()

    def end(self) -> Counter[object]:
        self.ended = True
        self.join()
        return self.seen


def test_three_reloads_under_load_fail_no_request(make_api: Any) -> None:
    api: Installation = make_api(SYTQ_API__WORKERS="2")
    poll(
        lambda: api.gunicorn.text().count("ASGI server listening") >= 2, message=api.gunicorn.text
    )  # one of them answers before both do
    clients = Clients(api, [LOOK] * 100 + [SUBMIT] * 8)
    try:
        for number in range(1, 4):
            before = clients.seen[200]
            poll(lambda before=before: clients.seen[200] > before + 1000)
            api.gunicorn.signal_master(signal.SIGHUP)
            booted = 2 + 2 * number
            poll(
                lambda booted=booted: api.gunicorn.text().count("ASGI server listening") >= booted,
                message=api.gunicorn.text,
            )
            gone = 2 * number
            poll(lambda gone=gone: api.gunicorn.text().count("Worker shutting down") >= gone, message=api.gunicorn.text)
    finally:
        seen = clients.end()
    assert set(seen) == {200}
    assert clients.connections > 2 * 108  # they were asked to reconnect
    assert api.rows("SELECT COUNT(*) FROM sytq_tasks")[0][0] > 100


def test_a_kept_alive_connection_is_served_after_the_reload_signal(make_api: Any) -> None:
    api: Installation = make_api()
    with socket.create_connection(("127.0.0.1", api.port), timeout=60) as connection:

        def ask() -> bytes:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            received = b""
            while b'"version"' not in received:
                received += connection.recv(65536)
            return received.lower()

        assert b"connection: close" not in ask()
        api.gunicorn.signal_master(signal.SIGHUP)
        poll(lambda: api.gunicorn.text().count("ASGI server listening") >= 2, message=api.gunicorn.text)
        assert b"connection: close" in ask()
        assert connection.recv(1) == b""
    assert api.request("GET", "/health").status == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("method", ["_setup_event_loop", "load_wsgi"])
def test_a_stop_ends_a_process_that_has_just_started(
    make_installation: Callable[..., Installation], tmp_path: Path, method: str, number: int
) -> None:
    conf = tmp_path / "slow_start.py"
    conf.write_text(SLOW_START.format(method=method))
    api = make_installation()
    gunicorn = Process(gunicorn_command(conf), api.environ, tmp_path / "api.log")
    try:
        poll(lambda: "starts slowly" in gunicorn.text(), timeout=60, message=gunicorn.text)
        gunicorn.signal_master(number)
        assert gunicorn.wait(20) == 0  # not after the 30 s of `api.graceful_timeout`
    finally:
        gunicorn.kill()


def test_a_stop_that_comes_before_a_process_has_handlers_ends_it(
    make_installation: Callable[..., Installation], tmp_path: Path
) -> None:
    conf = tmp_path / "slow_fork.py"
    conf.write_text(SLOW_FORK)
    api = make_installation()
    gunicorn = Process(gunicorn_command(conf), api.environ, tmp_path / "api.log")
    try:
        poll(lambda: "starts slowly" in gunicorn.text(), timeout=60, message=gunicorn.text)
        gunicorn.signal_master(signal.SIGTERM)
        poll(lambda: "Handling signal: term" in gunicorn.text(), message=gunicorn.text)
        conf.with_suffix(".go").touch()
        assert gunicorn.wait(20) == 0
    finally:
        gunicorn.kill()

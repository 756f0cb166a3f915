"""What a client that says nothing, or says it slowly, may hold: a connection for some seconds."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.conftest import REPO, Api
from tests.servers import RedisServer, poll

# The deployed configuration, with less patience than is deployed.
IMPATIENT = f"""
import sytq.api.request_context, sytq.api.worker
exec(open({str(REPO / "etc" / "gunicorn.conf.py")!r}).read())
sytq.api.worker.HEAD_SECONDS = 1.0
sytq.api.request_context.BODY_SECONDS = 1.0
keepalive = 1
worker_connections = 50
"""


@pytest.fixture(scope="module")
def impatient(folder: Path, redis_server: RedisServer) -> Iterator[Api]:
    api = Api(f"sqlite:///{folder / 'sytq.db'}", redis_server.url)
    api.conf = folder / "impatient.conf.py"
    api.conf.write_text(IMPATIENT)
    try:
        yield api.start()
    finally:
        api.remove()


@contextlib.contextmanager
def connected(api: Api, data: bytes = b"") -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", api.port), timeout=60) as connection:
        connection.sendall(data)
        yield connection


def everything(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize(
    "data",
    [b"", b"POST /api/v1/tasks HTT", b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: "],
    ids=["silent", "line", "head"],
)
def test_a_client_that_sends_no_whole_head_is_cut_off(impatient: Api, data: bytes) -> None:
    with connected(impatient, data) as connection:
        assert everything(connection) == b""


def test_an_idle_connection_is_closed(impatient: Api) -> None:
    with connected(impatient, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n") as connection:
        assert everything(connection).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("sent", [b"", b'{"url": "http://'], ids=["none", "some"])
def test_a_body_that_does_not_come_is_408(impatient: Api, sent: bytes) -> None:
    head = b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
    with connected(impatient, head + sent) as connection:
        reply = everything(connection)
    assert reply.startswith(b"HTTP/1.1 408 ")
    assert b"body: not complete" in reply
    assert b"x-request-id: " in reply


def test_a_body_that_drips_is_408_all_the_same(impatient: Api) -> None:
    head = b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    began = time.monotonic()
    with connected(impatient, head) as connection:
        # Nothing is sent once an answer is there: the reset that follows would take the answer with it.
        while not select.select([connection], [], [], 0.1)[0] and time.monotonic() - began < 8:
            connection.sendall(b"x")
        reply = connection.recv(65536)
    assert reply.startswith(b"HTTP/1.1 408 ")


def test_silent_clients_leave_room_for_the_others(impatient: Api) -> None:
    with contextlib.ExitStack() as stack:

        def refused() -> bool:
            """Of sixty, the last one: over worker_connections it is refused at once rather than left to hang."""
            silent = [stack.enter_context(connected(impatient, b"GET /he")) for _ in range(60)]
            return everything(silent[-1]).startswith(b"HTTP/1.1 503 ")

        poll(refused, message="there are never fifty at once, as each is cut off after a second")
        poll(lambda: impatient.request("GET", "/health").status == 200)
    assert "Traceback" not in impatient.log()

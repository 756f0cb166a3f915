"""A silent or slow client may hold a connection for some seconds only."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installation import BUILT_IN, Installation
from tests.processes import ROOT
from tests.servers import RedisServer, poll

# The deployed configuration with shorter timeouts.
IMPATIENT = f"""
import sytq.api.request_context, sytq.api.worker
exec(open({str(ROOT / "etc" / "gunicorn.conf.py")!r}).read())
sytq.api.worker.HEAD_SECONDS = 1.0
sytq.api.request_context.BODY_SECONDS = 1.0
keepalive = 1
worker_connections = 50
"""


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def short_timeouts(request: pytest.FixtureRequest, folder: Path, redis_server: RedisServer) -> Iterator[Installation]:
    own = folder / request.param
    own.mkdir()
    api = Installation(own, f"sqlite:///{own / 'sytq.db'}", redis_server.url, **BUILT_IN)
    conf = own / "impatient.conf.py"
    conf.write_text(f"{IMPATIENT}asgi_loop = {request.param!r}\n")
    try:
        api.start_api(conf)
        yield api
    finally:
        api.close()


@contextlib.contextmanager
def connected(api: Installation, data: bytes = b"") -> Iterator[socket.socket]:
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
def test_an_incomplete_request_head_closes_the_connection(short_timeouts: Installation, data: bytes) -> None:
    with connected(short_timeouts, data) as connection:
        assert everything(connection) == b""


def test_an_idle_connection_is_closed(short_timeouts: Installation) -> None:
    with connected(short_timeouts, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n") as connection:
        assert everything(connection).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("sent", [b"", b'{"url": "http://'], ids=["none", "some"])
def test_a_body_that_never_arrives_is_408(short_timeouts: Installation, sent: bytes) -> None:
    head = b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
    with connected(short_timeouts, head + sent) as connection:
        reply = everything(connection)
    assert reply.startswith(b"HTTP/1.1 408 ")
    assert b"body: not complete" in reply
    assert b"x-request-id: " in reply


def test_a_slowly_sent_body_is_408(short_timeouts: Installation) -> None:
    head = b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    began = time.monotonic()
    with connected(short_timeouts, head) as connection:
        # Nothing is sent once an answer is there: the reset that follows would take the answer with it.
        while not select.select([connection], [], [], 0.1)[0] and time.monotonic() - began < 8:
            connection.sendall(b"x")
        reply = connection.recv(65536)
    assert reply.startswith(b"HTTP/1.1 408 ")


def test_silent_clients_do_not_block_other_clients(short_timeouts: Installation) -> None:
    with contextlib.ExitStack() as stack:

        def refused() -> bool:
            """The last of ninety: beyond worker_connections, and 20 for probes, it is refused at once."""
            silent = [stack.enter_context(connected(short_timeouts, b"GET /he")) for _ in range(90)]
            return everything(silent[-1]).startswith(b"HTTP/1.1 503 ")

        poll(refused, message="there are never seventy at once, as each is cut off after a second")
        poll(lambda: short_timeouts.request("GET", "/health").status == 200)
    assert "Traceback" not in short_timeouts.gunicorn.text()

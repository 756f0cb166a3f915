"""Fixtures of the broker's tests, on every supported server program."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.broker import clock
from tests.broker.bench import Bench
from tests.broker.limiter_play import Play
from tests.servers import RedisServer
from tests.topologies import server_programs


@pytest.fixture(scope="module", params=server_programs().values(), ids=server_programs())
def every_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """Each installed server program, in turn."""
    server = RedisServer(request.param, ["--appendonly", "no"])
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def bench(every_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """One queue in an empty Redis, whose clock the test moves."""
    clock.install(monkeypatch)
    with every_server.client() as client:
        client.flushall()
    return Bench(every_server.url)


@pytest.fixture
def play(bench: Bench) -> Play:
    """Workers with tasks at limiters, on that queue."""
    return Play(bench)

"""A firewall that forgets idle connections without a word: what comes after a rest is answered at once."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from sytq.broker import rested
from sytq.broker.connection import Redis
from sytq.tcp import KEEP_ALIVE, client_socket
from tests.installation import Installation
from tests.processes import ROOT
from tests.proxy import Proxy
from tests.servers import RedisServer, poll
from tests.topologies import SLOTS, ClusterNode, Sentinel

# The deployed configuration, where every connection has rested for long.
RESTED = f"""
import sytq.tcp
sytq.tcp.RESTED = 1e-6
exec(open({str(ROOT / "etc" / "gunicorn.conf.py")!r}).read())
"""


@pytest.fixture
def proxies(redis_server: RedisServer, mysql_url: str) -> Iterator[tuple[Proxy, Proxy]]:
    made = Proxy(redis_server.port), Proxy(urlsplit(mysql_url).port or 3306)
    yield made
    for proxy in made:
        proxy.close()


def test_requests_after_a_rest_are_answered_at_once(
    tmp_path: Path, proxies: tuple[Proxy, Proxy], mysql_url: str
) -> None:
    redis, database = proxies
    address = mysql_url.replace(f":{urlsplit(mysql_url).port}/", f":{database.port}/")
    on = Installation(tmp_path, address, redis.url)
    conf = tmp_path / "rested.conf.py"
    conf.write_text(RESTED)
    try:
        on.start_api(conf, fresh=True)
        task_id = on.post_task("plain")

        def ask(number: int) -> int:
            return on.request("GET", f"/v2/tasks/{task_id}", timeout=30).status

        with ThreadPoolExecutor(8) as threads:
            assert set(threads.map(ask, range(16))) == {200}
            redis.forget()
            database.forget()
            since = time.monotonic()
            assert set(threads.map(ask, range(8))) == {200}
            assert time.monotonic() - since < 4  # the shortest timeout of a store is 5 s
        assert on.post_task("plain")
    finally:
        on.close()


def test_a_rested_connection_to_redis_is_replaced(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = Proxy(redis_server.port)
    try:
        lasting = Redis(proxy.url, timeout=0.5)
        first = lasting.ask("CLIENT", "ID")
        assert lasting.ask("CLIENT", "ID") == first
        monkeypatch.setitem(rested.OPTIONS, "health_check_interval", -1.0)
        redis = Redis(proxy.url, timeout=0.5)
        first = redis.ask("CLIENT", "ID")
        proxy.forget()
        assert redis.ask("CLIENT", "ID") != first
        redis.close()
        lasting.close()
    finally:
        proxy.close()


def test_rested_connections_of_sentinels_and_clusters_are_replaced(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(rested.OPTIONS, "health_check_interval", -1.0)
    node, sentinel = ClusterNode(), Sentinel(redis_server)
    try:
        node.start()
        node.ask("CLUSTER", "ADDSLOTS", *range(SLOTS))
        poll(lambda: node.ok, message="it serves")
        sentinel.start()
        for url in (f"redis+cluster://127.0.0.1:{node.port}", f"redis+sentinel://127.0.0.1:{sentinel.port}/main"):
            redis = Redis(url)
            assert redis.ask("CLIENT", "ID") != redis.ask("CLIENT", "ID")
            redis.close()
    finally:
        node.remove()
        sentinel.remove()


def test_connections_out_send_probes(redis_url: str, mysql_url: str) -> None:
    with client_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ())) as http:
        assert probes(http) == KEEP_ALIVE
    redis = Redis(redis_url)
    connection = redis.client.connection_pool.get_connection()  # type: ignore[union-attr]
    assert probes(connection._sock) == KEEP_ALIVE
    redis.close()


def probes(connection: socket.socket) -> dict[int, int]:
    assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    return {option: connection.getsockopt(socket.IPPROTO_TCP, option) for option in KEEP_ALIVE}

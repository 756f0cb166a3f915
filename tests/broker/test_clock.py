"""The clock of the scripts and of `Redis` is that of the server. Other tests here move it; see clock.py."""

from __future__ import annotations

import time

from sytq.broker.connection import Redis
from sytq.broker.keys import Keys
from tests.broker.bench import LEASE_MS
from tests.servers import RedisServer


def test_scripts_and_clients_share_the_clock_of_the_server(every_server: RedisServer) -> None:
    redis, keys = Redis(every_server.url), Keys("sytq")
    names = [keys.workers, keys.epoch, keys.cancels, keys.cards, keys.departed, keys.crashes]
    seconds, micros = redis.ask("TIME")
    before, began = int(seconds) + int(micros) / 1e6, time.monotonic()
    _epoch, script_ms, _asked = redis.call("heartbeat", names, ["w", 0, LEASE_MS, ""])
    for now in (int(script_ms) / 1000, redis.time(), redis.now_ms() / 1000):
        assert -1 <= now - before <= time.monotonic() - began + 1
    redis.close()

"""The same two tasks on Dramatiq's own RedisBroker, as it comes: `dramatiq bench.peer_dramatiq`."""

from __future__ import annotations

import os
import time

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker

URL = os.environ["BENCH_REDIS_URL"]
dramatiq.set_broker(RedisBroker(url=URL))
client = redis.Redis.from_url(URL)


@dramatiq.actor
def noop() -> None:
    pass


@dramatiq.actor
def pickup(sent: float) -> None:
    client.rpush("pickups", time.time() - sent)


def left() -> int:
    """Tasks that have not ended."""
    return int(client.hlen("dramatiq:default.msgs"))

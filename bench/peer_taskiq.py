"""The same two tasks on taskiq's RedisStreamBroker, as it comes: `taskiq worker bench.peer_taskiq:broker`."""

from __future__ import annotations

import asyncio
import os
import time

import redis
from taskiq_redis import RedisStreamBroker

URL = os.environ["BENCH_REDIS_URL"]
broker = RedisStreamBroker(URL)
client = redis.Redis.from_url(URL)
COMMAND = ("taskiq", "worker", "bench.peer_taskiq:broker", "--log-level", "WARNING", "--workers")


@broker.task
async def noop() -> None:
    pass


@broker.task
async def pickup(sent: float) -> None:
    client.rpush("pickups", time.time() - sent)


def left() -> int:
    """Tasks that have not been acknowledged."""
    (group,) = client.xinfo_groups("taskiq")
    return int(group["lag"]) + int(group["pending"])


async def send(tasks: int, at_once: int = 100) -> None:
    """Send no-ops, so many of them at once."""
    await broker.startup()
    for _ in range(0, tasks, at_once):
        await asyncio.gather(*(noop.kiq() for _ in range(at_once)))
    await broker.shutdown()

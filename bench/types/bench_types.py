"""Task types of the benchmarks."""

import asyncio
import os
import time

import redis
from pydantic import BaseModel

from sytq import AsyncContext, Backoff, Context, Limiter, task

client = redis.Redis.from_url(os.environ.get("BENCH_REDIS_URL", "redis://127.0.0.1:1"))
ONCE = Backoff(max_attempts=1)


class Nothing(BaseModel):
    sent: float = 0.0


@task("noop", payload=Nothing, queue="bench", retry=ONCE)
def noop(ctx: Context, payload: Nothing) -> None:
    pass


@task("anoop", payload=Nothing, queue="abench", retry=ONCE)
async def anoop(ctx: AsyncContext, payload: Nothing) -> None:
    pass


@task("pickup", payload=Nothing, queue="bench", retry=ONCE)
def pickup(ctx: Context, payload: Nothing) -> None:
    client.rpush("pickups", time.time() - payload.sent)


class Limited(BaseModel):
    limit: int


@task("gated", payload=Limited, queue="gated", retry=ONCE)
async def gated(ctx: AsyncContext, payload: Limited) -> None:
    async with ctx.acquire(Limiter("provider:bench", concurrency=payload.limit)) as permit:
        await asyncio.sleep(0.2)
        permit.report("ok")

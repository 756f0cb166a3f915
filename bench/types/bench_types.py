"""Task types of the benchmarks."""

import asyncio
import os
import signal
import time
from pathlib import Path

import redis
from pydantic import BaseModel

from sytq import AsyncContext, Backoff, Context, Limiter, task

client = redis.Redis.from_url(os.environ.get("BENCH_REDIS_URL", "redis://127.0.0.1:1"))
ONCE, THREE = Backoff(max_attempts=1), Backoff(max_attempts=3)


class Nothing(BaseModel):
    sent: float = 0.0


@task("noop", payload=Nothing, queue="bench", retry=ONCE)
def noop(ctx: Context, payload: Nothing) -> None:
    pass


@task("anoop", payload=Nothing, queue="abench", retry=ONCE)
async def anoop(ctx: AsyncContext, payload: Nothing) -> None:
    pass


@task("pickup", payload=Nothing, queue="abench", retry=ONCE)
async def pickup(ctx: AsyncContext, payload: Nothing) -> None:
    client.rpush("pickups", time.time() - payload.sent)


class Limited(BaseModel):
    limit: int


@task("gated", payload=Limited, queue="gated", retry=ONCE)
async def gated(ctx: AsyncContext, payload: Limited) -> None:
    async with ctx.acquire(Limiter("provider:bench", concurrency=payload.limit)) as permit:
        await asyncio.sleep(0.2)
        permit.report("ok")


class Noted(BaseModel):
    """A task that writes its name and the time to a file, and takes `seconds` while that has no neighbour `.killed`."""

    journal: str
    name: str
    seconds: float = 0.0

    def begin(self) -> float:
        with Path(self.journal).open("a") as file:
            file.write(f"{self.name} {time.time()}\n")
        return 0.0 if Path(f"{self.journal}.killed").exists() else self.seconds


@task("noted", payload=Noted, queue="noted", retry=THREE, timeout="11m")
def noted(ctx: Context, payload: Noted) -> None:
    time.sleep(payload.begin())


@task("anoted", payload=Noted, queue="anoted", retry=THREE, timeout="11m")
async def anoted(ctx: AsyncContext, payload: Noted) -> None:
    await asyncio.sleep(payload.begin())


@task("bystander", payload=Noted, queue="anoted", retry=THREE)
async def bystander(ctx: AsyncContext, payload: Noted) -> None:
    await asyncio.sleep(payload.begin())


@task("culprit", payload=Noted, queue="anoted", retry=THREE)
async def culprit(ctx: AsyncContext, payload: Noted) -> None:
    await asyncio.sleep(payload.begin())
    os.kill(os.getpid(), signal.SIGKILL)

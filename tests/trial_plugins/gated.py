"""Task types that call a service (tests/crowd.py) through a limiter."""

import asyncio
import socket

from pydantic import BaseModel

from sytq import AsyncContext, Backoff, Breaker, Context, Limiter, Permit, task

#: More attempts than a breaker that is tried every 1.5 s takes while a test stands still.
OFTEN = Backoff(first="100ms", factor=1, max_attempts=50, jitter=0)


class Call(BaseModel):
    port: int
    name: str = "-"
    running: int = 0
    adaptive: bool = False
    calls: int = 0
    window: float = 60.0
    breaker: bool = False

    def limiters(self) -> list[Limiter]:
        breaker = Breaker(timeout=1.5, min_calls=3) if self.breaker else None
        provider = Limiter("provider:crowd", concurrency=self.running, adaptive=self.adaptive, breaker=breaker)
        return [provider, Limiter("model:crowd/one", calls=self.calls, window=self.window)]


def judge(permit: Permit, answer: bytes) -> None:
    permit.report({b"ok": "ok", b"full": "overloaded"}.get(answer, "failed"), cost=7)


@task("called", payload=Call, queue="called", retry=OFTEN)
async def called(ctx: AsyncContext, call: Call) -> str:
    async with ctx.acquire(*call.limiters(), cost=5) as permit:
        reader, writer = await asyncio.open_connection("127.0.0.1", call.port)
        try:
            writer.write(call.name.encode() + b"\n")
            answer = await reader.read()
            judge(permit, answer)
        finally:
            writer.close()
    if answer != b"ok":
        raise ConnectionError(answer.decode())
    return answer.decode()


@task("called-plain", payload=Call, queue="called-plain", retry=OFTEN)
def called_plain(ctx: Context, call: Call) -> str:
    with (
        ctx.acquire(*call.limiters(), cost=5) as permit,
        socket.create_connection(("127.0.0.1", call.port)) as connection,
    ):
        connection.sendall(call.name.encode() + b"\n")
        answer = connection.recv(10)
        judge(permit, answer)
    if answer != b"ok":
        raise ConnectionError(answer.decode())
    return answer.decode()


def named(call: Call) -> list[str]:
    return [limiter.name for limiter in call.limiters()]


@task("fetched", payload=Call, queue="called", retry=OFTEN, limiters=named)
async def fetched(ctx: AsyncContext, call: Call) -> str:
    async with ctx.acquire(*call.limiters()) as permit:
        reader, writer = await asyncio.open_connection("127.0.0.1", call.port)
        try:
            writer.write(call.name.encode() + b"\n")
            answer = await reader.read()
            permit.report("ok" if answer == b"ok" else "failed")
        finally:
            writer.close()
    if answer != b"ok":
        raise ConnectionError(answer.decode())
    return answer.decode()


@task("fetched-plain", payload=Call, queue="called-plain", retry=OFTEN, limiters=named)
def fetched_plain(ctx: Context, call: Call) -> str:
    with (
        ctx.acquire(*call.limiters()) as permit,
        socket.create_connection(("127.0.0.1", call.port)) as connection,
    ):
        connection.sendall(call.name.encode() + b"\n")
        answer = connection.recv(10)
        permit.report("ok" if answer == b"ok" else "failed")
    if answer != b"ok":
        raise ConnectionError(answer.decode())
    return answer.decode()


@task("fetched-step", payload=Call, queue="called", retry=OFTEN, limiters=named)
async def fetched_step(ctx: AsyncContext, call: Call) -> int:
    """One call, in a step; what comes behind it fails once, and needs the provider no more."""

    async def ask() -> bool:
        async with ctx.acquire(*call.limiters()):
            return True

    await ctx.step("ask", ask)
    if ctx.attempt == 1:
        await ctx.pause_limiter("provider:crowd", "no credit left")
        raise ConnectionError("nothing of the provider")
    return ctx.attempt


@task("closing", payload=Call, queue="called", retry=OFTEN)
async def closing(ctx: AsyncContext, call: Call) -> bool:
    if call.name == "open":
        return await ctx.resume_limiter("provider:crowd")
    return await ctx.pause_limiter("provider:crowd", "no credit left", alert=True)


@task("closing-plain", payload=Call, queue="called-plain", retry=OFTEN)
def closing_plain(ctx: Context, call: Call) -> bool:
    if call.name == "open":
        return ctx.resume_limiter("provider:crowd")
    return ctx.pause_limiter("provider:crowd", "no credit left", seconds=600)

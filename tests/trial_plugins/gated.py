"""Task types that call a service (tests/crowd.py) through a gate."""

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

    def gates(self) -> list[Limiter]:
        breaker = Breaker(timeout=1.5, min_calls=3) if self.breaker else None
        provider = Limiter("provider:crowd", running=self.running, adaptive=self.adaptive, breaker=breaker)
        return [provider, Limiter("model:crowd/one", calls=self.calls, window=self.window)]


def judge(passage: Permit, answer: bytes) -> None:
    passage.report({b"ok": "ok", b"full": "overloaded"}.get(answer, "failed"), units=7)


@task("called", payload=Call, queue="called", retry=OFTEN)
async def called(ctx: AsyncContext, call: Call) -> str:
    async with ctx.passage(*call.gates(), units=5) as passage:
        reader, writer = await asyncio.open_connection("127.0.0.1", call.port)
        try:
            writer.write(call.name.encode() + b"\n")
            answer = await reader.read()
            judge(passage, answer)
        finally:
            writer.close()
    if answer != b"ok":
        raise ConnectionError(answer.decode())
    return answer.decode()


@task("called-plain", payload=Call, queue="called-plain", retry=OFTEN)
def called_plain(ctx: Context, call: Call) -> str:
    with (
        ctx.passage(*call.gates(), units=5) as passage,
        socket.create_connection(("127.0.0.1", call.port)) as connection,
    ):
        connection.sendall(call.name.encode() + b"\n")
        answer = connection.recv(10)
        judge(passage, answer)
    if answer != b"ok":
        raise ConnectionError(answer.decode())
    return answer.decode()


@task("closing", payload=Call, queue="called", retry=OFTEN)
async def closing(ctx: AsyncContext, call: Call) -> bool:
    if call.name == "open":
        return await ctx.open_gate("provider:crowd")
    return await ctx.close_gate("provider:crowd", "no credit left", alert=True)


@task("closing-plain", payload=Call, queue="called-plain", retry=OFTEN)
def closing_plain(ctx: Context, call: Call) -> bool:
    if call.name == "open":
        return ctx.open_gate("provider:crowd")
    return ctx.close_gate("provider:crowd", "no credit left", seconds=600)

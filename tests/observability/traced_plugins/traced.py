"""Task types that make calls and tasks, on a thread and on the event loop, and a type that lists imported modules."""

import sys

from pydantic import BaseModel

from sytq import AsyncContext, Backoff, Context, Retry, task

THREE = Backoff(first="100ms", factor=1, max_attempts=3, jitter=0)


class Call(BaseModel):
    url: str
    secret: str = ""


class Nothing(BaseModel):
    pass


@task("caller", payload=Call, queue="threads", retry=THREE)
def caller(ctx: Context, call: Call) -> None:
    ctx.http.post(call.url, body=call.secret, headers={"Authorization": f"Bearer {call.secret}"})
    ctx.enqueue("child", {}, key="only")


@task("async-caller", payload=Call, queue="loop", retry=THREE)
async def async_caller(ctx: AsyncContext, call: Call) -> None:
    await ctx.http.post(call.url, headers={"traceparent": call.secret} if call.secret else {})
    await ctx.enqueue("child", {}, key="only")


@task("child", payload=Nothing, queue="threads", retry=THREE)
def child(ctx: Context, nothing: Nothing) -> None:
    pass


@task("unlucky", payload=Call, queue="loop", retry=THREE)
async def unlucky(ctx: AsyncContext, call: Call) -> None:
    if ctx.attempt == 1:
        raise Retry(consumes_attempt=True, reason="not yet")
    raise ValueError(f"cannot use {call.secret}")


@task("loaded", payload=Nothing, queue="threads", retry=THREE)
def loaded(ctx: Context, nothing: Nothing) -> list[str]:
    return sorted(name for name in sys.modules if name.startswith(("opentelemetry", "google.protobuf")))

"""Task types for the tests of workflows: one that fans out, one that is told, one that does so within another."""

import os
import signal
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from sytq import AsyncContext, Backoff, Context, Fail, task

THREE = Backoff(first="100ms", factor=1, max_attempts=3, jitter=0)


class Part(BaseModel):
    journal: str
    name: str
    seconds: float = 0.0
    failing_while: str = ""  # it fails as long as a file of this name exists


class Fan(BaseModel):
    journal: str
    name: str = "-"
    parts: list[Part] = []
    inner: list["Fan"] = []
    on_failure: Literal["cancel", "run"] = "cancel"
    dies: bool = False  # at its first run, between its children and what waits for them


def note(payload: Part | Fan, word: str) -> None:
    with Path(payload.journal).open("a") as file:
        file.write(f"{word} {payload.name} {time.time()}\n")


@task("part", payload=Part, queue="plain", retry=THREE)
def part(ctx: Context, payload: Part) -> dict[str, str]:
    """Succeed or fail, as told."""
    note(payload, "part")
    time.sleep(payload.seconds)
    while Path(f"{payload.journal}.hold-{payload.name}").exists():  # tests/installation.py: `hold`
        time.sleep(0.02)
    if payload.failing_while and Path(payload.failing_while).exists():
        raise Fail(f"{payload.name} fails")
    return {"part": payload.name}


@task("fan", payload=Fan, queue="plain", retry=THREE)
def fan(ctx: Context, payload: Fan) -> str:
    """Start a child for each part, further fans, and what is told of their end."""
    children = ctx.enqueue_many("part", {part.name: part for part in payload.parts})
    children += [ctx.enqueue("fan", inner, key=inner.name) for inner in payload.inner]
    died = Path(f"{payload.journal}.died")
    if payload.dies and not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    told = {"journal": payload.journal, "name": payload.name}
    options = {"on_failure": payload.on_failure, "joins": True}
    return ctx.enqueue("collect", told, key="collect", after=children, **options)  # type: ignore[arg-type]


@task("collect", payload=Part, queue="gentle", retry=THREE)
async def collect(ctx: AsyncContext, payload: Part) -> dict[str, Any]:
    """Say what was heard."""
    found = await ctx.outcomes()
    note(payload, "collect")
    return {"heard": [[o.type, o.state, o.result, o.error] for o in found], "ok": all(o.ok for o in found)}

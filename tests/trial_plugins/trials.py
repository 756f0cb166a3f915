"""Task types for the tests: each writes a line to a file when it runs, so that runs can be counted from outside."""

import asyncio
import ctypes
import functools
import os
import signal
import sys
import time
from pathlib import Path

from pydantic import BaseModel

from sytq import AsyncContext, Backoff, Context, Death, Fail, Retry, task


class Trial(BaseModel):
    journal: str  # the file to write to
    name: str = "-"
    seconds: float = 0.0


def note(trial: Trial, word: str) -> None:
    with Path(trial.journal).open("a") as file:
        file.write(f"{word} {trial.name} {time.time()}\n")


def held(trial: Trial, part: str = "") -> bool:
    """Whether the test wants a task of this name, or a part of it, to go on running (tests/installation.py: `hold`)."""
    return Path(f"{trial.journal}.hold-{trial.name}{part}").exists()


THREE = Backoff(first="100ms", factor=1, max_attempts=3, jitter=0)


@task("plain", payload=Trial, queue="plain", retry=THREE)
def plain(ctx: Context, trial: Trial) -> dict[str, str]:
    note(trial, "start")
    time.sleep(trial.seconds)
    while held(trial):
        time.sleep(0.02)
    note(trial, "end")
    return {"name": trial.name}


@task("gentle", payload=Trial, queue="gentle", retry=THREE, timeout="10m")
async def gentle(ctx: AsyncContext, trial: Trial) -> dict[str, str]:
    note(trial, "start")
    await ctx.progress(1, 2, "half way")
    await asyncio.sleep(trial.seconds)
    while held(trial):
        await asyncio.sleep(0.02)
    await ctx.progress(2, 2, "done")
    note(trial, "end")
    return {"name": trial.name}


@task("stepwise", payload=Trial, queue="gentle", retry=THREE)
async def stepwise(ctx: AsyncContext, trial: Trial) -> dict[str, list[str]]:
    done = []
    for name in ("one", "two", "three"):

        async def work(name: str = name) -> str:
            note(trial, f"step-{name}")
            await asyncio.sleep(trial.seconds)
            while held(trial, f"-{name}"):
                await asyncio.sleep(0.02)
            return name

        done.append(await ctx.step(name, work))
    return {"done": done}


@task("keeper", payload=Trial, queue="plain", retry=THREE, timeout="10s")
def keeper(ctx: Context, trial: Trial) -> dict[str, bool]:
    def work() -> bool:
        note(trial, "step")
        while held(trial):
            time.sleep(0.02)
        return True

    return {"kept": ctx.step("only", work)}


@task("gentle-keeper", payload=Trial, queue="gentle", retry=THREE, timeout="10s")
async def gentle_keeper(ctx: AsyncContext, trial: Trial) -> dict[str, list[bool]]:
    async def work(seconds: float) -> bool:
        note(trial, "step")
        while held(trial):
            await asyncio.sleep(0.02)
        await asyncio.sleep(seconds)
        return True

    both = (ctx.step(f"step-{n}", functools.partial(work, n / 10)) for n in range(2))
    return {"kept": await asyncio.gather(*both)}


@task("poison", payload=Trial, queue="poison", retry=THREE)
def poison(ctx: Context, trial: Trial) -> None:
    note(trial, "start")
    os.kill(os.getpid(), signal.SIGKILL)


@task("deadly", payload=Trial, queue="deadly", retry=THREE)
async def deadly(ctx: AsyncContext, trial: Trial) -> None:
    """Kills its process after some seconds, by the way that its name says."""
    note(trial, "start")
    await asyncio.sleep(trial.seconds)
    print(f"last words of {trial.name}", file=sys.stderr, flush=True)
    match trial.name:
        case "segfault":
            ctypes.string_at(0)
        case "abort":
            os.abort()
        case "exit":
            os._exit(3)
        case "quit":
            os._exit(0)
        case _:
            os.kill(os.getpid(), signal.SIGKILL)


async def mourn(ctx: AsyncContext, dead: Death) -> None:
    note(Trial(**dead.payload), f"dead-{dead.attempts}")


@task("failing", payload=Trial, queue="gentle", retry=THREE, on_dead=mourn)
async def failing(ctx: AsyncContext, trial: Trial) -> None:
    note(trial, "start")
    raise ValueError(f"{trial.name} fails")


@task("hopeless", payload=Trial, queue="plain", retry=THREE)
def hopeless(ctx: Context, trial: Trial) -> None:
    note(trial, "start")
    while held(trial):
        time.sleep(0.02)
    raise Fail("there is no hope")


@task("patient", payload=Trial, queue="plain", retry=THREE)
def patient(ctx: Context, trial: Trial) -> None:
    note(trial, "start")
    if Path(trial.journal).read_text().count(f"start {trial.name} ") < 6:
        raise Retry(after=0.05, consumes_attempt=False, reason="not yet")


@task("slow", payload=Trial, queue="plain", retry=Backoff(first="50ms", max_attempts=1), timeout="1s")
def slow(ctx: Context, trial: Trial) -> None:
    while True:
        time.sleep(0.05)


@task("overdue", payload=Trial, queue="plain", retry=Backoff(first="50ms", max_attempts=1), timeout="5s")
def overdue(ctx: Context, trial: Trial) -> None:
    ctx.step("only", lambda: note(trial, "step"))
    while True:
        time.sleep(0.05)


@task("slowly", payload=Trial, queue="gentle", retry=Backoff(first="50ms", max_attempts=1), timeout="500ms")
async def slowly(ctx: AsyncContext, trial: Trial) -> None:
    await asyncio.sleep(60)


@task("stubborn", payload=Trial, queue="plain", retry=Backoff(first="50ms", max_attempts=1), timeout="1s")
def stubborn(ctx: Context, trial: Trial) -> None:
    try:
        while True:
            time.sleep(0.05)
    except BaseException:
        note(trial, "swallowed")
    ctx.progress(1)
    note(trial, "end")


@task("waiting", payload=Trial, queue="plain", retry=Backoff(first="50ms", max_attempts=1), timeout="1s")
def waiting(ctx: Context, trial: Trial) -> None:
    ctx.http.get(f"http://127.0.0.1:{trial.name}/", timeout=60, trusted=True)


@task("parent", payload=Trial, queue="gentle", retry=THREE)
async def parent(ctx: AsyncContext, trial: Trial) -> None:
    child = trial.model_dump() | {"name": f"child-of-{trial.name}"}
    await ctx.enqueue("plain", child, key="only")
    note(trial, "start")
    if ctx.attempt == 1:
        raise ValueError("after its child was made")


@task("lonely", payload=Trial, queue="gentle", retry=THREE, unique=lambda trial: trial.name, on_dead=mourn)
async def lonely(ctx: AsyncContext, trial: Trial) -> None:
    note(trial, "start")
    await asyncio.sleep(trial.seconds)
    if trial.name == "fails":
        raise Fail("as told")
    note(trial, "end")


@task("checking", payload=Trial, queue="plain", retry=THREE)
def checking(ctx: Context, trial: Trial) -> None:
    note(trial, "start")
    while not ctx.cancelled():
        time.sleep(0.02)
    note(trial, "noticed")
    ctx.progress(1)
    note(trial, "end")


@task("broken-emoji", payload=Trial, queue="gentle", retry=THREE)
async def broken_emoji(ctx: AsyncContext, trial: Trial) -> dict[str, str]:
    await ctx.progress(1, 2, "half \ud83d")
    if trial.name == "fails":
        raise Fail("half \ud83d")
    return {"cut": "half \ud83d"}


@task("impatient", payload=Trial, queue="gentle", retry=THREE)
async def impatient(ctx: AsyncContext, trial: Trial) -> None:
    note(trial, "start")
    child = asyncio.ensure_future(asyncio.sleep(60))
    child.cancel()
    await child

"""Task types that damage their worker process, as only a bug could."""

import asyncio
import ctypes
import threading
import time
from pathlib import Path

from pydantic import BaseModel
from redis import RedisError

from sytq import AsyncContext, Backoff, Context, task
from sytq.executor.watchdog import Watchdog

TWICE = Backoff(first="100ms", factor=1, max_attempts=10, jitter=0)


class Harm(BaseModel):
    journal: str
    name: str = "-"
    seconds: float = 0.0


def note(harm: Harm, word: str) -> None:
    with Path(harm.journal).open("a") as file:
        file.write(f"{word} {harm.name} {time.time()}\n")


@task("end-thread", payload=Harm, queue="harm", retry=TWICE)
def end_thread(ctx: Context, harm: Harm) -> None:
    """End the thread of that name or class (or the consumer of that queue) silently; once."""
    if f"harmed {harm.name} " not in Path(harm.journal).read_text():
        interrupt(harm, SystemExit)


class Stuck(BaseException):
    """Hang the thread that raises it."""

    def __init__(self) -> None:
        threading.Event().wait()


@task("hang-thread", payload=Harm, queue="harm", retry=TWICE)
def hang_thread(ctx: Context, harm: Harm) -> None:
    """Hang that thread for ever; once. The watchdog detects it after 3 s rather than a minute."""
    for thread in threading.enumerate():
        if isinstance(thread, Watchdog):
            thread._stalled = 3.0
    if f"harmed {harm.name} " not in Path(harm.journal).read_text():
        interrupt(harm, Stuck)


def interrupt(harm: Harm, with_what: type[BaseException]) -> None:
    for thread in threading.enumerate():
        names = (thread.name, type(thread).__name__, getattr(thread, "queue_name", None))
        if harm.name in names and thread is not threading.current_thread():
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(with_what))
            note(harm, "harmed")
            return


@task("steady", payload=Harm, queue="steady", retry=TWICE)
async def steady(ctx: AsyncContext, harm: Harm) -> str:
    note(harm, "start")
    while Path(f"{harm.journal}.hold-{harm.name}").exists():  # tests/installation.py: `hold`
        await asyncio.sleep(0.02)
    note(harm, "end")
    return "done"


@task("blocking", payload=Harm, queue="steady", retry=TWICE)
async def blocking(ctx: AsyncContext, harm: Harm) -> None:
    time.sleep(harm.seconds)


@task("hoarder", payload=Harm, queue="harm", retry=TWICE)
def hoarder(ctx: Context, harm: Harm) -> None:
    """Take every Redis connection of this process."""
    note(harm, "start")
    pool = ctx._services.submitter._dispatcher._redis.client.connection_pool
    kept = []
    until = time.monotonic() + harm.seconds
    while time.monotonic() < until:
        try:
            kept.append(pool.get_connection())
        except RedisError:
            time.sleep(0.0005)  # until another one is given back
    for connection in kept:
        pool.release(connection)
    note(harm, "end")

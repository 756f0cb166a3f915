"""Plain functions on a worker: interrupted wherever they are, and with plugins and middleware as written before."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installation import Installation
from tests.processes import Process
from tests.servers import poll

PLUGIN = """
import contextlib, threading, time, warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pydantic import BaseModel
from sytq import Backoff, Gate, task

class Work(BaseModel):
    how: str = ""
    port: int = 0
    journal: str = ""

def note(work, word):
    with Path(work.journal).open("a") as file:
        file.write(word + chr(10))

@task("stubborn", payload=Work, retry=Backoff(max_attempts=1), timeout="60s")
def stubborn(ctx, work):
    note(work, f"start {work.how}")
    try:
        if work.how == "spin":
            while True:
                time.sleep(0.01)
        if work.how == "http":
            ctx.http.get(f"http://127.0.0.1:{work.port}/", timeout=50, trusted=True)
        if work.how == "step":
            ctx.step("hang", lambda: ctx.http.get(f"http://127.0.0.1:{work.port}/", timeout=50, trusted=True).text)
    finally:
        note(work, f"end {work.how}")

@task("late", payload=Work, retry=Backoff(max_attempts=1), timeout="500ms")
def late(ctx, work):
    if work.how == "http":
        ctx.http.get(f"http://127.0.0.1:{work.port}/", timeout=50, trusted=True)
    while True:
        time.sleep(0.01)

@task("instant", payload=Work)
def instant(ctx, work):
    if work.how:
        time.sleep(0.3)
    note(work, "instant")

# As plugins of 0.1 were written.

@contextlib.contextmanager
def around(ctx, work):
    ctx.detail(thread=threading.get_ident())
    yield

@contextlib.asynccontextmanager
async def for_both(ctx, work):
    await ctx.progress(1, 2, "begun")
    yield

@task("old", payload=Work, retry=Backoff(max_attempts=1), middleware=[around, for_both])
def old(ctx, work):
    own = threading.local()
    own.mark = ctx.id
    found = {"thread": ctx._delivery.detail["thread"] == threading.get_ident(), "mark": MARKS.here}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with ctx.passage(Gate("provider:old", running=3), units=2) as permit:
            permit.report("ok", units=1)
    found["step"] = ctx.step("once", lambda: [own.mark, threading.get_ident() == ctx._delivery.detail["thread"]])
    found["transaction"] = ctx.transaction(lambda tx: own.mark)
    found["child"] = bool(ctx.enqueue("instant", {"journal": work.journal}, key="child"))
    with ThreadPoolExecutor(1) as pool:
        pool.submit(ctx.progress, 2, 2, "done").result(30)
        found["elsewhere"] = pool.submit(ctx.read, lambda database: True).result(30)
    found["left"] = 0 < ctx.remaining() <= ctx.timeout
    return found

class Marks(threading.local):
    here = ""

MARKS = Marks()
"""

MODULE = '''
import sys
import dramatiq
from dramatiq.middleware import Middleware, SkipMessage
import sytq.actors

class Mark(Middleware):
    """Leaves something on the thread of the function."""

    def __init__(self):
        self.events = []

    @staticmethod
    def _marks():
        return next(m.MARKS for m in list(sys.modules.values()) if hasattr(m, "MARKS"))

    def after_worker_thread_boot(self, broker, thread):
        print("thread boots", flush=True)

    def before_process_message(self, broker, message):
        if message.payload.get("how") == "skip":
            raise SkipMessage
        self._marks().here = message.id

    def after_process_message(self, broker, message, *, result=None, exception=None):
        # In one piece: another thread prints, too.
        print(f"after {message.actor_name} {self._marks().here == message.id} {type(exception).__name__}", flush=True)
        self._marks().here = ""

    def after_skip_message(self, broker, message):
        print("skipped", flush=True)

dramatiq.get_broker().add_middleware(Mark())
'''


@pytest.fixture
def shop(tmp_path: Path, redis_url: str) -> Iterator[Installation]:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "work.py").write_text(PLUGIN)
    url = f"sqlite:///{tmp_path / 'sytq.db'}"
    made = Installation(tmp_path, url, redis_url, SYTQ_PLUGINS__PATHS=json.dumps([str(plugins)]))
    yield made
    made.close()


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that answers nothing."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


def submit(shop: Installation, kind: str, how: str = "", port: int = 0, count: int = 1) -> list[str]:
    payload = {"how": how, "port": port, "journal": str(shop.journal)}
    tasks = [shop.runtime.submitter.prepare(kind, payload) for _ in range(count)]
    shop.runtime.submitter.submit(tasks)
    return [task.id for task in tasks]


def test_cancelled_plain_functions_end_wherever_they_are(shop: Installation, silent: int) -> None:
    shop.start_worker()
    tasks = {how: submit(shop, "stubborn", how, silent)[0] for how in ("spin", "http", "step")}
    for how, task in tasks.items():
        poll(lambda how=how: f"start {how}" in shop.journal.read_text())
        shop.runtime.operator.cancel(task, "ada")
        assert shop.wait_state(task, "cancelled").error == "cancelled by ada"
        assert f"end {how}" in shop.journal.read_text(), "the thread has left the function by then"


def test_one_deadline_ends_plain_functions_and_their_calls(shop: Installation, silent: int) -> None:
    shop.start_worker()
    began = time.monotonic()
    for how in ("spin", "http"):
        (task,) = submit(shop, "late", how, silent)
        assert "timed out after 0.5 s" in shop.wait_state(task, "dead").error
    assert time.monotonic() - began < 20


def test_stop_interrupts_what_runs_and_returns_what_was_not_started(shop: Installation, silent: int) -> None:
    worker = shop.start_worker(threads=1)
    submit(shop, "instant", count=60)  # so that the worker knows how quick they are
    poll(lambda: shop.journal.read_text().count("instant") == 60)
    (running,) = submit(shop, "stubborn", "spin")
    poll(lambda: "start spin" in shop.journal.read_text())
    waiting = submit(shop, "instant", "slow", count=3)
    worker.terminate()
    assert worker.wait(30) == 0
    assert "end spin" in shop.journal.read_text()
    live = shop.runtime.inspection.live([running, *waiting])
    assert {one.state for one in live.values()} <= {"queued"}
    assert [(attempt.outcome, attempt.error) for attempt in shop.runtime.ledger.attempts(running)] == [
        ("returned", "the worker is stopping")
    ]


def test_plugins_of_releases_before_and_dramatiqs_middleware_work(shop: Installation) -> None:
    (shop.folder / "mine.py").write_text(MODULE)
    path = f"{shop.environ['PYTHONPATH']}:{shop.folder}"
    command = ["dramatiq", "mine", "-p1", "-t2"]
    worker = Process(command, shop.environ | {"PYTHONPATH": path}, shop.folder / "mine.log", fresh=True)
    try:
        worker.wait_ready(lambda: "worker started" in worker.text())
        (task,) = submit(shop, "old")
        row = shop.wait_state(task, "succeeded")
        assert json.loads(row.result) == {
            "thread": True,
            "mark": task,
            "step": [task, True],
            "transaction": task,
            "child": True,
            "elsewhere": True,
            "left": True,
        }
        (late,) = submit(shop, "late", "spin")
        shop.wait_state(late, "dead")
        submit(shop, "instant", "skip")
        poll(lambda: "skipped" in worker.text())
        text = worker.text()
        assert text.count("thread boots") == 2
        assert "after old True NoneType" in text
        assert "after late True" in text
    finally:
        worker.kill()

"""A worker that lost a thread ends, and its tasks restart on other workers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sytq.broker.connection import Redis
from sytq.broker.keys import Keys
from sytq.config import load
from sytq.executor.broker import StreamsBroker
from tests.installation import TRIALS, Installation
from tests.servers import poll

pytestmark = pytest.mark.faults

HARM = Path(__file__).parent / "watchdog_plugins"


@pytest.fixture
def harmed(tmp_path: Path, redis_url: str) -> Iterator[Installation]:
    paths = f'["{TRIALS}", "{HARM}"]'
    made = Installation(tmp_path, f"sqlite:///{tmp_path / 'sytq.db'}", redis_url, SYTQ_PLUGINS__PATHS=paths)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("thread", "orderly"),
    [
        ("plain", True),  # the consumer of that queue
        ("promote", True),  # a housekeeping loop
        ("TaskThread", True),  # a thread that runs plain functions
        ("heartbeat", False),
        ("event-loop", False),
    ],
)
def test_p3_worker_with_a_dead_thread_ends_and_its_tasks_restart(
    harmed: Installation, thread: str, orderly: bool
) -> None:
    first = harmed.start_worker()
    harmed.hold("running")
    running = harmed.submit("steady", "running")
    harmed.wait_note("start running")
    harmed.submit("end-thread", thread)
    code = first.wait(60)
    ended = time.time()
    # Dramatiq forgets the status of a last process that ends between two of its looks, which are 1 s apart: then it
    # says nothing of that end either, and ends with 0.
    overlooked = code == 0 and "exited unexpectedly" not in first.text()
    assert code == 70 or overlooked, first.text()
    (line,) = re.findall(r"[^\n]*a thread died: terminating the process[^\n]*", first.text())
    assert '"critical"' in line
    assert f'"{thread}"' in line
    assert ("worker stopped" in first.text()) == orderly
    harmed.start_worker()
    ready = time.time()
    harmed.wait_note("start running", times=2)
    assert harmed.moments("start running")[1] - max(ready, ended + 4) < 5  # the lease is 4 s
    harmed.release("running")
    row = harmed.wait_state(running, "succeeded")
    assert row.attempts == 1


def test_p3_worker_that_cannot_acknowledge_ends_and_its_task_restarts(harmed: Installation) -> None:
    """As only a bug, or another program that uses our keys, can have it."""
    first = harmed.start_worker()
    harmed.hold("running")
    running = harmed.submit("steady", "running")
    harmed.wait_note("start running")
    redis, stats = harmed.runtime.redis, harmed.runtime.keys.stats
    redis.ask("SET", stats, "of another program")
    harmed.release("running")
    assert first.wait(60) in (0, 70)  # 0 where Dramatiq overlooks the status
    assert "acknowledgements failed" in first.text()
    redis.ask("DEL", stats)
    harmed.start_worker()
    assert harmed.wait_state(running, "succeeded").attempts == 1


def test_task_blocking_the_event_loop_is_logged_and_ends_no_worker(harmed: Installation) -> None:
    worker = harmed.start_worker()
    task = harmed.submit("blocking", "b", seconds=2.5)
    harmed.wait_state(task, "succeeded")
    (line,) = re.findall(r"[^\n]*event loop blocked[^\n]*", worker.text())
    assert '"type": "blocking"' in line
    assert f'"task_id": "{task}"' in line
    assert "harm.py:" in line
    harmed.wait_state(harmed.submit("steady", "s"), "succeeded")
    assert worker.alive


def test_p3_worker_without_free_connections_keeps_its_lease(harmed: Installation) -> None:
    worker = harmed.start_worker()
    task = harmed.submit("hoarder", "h", seconds=7)
    said = re.compile("fetch failed|loop waits")
    poll(lambda: said.search(worker.text()), message="the others get no connection")
    harmed.start_worker()  # which would take the task over after the lease, 4 s
    assert harmed.wait_state(task, "succeeded").attempts == 1
    assert harmed.notes() == {"start h": 1, "end h": 1}
    assert "heartbeat failed" not in worker.text()


def test_worker_name_on_a_long_hostname_fits_its_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "h" * 64)
    redis = Redis("redis://127.0.0.1:1")
    worker = StreamsBroker(redis, redis, redis, Keys("sytq"), load(environ={})).executor
    assert len(worker.name) <= 64  # the columns `worker` have no more
    assert worker.name.endswith(f"-{os.getpid()}-{worker.name[-6:]}")


PROGRAM = """
import signal, sys, threading, time
from sytq import config
from sytq.executor.watchdog import Watchdog, turn
from sytq.runtime import build
from sytq.worker_runtime import build_worker

worker = build_worker(build(config.load())).executor
worker.start(threads=1, loop_slots=1)
signal.signal(signal.SIGTERM, lambda *_: print("asked to end", flush=True))
stuck = threading.Event()

def make_progress():
    while not stuck.wait(0.1):
        turn()
    threading.Event().wait()

thread = threading.Thread(target=make_progress, name="round", daemon=True)
thread.start()
Watchdog(worker, lambda: [thread], lambda: None, shutdown_timeout=1.0, stalled=4.0).start()
print("ready", flush=True)
sys.stdin.readline()
stuck.set()
while True:
    time.sleep(60)
"""


def test_hung_thread_ends_the_process_and_a_suspension_does_not(
    harmed: Installation,
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env=harmed.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as program:
        assert program.stdin
        assert program.stdout
        try:
            line = poll(program.stdout.readline, message="a line")
            while line.strip() != "ready":
                line = program.stdout.readline()
            program.send_signal(signal.SIGSTOP)
            stopped = time.monotonic()
            poll(lambda: time.monotonic() - stopped > 6, message="longer than the limit")
            program.send_signal(signal.SIGCONT)
            went_on = time.monotonic()
            poll(lambda: program.poll() is not None or time.monotonic() - went_on > 2, message="it goes on")
            assert program.poll() is None, program.stdout.read()
            program.stdin.write("\n")
            program.stdin.flush()
            assert program.wait(60) == 70
            said = program.stdout.read()
            assert said.index("a thread made no progress") < said.index("asked to end")
            assert said.index("asked to end") < said.index("orderly shutdown timed out")
        finally:
            program.kill()

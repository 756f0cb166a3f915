"""P1, P3: workers are stopped and replaced under load."""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from tests.installation import Installation
from tests.processes import Process
from tests.servers import poll

pytestmark = pytest.mark.faults

#: The shutdown timeout of `Installation`, and 15 s for Dramatiq, which polls once a second, and for the flush, as in
#: the units and manifests.
BUDGET = 2.0 + 15.0


class Stream:
    """Submits sync and async tasks of 50 to 200 ms, 40 a second, until it is ended."""

    def __init__(self, installation: Installation) -> None:
        self._on = installation
        self.tasks: dict[str, str] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Stream:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(10)

    def _run(self) -> None:
        lengths = itertools.cycle((0.05, 0.1, 0.15, 0.2))
        for n, kind in enumerate(itertools.cycle(("plain", "gentle"))):
            if self._ended.wait(0.025):
                return
            name = f"{kind}-{n}"
            self.tasks[name] = self._on.submit(kind, name, seconds=next(lengths))

    def wait_for_work(self) -> None:
        """Wait until a task submitted from now on runs."""
        last = next(reversed(self.tasks), None)
        poll(lambda: next(reversed(self.tasks), None) != last, message="a submission")
        self._on.wait_note(f"start {next(reversed(self.tasks))}")

    def assert_all_succeed(self, *, restarts: int = 0) -> None:
        """No task is lost, each has one end, and at most `restarts` tasks started more than once."""
        ledger = self._on.runtime.ledger
        again = []
        for name, task in self.tasks.items():
            row = self._on.wait_state(task, "succeeded")
            attempts = ledger.attempts(task)
            assert [attempt.outcome for attempt in attempts].count("succeeded") == 1
            assert (attempts[-1].outcome, attempts[-1].token) == ("succeeded", row.token)
            if self._on.notes()[f"start {name}"] > 1:
                again.append((name, [attempt.outcome for attempt in attempts]))
            elif row.attempts != 1:
                again.append((name, row.attempts))
        assert len(again) <= restarts, again


@pytest.fixture
def pair(installation: Installation) -> Iterator[list[Process]]:
    yield [installation.start_worker(threads=4) for _ in range(2)]


def ended_within(worker: Process, seconds: float) -> int:
    since = time.monotonic()
    code = worker.wait(60)
    assert time.monotonic() - since < seconds, worker.text()
    return code


def test_p1_a_rolling_restart_under_load_loses_and_repeats_nothing(
    installation: Installation, pair: list[Process]
) -> None:
    with Stream(installation) as stream:
        for old in pair:
            stream.wait_for_work()
            installation.start_worker(threads=4)
            old._process.terminate()
            assert ended_within(old, BUDGET) == 0
        stream.wait_for_work()
    stream.assert_all_succeed()
    inspection = installation.runtime.inspection
    poll(lambda: not any(depth.waiting or depth.running for depth in inspection.queues()), message="nothing is left")


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("to", ["master", "group"])
def test_p1_sigterm_under_load_loses_and_repeats_nothing(
    installation: Installation, pair: list[Process], to: str, twice: bool
) -> None:
    with Stream(installation) as stream:
        stream.wait_for_work()
        old = pair[0]
        send = (lambda: old.signal(signal.SIGTERM)) if to == "group" else old._process.terminate
        send()
        if twice:
            poll(lambda: "Stopping worker process" in old.text() or not old.alive, message="the first one arrives")
            send()
        code = ended_within(old, BUDGET)
        stream.wait_for_work()
    assert code == 0, old.text()
    stream.assert_all_succeed()


@pytest.mark.parametrize("type_name", ["plain", "gentle"])
def test_p1_task_outlasting_the_shutdown_timeout_is_returned_at_once(
    installation: Installation, type_name: str
) -> None:
    old = installation.start_worker(threads=2)
    installation.hold("long")
    long = installation.submit(type_name, "long")
    installation.wait_note("start long")
    installation.start_worker(threads=2)
    assert old.terminate() == 0
    installation.wait_note("start long", times=2)
    installation.release("long")
    assert installation.wait_state(long, "succeeded").attempts == 1
    assert [one.outcome for one in installation.runtime.ledger.attempts(long)] == ["returned", "succeeded"]

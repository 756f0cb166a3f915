"""`queue.concurrency` of contract A: how many tasks one `sytq worker` runs at once, over its processes and threads."""

from __future__ import annotations

import pytest

from sytq.config import load
from sytq.executor.slots import Slots
from tests.crowd import Crowd
from tests.installation import Installation
from tests.processes import Process
from tests.servers import poll


@pytest.mark.parametrize(
    ("concurrency", "processes", "expected"),
    [
        (None, 4, (4, None)),
        (1, 2, (1, 1)),
        (2, 2, (2, 1)),
        (3, 2, (1, 3)),
        (10, 4, (2, 5)),
        (7, 4, (1, 7)),
        (12, 4, (4, 3)),
        (2, 8, (2, 1)),
    ],
)
def test_processes_share_the_bound_evenly(
    concurrency: int | None, processes: int, expected: tuple[int, int | None]
) -> None:
    environ = {"SYTQ_WORKER__PROCESSES": str(processes)}
    settings = load(environ=environ | ({"SYTQ_QUEUE__CONCURRENCY": str(concurrency)} if concurrency else {}))
    assert (settings.worker_processes, settings.max_running) == expected


def test_slots_of_both_kinds_count_against_one_bound() -> None:
    slots = Slots(max_running=3)
    assert slots.acquire({"loop"}, 100, 0) == 0
    slots.open(threads=2, loop_slots=1000)
    assert slots.acquire({"loop", "thread"}, 100, 0) == 2  # a queue of mixed types
    slots.release_unused({"loop", "thread"}, 2, {"loop": 1})
    assert slots.acquire({"loop"}, 100, 0) == 2
    assert slots.acquire({"thread"}, 100, 0) == 0  # a thread is free, and three tasks run
    slots.release("loop")
    assert slots.acquire({"thread"}, 100, 0) == 1
    slots.release_unused({"thread"}, 1, {"thread": 1, "loop": 1})  # one type had moved to another queue
    assert slots.acquire({"loop"}, 100, 0) == 0
    for kind in ("loop", "loop", "thread"):
        slots.release(kind)  # type: ignore[arg-type]
    assert slots.acquire({"loop"}, 100, 0) == 2


def test_no_more_is_fetched_than_passes_to_the_event_loop_and_to_redis() -> None:
    slots = Slots()
    slots.open(threads=8, loop_slots=1000)
    assert [slots.acquire({"loop"}, 100, 0) for _ in range(3)] == [100, 100, 0]
    assert slots.acquire({"thread"}, 8, 0) == 0
    slots.passed(100)  # the first hundred have begun, and the second wait for the event loop
    assert slots.acquire({"loop"}, 60, 0) == 60
    slots.release_unused({"loop"}, 60, {"loop": 10})
    slots.passed(110)
    assert slots.acquire({"thread", "loop"}, 8, 0) == 8  # the 110 that run do not count
    slots.release_unused({"thread", "loop"}, 8, {"thread": 8})
    for _ in range(101):
        slots.release("loop")
    assert slots.acquire({"loop"}, 100, 0) == 0  # their ends wait for Redis
    slots.passed(50)
    assert slots.acquire({"loop"}, 100, 0) == 100


def test_a_worker_never_runs_more_than_queue_concurrency(installation: Installation) -> None:
    crowd = Crowd(seconds=0.2)
    settings = {"SYTQ_QUEUE__CONCURRENCY": "2", "SYTQ_WORKER__PROCESSES": "2", "SYTQ_WORKER__THREADS": "8"}
    worker = Process(["sytq.cli", "worker"], installation.environ | settings, installation.folder / "worker.log")
    try:
        names = ("called", "called-plain")
        tasks = [
            installation.runtime.submitter.prepare(name, {"port": crowd.port, "name": f"{name}-{n}"})
            for name in names
            for n in range(6)
        ]
        installation.runtime.submitter.submit(tasks)
        poll(lambda: crowd.answers[b"ok"] == 12, message=worker.text)
        assert crowd.peak == 2
        assert set(crowd.calls.values()) == {1}
    finally:
        worker.kill()
        crowd.close()

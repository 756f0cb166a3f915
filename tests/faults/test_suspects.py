"""P8: suspects, and what happens to the isolated process that runs them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from sytq.ledger import hold
from sytq.ledger.values import utcnow
from tests.installation import Installation
from tests.servers import poll

pytestmark = pytest.mark.faults


def suspects(installation: Installation, type_name: str, *names: str) -> list[str]:
    """Tasks that go on running until they are released, and whose workers were killed twice."""
    installation.hold(*names)
    tasks = [installation.submit(type_name, name, seconds=1.0) for name in names]
    for times in (1, 2):
        worker = installation.start_worker()
        for name in names:
            installation.wait_note(f"start {name}", times)
        worker.kill()
    return tasks


def crashes(installation: Installation, task: str) -> bytes:
    found: bytes = installation.runtime.redis.ask("HGET", installation.runtime.keys.crashes, task)
    return found


def isolated(installation: Installation, task: str) -> str:
    """The name of the isolated process that runs a task."""

    def runs() -> bool:
        found = installation.runtime.inspection.live([task])[task]
        return found.state == "running" and "-alone-" in (found.worker or "")

    poll(runs, message="the suspect runs in an isolated process")
    return installation.runtime.inspection.live([task])[task].worker or ""


def test_p8_stopped_or_orphaned_isolated_process_is_no_crash(make_installation: Callable[..., Installation]) -> None:
    installation = make_installation(SYTQ_WORKER__LIVENESS="3s", SYTQ_WORKER__SHUTDOWN_TIMEOUT="3s")
    (task,) = suspects(installation, "plain", "a")
    worker = installation.start_worker()
    isolated(installation, task)
    assert worker.terminate() == 0
    live = installation.runtime.inspection.live([task])[task]
    assert (live.state, live.attempts) == ("queued", 0), "it has returned its task"
    worker = installation.start_worker()
    name = isolated(installation, task)
    os.kill(int(name.split("-alone-")[0].split("-")[-2]), signal.SIGKILL)  # its parent
    worker.wait(60)
    installation.start_worker()
    assert installation.runtime.operator.cancel(task, "ann") == "asked"
    assert installation.wait_state(task, "cancelled").error == "cancelled by ann"
    assert installation.row(task).attempts == 1
    assert installation.notes() == {"start a": 4}
    assert b'"alone":0' in crashes(installation, task)


def test_hold_reaches_an_isolated_process_that_runs(make_installation: Callable[..., Installation]) -> None:
    installation = make_installation(SYTQ_WORKER__LIVENESS="3s")
    tasks = suspects(installation, "gentle", "a", "b")
    installation.start_worker()
    poll(lambda: sum(installation.notes().values()) == 5, message="half of the suspects run")
    (first,) = (task for task in tasks if installation.runtime.inspection.live([task])[task].state == "running")
    (second,) = set(tasks) - {first}
    name = isolated(installation, first)
    with installation.runtime.database.connection_context():
        assert hold.hold(utcnow(), "ann", "a look first")
    installation.release("a", "b")
    installation.wait_state(first, "succeeded")
    departed = installation.runtime.keys.departed
    poll(lambda: installation.runtime.redis.ask("HEXISTS", departed, name), message="the isolated process has ended")
    assert installation.runtime.inspection.live([second])[second].suspect
    with installation.runtime.database.connection_context():
        assert hold.end(utcnow(), "ann", "")
    installation.wait_state(second, "succeeded")

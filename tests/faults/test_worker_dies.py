"""P3, P6, P8: a worker is killed, suspended or poisoned."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.installation import Installation
from tests.servers import poll

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("type_name", ["plain", "gentle"])
def test_p3_tasks_of_a_killed_worker_start_elsewhere_within_5_seconds(
    installation: Installation, type_name: str
) -> None:
    workers = [installation.start_worker() for _ in range(2)]
    installation.hold("a")
    task = installation.submit(type_name, "a")
    installation.wait_note("start a")
    (held,) = installation.runtime.inspection.running().items
    (holder,) = (worker for worker in workers if held.worker in worker.text())
    holder.kill()
    killed = time.time()
    installation.wait_note("start a", times=2)
    assert installation.moments("start a")[1] - killed < 5
    installation.release("a")
    row = installation.wait_state(task, "succeeded")
    assert row.attempts == 1
    assert installation.notes()["end a"] == 1
    assert [a.outcome for a in installation.runtime.ledger.attempts(task)] == ["lost", "succeeded"]


def test_p3_all_600_tasks_of_a_killed_worker_restart_at_once(installation: Installation) -> None:
    names = [f"a{n}" for n in range(600)]
    installation.hold(*names)
    first = installation.start_worker()
    tasks = [installation.prepare("gentle", name) for name in names]
    installation.runtime.submitter.submit(tasks)
    poll(lambda: len(installation.notes()) == len(names), message="all have started")
    installation.start_worker()
    first.kill()
    killed = time.time()
    poll(lambda: sum(installation.notes().values()) == 2 * len(names), message="all have started again")
    restarts = [installation.moments(f"start {name}")[1] - killed for name in names]
    # The lease, at most half a second to the next look, and no wait between two portions.
    assert max(restarts) - min(restarts) < 2.5
    assert max(restarts) < 7
    installation.release(*names)
    for task in tasks:
        installation.wait_state(task.id, "succeeded")


def test_p4_finished_steps_of_a_killed_worker_are_not_run_again(installation: Installation) -> None:
    first = installation.start_worker()
    installation.hold("a-two")
    task = installation.submit("stepwise", "a")
    installation.wait_note("step-two a")
    first.kill()
    installation.release("a-two")
    installation.start_worker()
    row = installation.wait_state(task, "succeeded")
    assert row.result == '{"done":["one","two","three"]}'
    assert installation.notes() == {"step-one a": 1, "step-two a": 2, "step-three a": 1}
    interrupted = {step.name: step.interrupted for step in installation.runtime.ledger.steps(task)}
    assert interrupted == {"one": 0, "two": 1, "three": 0}  # two may have been paid for twice, and that is recorded


def test_p6_suspended_worker_changes_nothing_when_it_resumes(tmp_path: Path, mysql_url: str, redis_url: str) -> None:
    # On MySQL: a process that is stopped in the middle of a write to SQLite holds up everybody's.
    installation = Installation(tmp_path, mysql_url, redis_url)
    try:
        _suspend_and_resume(installation)
    finally:
        installation.close()


def _suspend_and_resume(installation: Installation) -> None:
    paused = installation.start_worker()
    installation.hold("a")
    task = installation.submit("plain", "a")
    installation.wait_state(task, "running")
    paused.signal(signal.SIGSTOP)
    installation.release("a")
    installation.start_worker()
    row = installation.wait_state(task, "succeeded")
    token, attempts = row.token, row.attempts
    paused.signal(signal.SIGCONT)
    poll(lambda: "belongs to another attempt" in paused.text(), message="the paused worker's outcome is refused")
    assert paused.alive
    again = installation.submit("plain", "b")  # it runs on this worker or on the other one
    installation.wait_state(again, "succeeded")
    row = installation.row(task)
    assert (row.state, row.token, row.attempts) == ("succeeded", token, attempts)


SOON = {"SYTQ_WORKER__LIVENESS": "1500ms", "SYTQ_WORKER__HEARTBEAT": "500ms"}


def keep_a_worker_until(installation: Installation, ended: Callable[[], bool]) -> str:
    """Start a worker again whenever it has died; return what all of them logged."""

    def looks() -> bool:
        if not any(worker.alive for worker in installation.workers):
            installation.start_worker()
        return ended()

    poll(looks, timeout=150, interval=0.2, message=lambda: installation.workers[-1].text()[-3000:])
    return "".join(worker.text() for worker in installation.workers)


def test_p8_40_bystanders_of_a_task_that_kills_its_worker_succeed(
    make_installation: Callable[..., Installation], redis_url: str
) -> None:
    installation = make_installation(**SOON)
    bystanders = [installation.prepare(("gentle", "plain")[n % 2], f"b{n}", seconds=0.4) for n in range(40)]
    culprit = installation.prepare("deadly", "kill", seconds=0.2)
    installation.runtime.submitter.submit([*bystanders[:20], culprit, *bystanders[20:]])
    tasks = [culprit, *bystanders]
    text = keep_a_worker_until(
        installation, lambda: all(installation.row(task.id).state in ("succeeded", "dead") for task in tasks)
    )
    found = {task.id: (row.state, row.attempts) for task in tasks if (row := installation.row(task.id))}
    assert found == {task.id: ("succeeded", 1) for task in bystanders} | {culprit.id: ("dead", 1)}
    row = installation.row(culprit.id)
    assert "the worker died each of the 3 times that this task ran alone in it: killed by SIGKILL" in row.error
    assert row.error_fingerprint == "worker-died"
    told = [json.loads(line) for line in text.splitlines() if '"critical"' in line and "a task killed" in line]
    assert [line["task_id"] for line in told] == [culprit.id]
    assert "last words of kill" in told[0]["last_lines"]
    assert installation.runtime.redis.ask("EXISTS", installation.runtime.keys.suspects("deadly")) == 0
    installation.assert_redis_forgets()


def test_p8_culprits_of_any_kind_end_dead_with_what_they_died_of(
    make_installation: Callable[..., Installation], redis_url: str
) -> None:
    installation = make_installation(**SOON, SYTQ_WORKER__MAX_CRASHES="1")
    kinds = {"segfault": "SIGSEGV", "abort": "SIGABRT", "exit": "exit status 3", "quit": "exit status 0"}
    culprits = {kind: installation.submit("deadly", kind) for kind in kinds}
    culprits["plain"] = installation.submit("poison", "plain")
    keep_a_worker_until(installation, lambda: all(installation.row(task).state == "dead" for task in culprits.values()))
    for kind, task in culprits.items():
        row = installation.row(task)
        assert row.error.startswith("the worker died"), row.error
        assert kinds.get(kind, "SIGKILL") in row.error
        assert row.attempts == 1


def test_sigterm_returns_unfinished_tasks_and_consumes_no_attempt(installation: Installation) -> None:
    worker = installation.start_worker()
    quick = installation.submit("plain", "quick", seconds=0.5)
    endless = installation.submit("gentle", "endless", seconds=20)
    installation.wait_note("start quick")
    installation.wait_note("start endless")
    assert worker.terminate() == 0
    redis, keys = installation.runtime.redis, installation.runtime.keys
    assert redis.ask("XLEN", keys.stream("gentle", "normal")) == 1
    live = installation.runtime.inspection.live([endless])[endless]
    assert (live.state, live.attempts, live.worker) == ("queued", 0, None)
    installation.start_worker()
    installation.wait_note("start endless", times=2)
    assert installation.wait_state(quick, "succeeded").attempts == 1
    assert installation.notes()["start quick"] == 1


def test_second_sigterm_to_the_group_loses_no_task(installation: Installation) -> None:
    worker = installation.start_worker()
    installation.hold("a")
    task = installation.submit("gentle", "a")
    installation.wait_note("start a")
    worker.signal(signal.SIGTERM)
    worker.signal(signal.SIGTERM)
    worker.wait(60)
    installation.release("a")
    installation.start_worker()
    assert installation.wait_state(task, "succeeded").result == '{"name":"a"}'


def test_killed_workers_cancelled_and_paused_tasks_do_not_restart(
    installation: Installation,
) -> None:
    operator = installation.runtime.operator
    first = installation.start_worker()
    installation.hold("unwanted", "paused")
    unwanted = installation.submit("plain", "unwanted")
    paused = installation.submit("gentle", "paused")
    for task in (unwanted, paused):
        installation.wait_state(task, "running")
    assert operator.cancel(unwanted, "ann") == "asked"
    operator.pause("gentle", by="ann", why="the target is being moved")
    first.kill()
    installation.start_worker()
    assert installation.wait_state(unwanted, "cancelled").error == "cancelled by ann"
    assert installation.wait_state(paused, "queued").attempts == 0
    installation.release("unwanted", "paused")
    operator.resume("gentle")
    assert installation.wait_state(paused, "succeeded").attempts == 1
    assert [one.outcome for one in installation.runtime.ledger.attempts(paused)] == ["lost", "succeeded"]
    assert (installation.notes()["start unwanted"], installation.notes()["start paused"]) == (1, 2)

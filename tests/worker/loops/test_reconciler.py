"""The reconciler on an emptied Redis, which workers have yet to tell what they run."""

from __future__ import annotations

import datetime as dt
import time
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from sytq.ledger.models import Task
from sytq.ledger.values import utcnow
from sytq.worker.loops.reconciler import Reconciler
from tests.installation import Installation

LEASE = 60.0


def reconciler_of(installation: Installation) -> Reconciler:
    runtime = installation.runtime
    parts = (runtime.ledger, runtime.submitter, runtime.recording, runtime.inspection, runtime.operator)
    return Reconciler(runtime.redis, runtime.keys, "w", *parts, LEASE, lambda: True)


def seen_first(installation: Installation, seconds: float) -> None:
    """Have Redis first seen so long ago."""
    redis, keys = installation.runtime.redis, installation.runtime.keys
    redis.ask("SET", keys.epoch, int((redis.time() - seconds) * 1000))


def test_task_about_to_be_dispatched_is_left_to_its_submitter(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, now = installation.runtime, time.monotonic()
    monkeypatch.setattr("sytq.worker.loops.reconciler.time", SimpleNamespace(monotonic=lambda: now))
    seen_first(installation, 3600)
    mine, lost = installation.prepare("plain", "a"), installation.prepare("plain", "b")
    reconciler = reconciler_of(installation)
    runtime.ledger.accept([mine, lost])
    assert reconciler.work() <= 0.5  # between the commit and the dispatch
    assert runtime.inspection.live([mine.id, lost.id]) == {}
    runtime.submitter.dispatch([mine])
    with capture_logs() as lines:
        reconciler.work()
        assert lost.id not in runtime.inspection.live([lost.id])
        now += 0.5
        reconciler.work()
    assert lost.id in runtime.inspection.live([lost.id])
    assert [line["tasks"] for line in lines if "did not know" in line["event"]] == [1]


def test_many_lost_tasks_are_dispatched_without_a_second_look(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, now = installation.runtime, time.monotonic()
    monkeypatch.setattr("sytq.worker.loops.reconciler.time", SimpleNamespace(monotonic=lambda: now))
    seen_first(installation, 3600)
    tasks = [installation.prepare("plain", f"a{n}") for n in range(150)]
    reconciler = reconciler_of(installation)
    runtime.ledger.accept(tasks)
    reconciler.work()
    now += 0.5
    reconciler.work()
    assert len(runtime.inspection.live([task.id for task in tasks])) == 150
    more = installation.prepare("plain", "b")
    runtime.ledger.accept([more])
    reconciler.work()
    assert more.id in runtime.inspection.live([more.id])


def test_task_of_the_future_hides_no_later_one(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program writes its local time into `created_at`, while many tasks wait."""
    runtime, now = installation.runtime, time.monotonic()
    monkeypatch.setattr("sytq.worker.loops.reconciler.time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr("sytq.worker.loops.reconciler._PAGE", 2)
    seen_first(installation, 3600)
    tasks = [installation.prepare("plain", f"a{n}") for n in range(20)]
    runtime.ledger.accept(tasks)
    runtime.submitter.dispatch(tasks)
    Task.update(created_at=utcnow() + dt.timedelta(hours=8)).where(Task.id == tasks[0].id).execute()
    reconciler = reconciler_of(installation)
    reconciler.work()
    late = installation.prepare("plain", "late")
    runtime.ledger.accept([late])
    for _ in range(2):
        reconciler.work()
        now += 0.6
    reconciler.work()
    assert late.id in runtime.inspection.live([late.id])


def test_p4_tasks_that_redis_forgot_wait_for_a_lease_before_dispatch(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker may still run a task that Redis does not know: dispatched at once, it would run twice."""
    runtime, now = installation.runtime, time.monotonic()
    monkeypatch.setattr("sytq.worker.loops.reconciler.time", SimpleNamespace(monotonic=lambda: now))
    task = installation.prepare("plain", "a")
    runtime.ledger.accept([task])
    reconciler = reconciler_of(installation)

    def dispatched_after(seconds: float) -> bool:
        nonlocal now
        seen_first(installation, seconds)
        for _ in range(2):
            reconciler.work()
            now += 0.5
        return task.id in runtime.inspection.live([task.id])

    assert not dispatched_after(1)
    assert not dispatched_after(LEASE / 2)
    assert dispatched_after(LEASE + 1)

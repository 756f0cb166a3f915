"""The reconciler on an emptied Redis, which workers have yet to tell what they run."""

from __future__ import annotations

from sytq.worker.loops.reconciler import Reconciler
from tests.installation import Installation

LEASE = 60.0


def test_p4_tasks_that_redis_forgot_wait_for_a_lease_before_dispatch(installation: Installation) -> None:
    """Its worker may still run a task that Redis does not know: dispatched at once, it would run twice."""
    runtime = installation.runtime
    redis, keys = runtime.redis, runtime.keys
    task = installation.prepare("plain", "a")
    runtime.ledger.accept([task])
    parts = (runtime.ledger, runtime.submitter, runtime.recording, runtime.inspection, runtime.operator)
    reconciler = Reconciler(redis, keys, "w", *parts, LEASE, lambda: True)

    def dispatched_after(seconds: float) -> bool:
        redis.ask("SET", keys.epoch, int((redis.time() - seconds) * 1000))
        reconciler.work()
        return task.id in runtime.inspection.live([task.id])

    assert not dispatched_after(1)
    assert not dispatched_after(LEASE / 2)
    assert dispatched_after(LEASE + 1)

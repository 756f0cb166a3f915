"""Limits of the configuration, counted by the called service, with two workers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager

from tests.crowd import Crowd
from tests.installation import Installation

LIMITERS = {"type:fetched": {"concurrency": 3}, "provider:crowd": {"concurrency": 5}}


@contextmanager
def called(installation: Installation, type_name: str, running: int) -> Iterator[tuple[Crowd, list[str]]]:
    """Have 12 tasks call a service, by a limiter to which their code gives this concurrency."""
    with closing(Crowd(seconds=0.2)) as crowd:
        call = {"port": crowd.port, "running": running}
        prepared = [installation.runtime.submitter.prepare(type_name, call | {"name": f"c{n}"}) for n in range(12)]
        installation.runtime.submitter.submit(prepared)
        tasks = [task.id for task in prepared]
        for task in tasks:
            installation.wait_state(task, "succeeded")
        yield crowd, tasks


def test_configured_limits_hold_over_two_workers(installation: Installation) -> None:
    for _ in range(2):
        installation.start_worker(SYTQ_LIMITERS=json.dumps(LIMITERS))
    with called(installation, "fetched", running=100) as (crowd, tasks):
        assert crowd.peak == 3  # of the type
        assert set(crowd.calls.values()) == {1}
        assert {len(installation.runtime.ledger.attempts(task)) for task in tasks} == {1}  # waiting is none
    with called(installation, "called", running=1) as (crowd, _):
        assert crowd.peak == 5  # in place of what code states
    state = installation.runtime.inspection.limiter("type:fetched")
    assert state is not None
    assert (state.limit, state.running, state.waiting) == (3, 0, 0)

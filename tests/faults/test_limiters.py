"""Limiters while workers and Redis are killed: concurrency is counted by the called service."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sytq.broker.limiter_states import LimiterState
from tests.crowd import Crowd
from tests.installation import Installation
from tests.proxy import Proxy
from tests.servers import RedisServer, poll

pytestmark = pytest.mark.faults


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    made = Crowd(seconds=0.3)
    yield made
    made.close()


@pytest.fixture
def breakable(tmp_path: Path, own_redis: RedisServer) -> Iterator[Installation]:
    made = Installation(tmp_path, f"sqlite:///{tmp_path / 'sytq.db'}", own_redis.url)
    yield made
    if not own_redis.running:
        own_redis.start()
    made.close()


def submit(installation: Installation, crowd: Crowd, count: int, type_name: str = "called", **limits: Any) -> list[str]:
    prepared = [
        installation.runtime.submitter.prepare(type_name, {"port": crowd.port, "name": f"c{n}", **limits})
        for n in range(count)
    ]
    installation.runtime.submitter.submit(prepared)
    return [task.id for task in prepared]


def limiter(installation: Installation, name: str = "provider:crowd") -> LimiterState:
    state = installation.runtime.inspection.limiter(name)
    assert state is not None
    return state


def counted(installation: Installation, type_name: str, outcome: str) -> int:
    """The number of attempts with this outcome, from the metrics."""
    return int(installation.counted().get(f'sytq_task_seconds_count{{outcome="{outcome}",type="{type_name}"}}', 0))


def wait_all(installation: Installation, tasks: list[str], timeout: float = 60) -> None:
    for task in tasks:
        installation.wait_state(task, "succeeded", timeout=timeout)


@pytest.mark.parametrize("type_name", ["called", "called-plain"])
def test_two_workers_keep_the_limit_and_waiting_consumes_no_attempt(
    installation: Installation, crowd: Crowd, type_name: str
) -> None:
    tasks = submit(installation, crowd, 40, type_name, running=4)
    for _ in range(2):
        installation.start_worker(threads=6)
    wait_all(installation, tasks)
    assert crowd.peak == 4
    assert set(crowd.calls.values()) == {1}
    assert {installation.row(task).attempts for task in tasks} == {1}
    refused = sum(len(installation.runtime.ledger.attempts(task)) - 1 for task in tasks)
    assert 0 < refused <= 2 * len(tasks)
    totals = installation.runtime.inspection.totals()
    assert (totals[type_name, "waited"], (type_name, "retried") in totals) == (refused, False)
    poll(lambda: counted(installation, type_name, "waited") == refused, message="the workers count it")
    assert counted(installation, type_name, "failed") == 0
    state = limiter(installation)
    assert (state.running, state.waiting, state.state) == (0, 0, "closed")


@pytest.mark.parametrize("type_name", ["fetched", "fetched-plain"])
def test_tasks_that_wait_before_their_attempt_leave_no_trace(
    installation: Installation, crowd: Crowd, type_name: str
) -> None:
    for _ in range(3):
        installation.start_worker(threads=6)
    first = submit(installation, crowd, 1, type_name, running=4)
    wait_all(installation, first)  # the limits are known from now on
    tasks = submit(installation, crowd, 40, type_name, running=4)
    wait_all(installation, tasks)
    assert crowd.peak == 4
    assert set(crowd.calls.values()) == {1, 2}  # the name of the first one's call is repeated
    assert {len(installation.runtime.ledger.attempts(task)) for task in tasks} == {1}
    assert (type_name, "waited") not in installation.runtime.inspection.totals()
    state = limiter(installation)
    assert (state.running, state.waiting, state.state) == (0, 0, "closed")


def test_task_whose_call_is_done_waits_for_no_permit_of_it(installation: Installation, crowd: Crowd) -> None:
    installation.start_worker()
    wait_all(installation, submit(installation, crowd, 1, "fetched"))  # the limits are known from now on
    wait_all(installation, submit(installation, crowd, 1, "fetched-step"))
    assert limiter(installation).state == "paused"


@pytest.mark.parametrize("type_name", ["called", "fetched"])
def test_the_limit_holds_when_a_killed_workers_tasks_restart(
    installation: Installation, crowd: Crowd, type_name: str
) -> None:
    crowd.seconds = 600
    first = installation.start_worker()
    tasks = submit(installation, crowd, 24, type_name, running=4)
    poll(lambda: crowd.calls.total() == 4, message="the killed one's calls are under way")
    installation.start_worker()
    first.kill()
    crowd.seconds = 0.3
    wait_all(installation, tasks)
    assert crowd.peak == 4
    assert sum(crowd.calls.values()) in range(25, 29)  # the calls of the killed worker are repeated
    assert limiter(installation).running == 0


def test_frozen_worker_keeps_its_permits_until_its_lease_expires(
    tmp_path: Path, mysql_url: str, redis_url: str, crowd: Crowd
) -> None:
    # On MySQL: a process that is stopped in the middle of a write to SQLite holds up everybody's.
    crowd.seconds = 600
    installation = Installation(tmp_path, mysql_url, redis_url)
    try:
        frozen = installation.start_worker()
        tasks = submit(installation, crowd, 8, running=2)
        # Not before both calls have arrived: a half-sent call of a frozen worker ends by itself.
        poll(lambda: crowd.calls.total() == 2, message="its calls are under way")
        # And not in the middle of a transaction, whose locks would outlive its lease.
        for task, state in zip(tasks, ["running"] * 2 + ["retrying"] * 6, strict=True):
            installation.wait_state(task, state)
        frozen.signal(signal.SIGSTOP)
        crowd.seconds = 1.0
        poll(lambda: crowd.now == 0, message="those calls end")
        installation.start_worker()
        wait_all(installation, tasks)
        assert crowd.peak == 2
        frozen.signal(signal.SIGCONT)
    finally:
        installation.close()


@pytest.mark.parametrize("type_name", ["called", "fetched"])
def test_the_limit_holds_when_redis_restarts_with_its_data(
    breakable: Installation, own_redis: RedisServer, crowd: Crowd, type_name: str
) -> None:
    crowd.seconds = 0.5
    for _ in range(2):
        breakable.start_worker()
    tasks = submit(breakable, crowd, 40, type_name, running=4)
    poll(lambda: sum(crowd.calls.values()) > 8, message="it is under way")
    own_redis.kill()
    time.sleep(1.5)  # calls end meanwhile, and cannot release their permits
    own_redis.start()
    wait_all(breakable, tasks, timeout=90)
    assert crowd.peak == 4
    assert {breakable.row(task).attempts for task in tasks} <= {1, 2}


@pytest.mark.parametrize("type_name", ["called", "fetched"])
def test_the_limit_holds_when_redis_is_emptied_while_calls_run(
    breakable: Installation, own_redis: RedisServer, crowd: Crowd, type_name: str
) -> None:
    crowd.seconds = 6.0
    for _ in range(2):
        breakable.start_worker()
    tasks = submit(breakable, crowd, 8, type_name, running=4)
    poll(lambda: crowd.now == 4, message="four are under way")
    own_redis.client().flushall()
    wait_all(breakable, tasks, timeout=120)
    assert crowd.peak == 4
    assert set(crowd.calls.values()) == {1}


def test_the_limit_holds_while_connections_and_redis_freeze_and_heal(
    breakable: Installation, own_redis: RedisServer, crowd: Crowd
) -> None:
    soon = {"SYTQ_WORKER__LIVENESS": "2s", "SYTQ_WORKER__HEARTBEAT": "500ms"}
    proxy = Proxy(own_redis.port)
    breakable.start_worker(threads=12, SYTQ_REDIS__URL=proxy.url, **soon)
    breakable.start_worker(threads=12, **soon)
    tasks = [
        task for kind in ("called", "called-plain", "fetched") for task in submit(breakable, crowd, 40, kind, running=4)
    ]
    for seconds in (1.6, 2.0):  # the lease expires about then
        calls = crowd.calls.total()
        poll(lambda calls=calls: crowd.calls.total() > calls + 4, message="calls go on")  # type: ignore[misc]
        proxy.freeze()
        time.sleep(seconds)
        proxy.heal()
        own_redis.pause()
        time.sleep(seconds / 2)
        own_redis.resume()
    wait_all(breakable, tasks, timeout=120)
    proxy.close()
    assert crowd.peak == 4
    assert limiter(breakable).running == 0


def test_open_breaker_delays_all_tasks_until_the_service_recovers(installation: Installation, crowd: Crowd) -> None:
    crowd.seconds, crowd.answer = 0.05, b"no"
    for _ in range(2):
        installation.start_worker()
    began = time.monotonic()
    tasks = submit(installation, crowd, 30, running=3, breaker=True)
    poll(lambda: limiter(installation).state == "open" if crowd.calls else False, message="it opens")
    calls, opened = crowd.calls.total(), (time.monotonic() - began) / 1.5
    crowd.answer = b"ok"
    assert calls < 12 + 2 * opened, "it lets two through each time that it is tried, and without it forty run a second"
    wait_all(installation, tasks)
    assert limiter(installation).state == "closed"
    assert max(installation.row(task).attempts for task in tasks) <= 3 + opened


def test_a_probe_of_a_killed_worker_does_not_keep_the_breaker_half_open(
    installation: Installation, crowd: Crowd
) -> None:
    crowd.seconds, crowd.answer = 0.05, b"no"
    first = installation.start_worker()
    tasks = submit(installation, crowd, 6, running=3, breaker=True)
    # What was granted before it opened may not have called yet: its permit is released after its call.
    poll(lambda: crowd.calls, message="it calls")
    poll(lambda: (state := limiter(installation)).state == "open" and state.running == 0, message="it opens")
    crowd.seconds, crowd.answer = 60, b"ok"  # of the probes alone
    poll(lambda: limiter(installation).state == "half_open" and limiter(installation).running == 2, message="tried")
    installation.start_worker()
    first.kill()
    crowd.seconds = 0.05
    wait_all(installation, tasks)
    assert limiter(installation).state == "closed"


def test_window_limit_holds_across_all_workers(installation: Installation, crowd: Crowd) -> None:
    crowd.seconds = 0.01
    for _ in range(2):
        installation.start_worker()
    began = time.monotonic()
    tasks = submit(installation, crowd, 25, calls=10, window=2.0)
    wait_all(installation, tasks)
    assert time.monotonic() - began > 4  # ten at once, ten after 2 s, five after 4 s
    refused = sum(len(installation.runtime.ledger.attempts(task)) - 1 for task in tasks)
    assert refused <= 2 * len(tasks)


@pytest.mark.parametrize("type_name", ["closing", "closing-plain"])
def test_limiter_paused_by_a_task_is_logged_once(installation: Installation, crowd: Crowd, type_name: str) -> None:
    worker = installation.start_worker()
    for _ in range(2):
        (task,) = submit(installation, crowd, 1, type_name)
        installation.wait_state(task, "succeeded")
    state = limiter(installation)
    assert (state.state, state.reason) == ("paused", "no credit left")
    assert str(state.by).startswith(f"{type_name} ")
    assert worker.text().count('"limiter paused"') == 1
    waiting = submit(installation, crowd, 3, running=2)
    for task in waiting:
        installation.wait_state(task, "retrying")
    assert not crowd.calls
    prepared = installation.runtime.submitter.prepare(type_name, {"port": crowd.port, "name": "open"})
    installation.runtime.submitter.submit([prepared])
    wait_all(installation, waiting)
    assert {installation.row(task).attempts for task in waiting} == {1}


def test_cancelled_running_and_waiting_tasks_leave_no_permit_behind(installation: Installation, crowd: Crowd) -> None:
    crowd.seconds = 60
    installation.start_worker()
    tasks = submit(installation, crowd, 1, running=1)
    poll(lambda: crowd.now == 1, message="one is under way")
    tasks += submit(installation, crowd, 2, running=1)
    for task in tasks[1:]:
        installation.wait_state(task, "retrying")
    operator = installation.runtime.operator
    assert operator.cancel(tasks[1], "ann") == "cancelled"
    assert operator.cancel(tasks[0], "ann") == "asked"
    installation.wait_state(tasks[0], "cancelled")
    poll(lambda: crowd.calls.total() == 2 and crowd.now == 1, message="the third one's call")
    assert limiter(installation).running == 1
    assert operator.cancel(tasks[2], "ann") == "asked"
    installation.wait_state(tasks[2], "cancelled")
    assert limiter(installation).running == 0

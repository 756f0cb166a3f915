"""Under random workers, clients, operators and faults, every task stays in exactly one place and ends."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from sytq.broker.limiter import settings_of
from sytq.embedded import find_server
from sytq.states import QUEUED, RETRYING
from tests.broker.bench import Bench
from tests.broker.limiter_play import ONE, Play
from tests.broker.machine import TaskLife
from tests.broker.model import documented_changes
from tests.servers import RedisServer


@pytest.fixture
def life(bench: Bench) -> type[TaskLife]:
    on_it = bench

    class Life(TaskLife):
        bench = on_it
        legal = documented_changes()
        observed = set()  # noqa: RUF012

    return Life


def test_random_operations_keep_every_task_in_one_place(life: type[TaskLife], every_server: RedisServer) -> None:
    """Most examples run on the server that all other tests use; they find what random operations find."""
    run_state_machine_as_test(
        life,
        settings=settings(
            max_examples=25 if os.path.realpath(every_server.program) == os.path.realpath(find_server()) else 8,
            stateful_step_count=5,
            deadline=None,
            derandomize=bool(os.environ.get("CI")),
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_every_transition_of_the_documented_diagram_occurs(life: type[TaskLife]) -> None:
    one = life()

    def start(*tasks: str) -> None:
        one.begin(0)
        for kind in tasks:
            one.do("accept", priority="normal", delayed=kind == "delayed", max_attempts=2, arrives=True)

    def fetch(n: int = 0) -> None:
        one.do("fetch", n=n, slots=1, sweep=True, reply_lost=False)

    def ack(kind: str) -> None:
        one.do("ack", which=0, kind=kind)

    for kind in ("done", "dead", "cancelled"):
        start("now")
        fetch()
        ack(kind)
        one.do("record", write=True, forget=True)
        start("now")
        fetch()
        one.do("redis_is_emptied", ends=[{"which": 0, "kind": kind}], noticed_by=set())
    start("now")
    fetch()
    one.do("redis_is_emptied", ends=[], noticed_by={0})
    start("delayed", "now")
    fetch()
    ack("retry")
    one.do("cancel", which={0, 1})
    start("delayed")
    one.do("promote", which={0})
    fetch()
    ack("return")
    fetch()
    ack("retry")
    one.do("promote", which={0})
    start()
    play = Play(life.bench)
    life.bench.redis.ask("HSET", life.bench.keys.limiter_settings, ONE.name, settings_of(ONE))
    play.limiters.pause(ONE.name, "ann", "moving")
    one.do("accept", priority="normal", delayed=False, max_attempts=2, arrives=True, limiters=(ONE.name,))
    assert life.bench.fetch("w0") == {}
    one.script = "fetch"
    waiting = one.known["t0"]
    waiting.state, waiting.entry, waiting.consumer = RETRYING, "", "waited"
    one.all_is_well()
    play.limiters.resume(ONE.name)
    play.tend()
    one.script = "limiter_tend"
    waiting.state, waiting.entry, waiting.consumer = QUEUED, one._entry("t0"), "granted"
    one.all_is_well()
    start("now")
    for n in range(2):
        fetch(n)
        one.do("lose_lease", n=n, how="killed")
    for _ in range(2):
        fetch(2)
        one.do("isolate", most=1, reply_lost=False)
        one.do("lose_lease", n=3, how="killed")
    fetch(2)
    start("now")
    fetch()
    one.do("lose_lease", n=0, how="killed")
    one.do("pause", n=1, resume=True)
    fetch(1)
    one.do("cancel", which={0})
    one.do("lose_lease", n=1, how="killed")
    fetch(2)
    start("now", "now")
    one.do("cancel", which={0})
    fetch()
    ack("dead")
    one.do("record", write=True, forget=False)
    one.do("replay", dispatched=True)
    one.teardown()
    assert one.legal == one.observed


# -- cases that random operations seldom reach


def test_events_of_an_earlier_attempt_do_not_forget_a_later_end(life: type[TaskLife]) -> None:
    bench = life.bench
    bench.dispatch("a")
    bench.ack("w", bench.fetch("w")["a"], "retry")
    bench.promote()
    bench.read_events()
    bench.ack("w", bench.fetch("w")["a"], "done")
    bench.advance(1)
    assert bench.forget() == 2
    assert (bench.live("a") or [])[0] == "succeeded"


@pytest.mark.parametrize("max_attempts", [1, 2])
def test_replayed_task_ignores_an_earlier_cancel_request(life: type[TaskLife], max_attempts: int) -> None:
    bench = life.bench
    bench.dispatch("a", max_attempts=max_attempts)
    bench.fetch("w")
    assert bench.operations.cancel("a", "somebody") == "asked"
    bench.expire_lease("w")
    assert bench.fetch("v", sweep=True) == {}
    assert (bench.live("a") or [])[0] == "cancelled"
    assert json.loads(bench.events()[-1][b"data"])["error"] == "cancelled by somebody"
    bench.operations.revive(["a"])
    bench.dispatch("a")
    assert list(bench.fetch("v")) == ["a"]
    assert bench.heartbeat("v", held=["a"]) == [False]


def test_revive_ignores_unfinished_tasks(life: type[TaskLife]) -> None:
    bench = life.bench
    bench.dispatch("a")
    bench.fetch("w")
    bench.operations.revive(["a"])
    assert (bench.live("a") or [])[0] == "running"


def test_cancelled_task_stays_known_until_its_end_is_recorded(life: type[TaskLife]) -> None:
    bench = life.bench
    bench.dispatch("a")
    bench.ack("w", bench.fetch("w")["a"], "return")
    bench.read_events()
    assert bench.operations.cancel("a", "somebody") == "cancelled"
    bench.advance(1)
    bench.forget()
    assert bench.dispatch("a") == 0


def test_ack_with_the_old_entry_after_a_flush_leaves_nothing_behind(life: type[TaskLife]) -> None:
    bench = life.bench
    bench.dispatch("a")
    item = bench.fetch("w")["a"]
    bench.flush()
    bench.heartbeat("w")
    assert bench.reregister("w", item)
    assert bench.ack("w", item, "done") == 1
    assert bench.fetch("w", sweep=True) == {}
    assert bench.waiting() == 0


def test_sweep_does_not_restart_a_task_during_its_reregistration(life: type[TaskLife]) -> None:
    bench = life.bench
    bench.dispatch("a")
    item = bench.fetch("w")["a"]
    bench.flush()
    bench.heartbeat("w")
    bench.reregister("w", item)
    assert bench.fetch("w", sweep=True, held=[(item[0], item[1].decode()), (item[0], "a")]) == {}


def test_tasks_of_a_paused_type_wait_for_its_resumption_and_can_be_cancelled(bench: Bench) -> None:
    bench.dispatch("a")
    bench.dispatch("b")
    bench.limiters.pause("type:t", "ann", "moving")
    assert bench.fetch("w") == {}
    bench.tend()
    assert bench.waiting() == 0
    assert bench.operations.cancel("a", "somebody") == "cancelled"
    assert bench.limiters.resume("type:t").by == "ann"
    bench.tend()
    assert list(bench.fetch("w")) == ["b"]


def test_tasks_that_workers_of_0_1_set_aside_return_once_their_type_is_resumed(bench: Bench) -> None:
    bench.dispatch("a")
    keys, (entry, _) = bench.keys, bench.redis.ask("XRANGE", bench.streams[2], "-", "+")[0]
    message = bench.redis.ask("XRANGE", bench.streams[2], "-", "+")[0][1][b"message"]
    bench.redis.ask("HSET", keys.paused, "t", '{"by": "ann", "why": "moving"}')
    bench.redis.ask("HSET", keys.parked("q"), "a", message)
    bench.redis.ask("HSET", keys.live, "a", "queued|t|q|normal|0|3|0||")
    bench.redis.ask("XDEL", bench.streams[2], entry)
    bench.operations.unpark()
    assert bench.fetch("w") == {}
    assert bench.limiters.resume("type:t").why == "moving"
    bench.operations.unpark()
    assert list(bench.fetch("w")) == ["a"]
    assert bench.see().parked == {}


def test_early_cancel_request_is_removed_by_cancel_and_revive(life: type[TaskLife]) -> None:
    bench = life.bench
    bench.operations.ask("a", "somebody")
    bench.dispatch("a")
    assert bench.operations.cancel("a", "somebody else") == "cancelled"
    assert bench.see().cancels == {}
    bench.operations.ask("a", "somebody")
    bench.operations.revive(["a"])
    assert bench.see().cancels == {}

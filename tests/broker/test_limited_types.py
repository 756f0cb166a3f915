"""Tasks of a limited type are fetched with a permit of `type:NAME`, or wait for one."""

from __future__ import annotations

import pytest

from tests.broker.limiter_play import BREAKER, ONE, Play
from tests.broker.test_fetched_permits import known, state, submit


def test_full_type_waits_and_goes_on_by_age(play: Play) -> None:
    limiter = play.limit_type(concurrency=2)
    submit(play, *"abcd", limiters=())
    assert play.start() == ["a", "b"]
    assert state(play, "c") == ("retrying", 0)
    seen = play.state(limiter)
    assert (seen.running, seen.limit, seen.waiting, seen.line) == (2, 2, 2, ["c", "d"])
    play.ack("b")
    assert play.called() == ["c"]
    play.ack("a")
    assert play.called() == ["d"]


def test_changed_limit_holds_for_the_tasks_that_wait(play: Play) -> None:
    play.limit_type(concurrency=1)
    submit(play, *"abcd", limiters=())
    assert play.start() == ["a"]
    play.limit_type(concurrency=3)
    play.start(sweep=True)
    play.tend()
    assert play.called() == ["b", "c"]
    play.limit_type(concurrency=0)
    play.start(sweep=True)
    play.tend()
    assert play.called() == ["d"]


def test_limited_task_acquires_its_other_limiters_with_its_fetched_permit(play: Play) -> None:
    known(play, ONE)
    limiter = play.limit_type(concurrency=2)
    submit(play, *"abc", limiters=(ONE,))
    assert play.start() == ["a"]
    assert play.acquire("a", ONE) is play.fetched["a"]
    assert (play.state(ONE).waiting, play.state(limiter).running) == (2, 1)
    play.ack("a")
    assert play.called() == ["b"]
    assert (play.state(ONE).running, play.state(limiter).running) == (1, 1)


def test_type_is_limited_where_the_limits_of_other_limiters_are_unknown(play: Play) -> None:
    limiter = play.limit_type(concurrency=1)
    submit(play, *"ab", limiters=(ONE,))
    assert play.start() == ["a"]
    own = play.acquire("a", ONE)
    assert own is not play.fetched["a"]
    play.release(own)
    assert play.state(limiter).inside == ["a"]
    play.ack("a")
    assert play.called() == ["b"]


def test_task_refused_a_further_permit_waits_for_its_type_again(play: Play) -> None:
    known(play, ONE)
    limiter = play.limit_type(concurrency=2)
    submit(play, "a", limiters=(ONE,))
    submit(play, "b", limiters=())
    assert play.start() == ["a", "b"]
    refusal = play.refused("b", ONE)
    assert refusal.permit
    play.ack("b", "wait", 60, wanted=refusal.permit.wanted(play.fetched["b"]))
    assert (play.state(limiter).running, play.state(ONE).line) == (1, ["b"])
    play.ack("a")
    assert play.called() == ["b"]
    assert sorted(play.fetched["b"].limits) == [ONE.name, limiter.name]


@pytest.mark.parametrize(
    ("kind", "failures", "calls"),
    [("done", 0, 1), ("retry", 1, 1), ("dead", 1, 1), ("wait", 0, 1), ("cancelled", 0, 1)],
)
def test_end_of_the_attempt_is_the_outcome_for_its_type(play: Play, kind: str, failures: int, calls: int) -> None:
    limiter = play.limit_type(calls=10, breaker=BREAKER)
    submit(play, "a", limiters=())
    play.start()
    play.ack("a", kind, after=60, permit_outcome="unused")
    seen = play.state(limiter)
    assert (seen.failures, seen.calls_in_window, seen.running) == (failures, calls, 0)


def test_failed_attempts_open_the_breaker_of_their_type(play: Play) -> None:
    limiter = play.limit_type(breaker=BREAKER)
    submit(play, *"abcde", limiters=())
    play.start(slots=4)
    for name in "abcd":
        play.ack(name, "dead")
    assert play.state(limiter).state == "open"
    assert play.start() == []


def test_p3_reclaimed_task_of_a_lowered_limit_still_counts(play: Play) -> None:
    limiter = play.limit_type(concurrency=3)
    submit(play, *"abcd", limiters=())
    assert play.start("killed") == ["a", "b", "c"]
    play.limit_type(concurrency=1)
    play.bench.expire_lease("killed")
    assert sorted(play.start("heir", sweep=True)) == ["a", "b", "c"]
    assert sorted(play.state(limiter).inside) == ["a", "b", "c"]
    play.ack("a")
    play.ack("b")
    assert play.called() == []
    play.ack("c")
    assert play.called() == ["d"]


def test_p3_task_whose_permit_was_freed_before_it_is_reclaimed_waits_for_its_type(play: Play) -> None:
    limiter = play.limit_type(concurrency=1)
    submit(play, *"ab", limiters=())
    assert play.start("killed", slots=1) == ["a"]
    play.bench.expire_lease("killed")
    play.bench.heartbeat("heir")
    assert play.start("heir") == []
    play.tend()
    assert play.start("heir") == ["b"]
    assert play.start("heir", sweep=True) == []
    assert play.state(limiter).inside == ["b"]
    assert state(play, "a") == ("retrying", 0)
    play.ack("b")
    assert play.called() == ["a"]


def test_p2_emptied_redis_starts_no_limited_task_before_permits_are_known(play: Play) -> None:
    limiter = play.limit_type(concurrency=1)
    submit(play, "a", limiters=())
    play.start()
    held = play.fetched["a"]
    held.acquired_ms = 1
    play.limiters.hold(held)
    play.epoch = str(play.bench.epoch()).encode()
    play.bench.flush()
    play.bench.reregister("w", play.started["a"][1])
    play.bench.heartbeat("w")
    submit(play, "b", limiters=())
    assert play.start() == []
    assert state(play, "b") == ("retrying", 0)
    play.epoch = str(play.bench.epoch()).encode()
    play.limiters.reregister()
    assert play.state(limiter).inside == ["a"]
    play.later(3)
    assert play.called() == []
    assert play.state(limiter).line == ["b"]

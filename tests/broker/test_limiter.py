"""Permits of a limiter and its wait queue."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from sytq import Breaker, Limiter, Permit, Retry
from sytq.errors import Lost
from tests.broker.bench import LEASE_MS
from tests.broker.limiter_play import ONE, TWO, Play

# -- permits


def test_concurrency_limit_refuses_further_acquires(play: Play) -> None:
    play.running("a", "b", "c")
    inside = [play.acquire("a", TWO), play.acquire("b", TWO)]
    refusal = play.refused("c", TWO)
    assert str(refusal) == "waiting for provider:two: 2 of 2 run"
    assert not refusal.unavailable
    play.release(inside[0])
    assert play.state(TWO).running == 1


def test_permit_is_granted_by_all_limiters_or_none(play: Play) -> None:
    play.running("a", "b", "c")
    wide = Limiter("host:wide", concurrency=5)
    play.acquire("a", wide, ONE)
    assert "provider:one" in str(play.refused("b", wide, ONE))
    assert play.state(wide).running == 1
    play.acquire("c", wide)
    assert play.state(wide).running == 2


def test_repeated_acquire_and_release_count_once(play: Play) -> None:
    limiter = Limiter("g", concurrency=2, calls=10, cost=100, breaker=Breaker(min_calls=100))
    play.running("a")
    permit = play.permit("a", limiter, cost=5)
    for _ in range(2):
        play.limiters.acquire(permit)
    state = play.state(limiter)
    assert (state.running, state.calls_in_window, state.units_in_window) == (1, 1, 5)
    begun = permit.acquired_ms
    for _ in range(2):
        play.release(permit, "failed", cost=7)
        permit.acquired_ms, play.limiters._held[permit.id] = begun, permit
    state = play.state(limiter)
    assert (state.running, state.units_in_window, state.failures) == (0, 7, 1)


def test_next_attempt_reuses_the_permit_of_the_previous_attempt(play: Play) -> None:
    play.running("a", worker="dead")
    play.acquire("a", ONE)
    play.bench.expire_lease("dead")
    assert play.start("w", sweep=True) == ["a"]
    play.acquire("a", ONE)
    assert play.state(ONE).running == 1


def test_calls_of_a_worker_that_was_silent_are_counted_again(play: Play) -> None:
    play.running("a", "b", worker="frozen")
    for name in ("a", "b"):
        play.acquire(name, TWO)
    play.bench.expire_lease("frozen")
    play.running("c")
    play.acquire("c", TWO)
    assert play.state(TWO).running == 1, "a silent worker's permits are free"
    assert play.start("w", slots=1, sweep=True) == ["a"]
    assert play.limiters.recount() == ["a"], "which another worker has"
    assert play.state(TWO).running == 2
    play.submit("d")
    assert play.start() == ["d"]
    play.refused("d", TWO)


def test_superseded_attempt_acquires_no_permit(play: Play) -> None:
    play.running("a", worker="frozen")
    woken = play.permit("a", ONE)
    play.bench.expire_lease("frozen")
    assert play.start("w", sweep=True) == ["a"]
    inside = play.acquire("a", ONE)
    with pytest.raises(Lost):
        play.limiters.acquire(woken)
    assert play.state(ONE).running == 1
    play.release(inside)
    play.ack("a")
    with pytest.raises(Lost):
        play.limiters.acquire(woken)


def test_permit_of_an_ended_attempt_is_freed_without_release(play: Play) -> None:
    play.running("a", "b")
    play.acquire("a", ONE)
    play.ack("a")
    play.acquire("b", ONE)
    assert play.state(ONE).running == 1


def test_permit_of_a_killed_worker_is_freed_once_its_lease_expires(play: Play) -> None:
    play.running("a", worker="dead")
    play.running("b")
    play.acquire("a", ONE)
    play.refused("b", ONE)
    play.bench.expire_lease("dead")
    play.later(0.25)  # permits are checked at most five times a second
    play.acquire("b", ONE)
    assert play.state(ONE).running == 1


def test_permits_stay_held_after_an_outage_without_heartbeats(play: Play) -> None:
    play.running("a", "b")
    play.acquire("a", ONE)
    play.bench.stand_still(3 * LEASE_MS)
    play.refused("b", ONE)


# -- the wait queue


def test_released_permit_is_reserved_for_the_oldest_waiting_task(play: Play) -> None:
    play.running("a", "b", "c")
    first = play.acquire("a", ONE)
    for name in ("b", "c"):
        assert play.wait(name, ONE).after > 5
    assert play.called() == []
    play.release(first)
    assert play.called() == ["b"]
    play.release(play.acquire("b", ONE, created=2))
    assert play.called() == ["c"]
    assert play.state(ONE).waiting == 1  # and a permit is reserved for it
    play.acquire("c", ONE, created=3)
    assert (play.state(ONE).waiting, play.state(ONE).running) == (0, 1)


def test_task_with_a_reserved_permit_starts_before_its_queue(play: Play) -> None:
    play.running("a", "b")
    inside = play.acquire("a", ONE)
    play.wait("b", ONE)
    play.submit("c", "d", "e")
    play.release(inside)
    play.ack("a")
    play.bench.promote()
    assert play.start(slots=1) == ["b"]
    permit = play.acquire("b", ONE)
    # Other workers fetch past its entry, which stays where it is.
    assert play.start("other", slots=2) == ["c", "d"]
    assert play.start("other") == ["e"]
    assert play.start("other", sweep=True) == play.start("w", sweep=True) == []
    play.release(permit)
    play.ack("b")
    for name in ("c", "d", "e"):
        play.ack(name)
    seen = play.bench.see()
    assert (seen.waiting, seen.pending, seen.lost, seen.delayed) == ([], [], [], {})


def test_cancelled_or_paused_task_does_not_start_despite_a_reservation(play: Play) -> None:
    play.running("a", "b")
    two = [play.acquire("a", TWO), play.acquire("b", TWO)]
    play.submit("c", "d")
    assert play.start() == ["c", "d"]
    for name in ("c", "d"):
        play.wait(name, TWO)
    for permit, name in zip(two, ("a", "b"), strict=True):
        play.release(permit)
        play.ack(name)
    play.bench.promote()
    play.bench.operations.cancel("c", "ann")
    play.bench.operations.pause("t", "{}")
    assert play.start() == []
    assert play.bench.live("c")[0] == "cancelled"
    play.bench.operations.resume("t")
    assert play.start() == ["d"]


def test_newer_task_does_not_take_a_reserved_permit(play: Play) -> None:
    play.running("a", "b", "new")
    first = play.acquire("a", ONE)
    play.wait("b", ONE, created=50)
    play.release(first)  # the permit is reserved for b, which is promoted
    assert "1 ahead" in str(play.refused("new", ONE, created=60))
    play.called()
    play.acquire("b", ONE, created=50)


def test_older_task_takes_a_permit_reserved_for_a_newer_task(play: Play) -> None:
    play.running("a", "b", "old")
    first = play.acquire("a", ONE)
    play.wait("b", ONE, created=50)
    play.release(first)
    play.acquire("old", ONE, created=40)
    play.called()
    play.refused("b", ONE, created=50)
    assert play.state(ONE).running == 1


def test_permit_released_before_the_refusal_is_acked_wakes_the_task(play: Play) -> None:
    play.running("a", "b")
    first = play.acquire("a", ONE)
    refusal = play.refused("b", ONE)
    play.release(first)
    assert isinstance(refusal.after, float)
    play.ack("b", "retry", refusal.after)
    assert play.called() == ["b"]


def test_earlier_reservation_does_not_shorten_a_tasks_own_retry(play: Play) -> None:
    play.running("a", "b")
    first = play.acquire("a", ONE)
    play.wait("b", ONE)
    play.release(first)
    assert play.called() == ["b"]
    play.ack("b", "retry", 30)  # say, the database was unavailable before the acquire
    play.tend()
    assert play.called() == []
    play.running("c", "d")
    second = play.acquire("c", ONE, created=0)
    play.wait("d", ONE)
    assert play.bench.operations.reschedule("d", play.bench.now_ms())  # a person did
    assert play.called() == ["d"]
    play.ack("d", "retry", 30)
    play.release(second)
    assert play.called() == []
    assert play.state(ONE).waiting == 1  # b's permit is still reserved


def test_unused_reservation_passes_to_the_next_waiting_task(play: Play) -> None:
    play.running("a", "b", "c")
    first = play.acquire("a", ONE)
    play.wait("b", ONE)
    play.wait("c", ONE)
    play.release(first)
    assert play.called() == ["b"]  # and does not acquire
    play.later(6)  # a reservation lasts 5 s
    play.tend()
    assert play.called() == ["c"]
    play.acquire("c", ONE, created=3)
    play.refused("b", ONE, created=2)


def test_cancelled_task_is_skipped_in_the_wait_queue(play: Play) -> None:
    play.running("a", "b", "c")
    first = play.acquire("a", ONE)
    play.wait("b", ONE)
    play.wait("c", ONE)
    assert play.bench.operations.cancel("b", "ann") == "cancelled"
    play.release(first)
    assert play.called() == ["c"]
    assert play.bench.redis.ask("HLEN", play.bench.keys.waiting) == 1


def test_task_waiting_for_one_limiter_holds_no_permit_of_another(play: Play) -> None:
    provider = Limiter("provider:p", concurrency=2)
    narrow, wide = Limiter("model:narrow", concurrency=1), Limiter("model:wide", concurrency=5)
    play.running(*"abcdef")
    play.acquire("a", provider, narrow)
    for name in "bcd":
        play.wait(name, provider, narrow)
    play.acquire("e", provider, wide)
    assert play.state(provider).waiting == 0


def test_permit_is_reserved_only_when_all_limiters_have_one(play: Play) -> None:
    provider, model = Limiter("provider:p", concurrency=2), Limiter("model:m", concurrency=1)
    play.running(*"abcd")
    a, b = play.acquire("a", provider, model), play.acquire("b", provider)
    play.wait("c", provider, model, created=10)
    play.release(a)
    assert play.called() == ["c"]
    c = play.acquire("c", provider, model, created=10)
    play.wait("d", provider, model, created=11)
    play.running("e")
    play.wait("e", provider, created=12)
    play.release(b)  # the provider has a permit: not for d, whose model is full
    assert play.called() == ["e"]
    e = play.acquire("e", provider, created=12)
    play.running("f")
    play.release(c)
    assert play.called() == ["d"]
    play.acquire("d", provider, model, created=11)
    assert play.state(provider).running == 2
    play.release(e)


def test_waiting_task_moves_to_the_wait_queue_of_a_full_limiter(play: Play) -> None:
    provider, model = Limiter("provider:p", concurrency=2), Limiter("model:m", concurrency=1)
    play.running(*"abcd")
    a, b = play.acquire("a", provider, model), play.acquire("b", provider)
    play.wait("d", provider, model, created=11)
    play.ack("a")  # without release, and x gets its permit of the provider
    assert a.acquired_ms
    play.running("x")
    play.later(0.25)
    play.acquire("x", provider, created=1)
    play.later(0.25)
    play.tend()
    assert (play.state(model).waiting, play.state(provider).waiting) == (0, 1)
    play.release(b)
    assert play.called() == ["d"]


def test_waiting_task_of_another_queue_is_promoted_by_limiter_tend(play: Play) -> None:
    play.running("a", "b")
    first = play.acquire("a", ONE)
    play.wait("b", ONE)
    play.limiters._queues = ["other"]  # a worker without the queue of b leaves its promotion to others
    play.release(first)
    assert play.called() == []
    play.tend()
    assert play.called() == ["b"]


# -- many tasks


def test_many_tasks_at_a_limiter_are_refused_about_once_each(play: Play) -> None:
    """Fifty permits for five hundred tasks: nearly every reservation is used."""
    limiter = Limiter("g", concurrency=50)
    names = [f"t{n:04}" for n in range(500)]
    for start in range(0, 500, 200):
        play.submit(*names[start : start + 200])
    refusals: Counter[str] = Counter()
    inside: list[tuple[str, Permit]] = []
    done: list[str] = []
    random.seed(1)
    while len(done) < len(names):
        for name in play.called() + play.start():
            try:
                inside.append((name, play.acquire(name, limiter, created=int(name[1:]))))
            except Retry as refusal:
                refusals[name] += 1
                play.ack(name, "retry", float(refusal.after or 0))
        assert 0 < len(inside) <= 50
        name, permit = inside.pop(random.randrange(len(inside)))
        play.release(permit)
        play.ack(name)
        done.append(name)
    assert max(refusals.values()) <= 2
    assert sum(refusals.values()) <= 500


def test_many_tasks_at_a_window_are_refused_at_most_three_times(play: Play) -> None:
    limiter = Limiter("g", calls=20, window=1)
    names = [f"t{n:03}" for n in range(100)]
    play.running(*names)
    refusals: Counter[str] = Counter()
    acquired: list[float] = []
    todo = list(names)
    while len(acquired) < len(names):
        for name in todo:
            try:
                permit = play.acquire(name, limiter, created=int(name[1:]))
            except Retry as refusal:
                refusals[name] += 1
                play.ack(name, "retry", float(refusal.after or 0))
            else:
                assert permit.acquired_ms
                acquired.append(permit.acquired_ms)
                play.release(permit)
                play.ack(name)
        play.tend()
        todo[:] = play.called()
        play.later(0.1)
    assert max(refusals.values()) <= 3
    assert sum(refusals.values()) <= 150
    for n, moment in enumerate(acquired[20:]):
        assert moment - acquired[n] >= 1000, "more than 20 began within a second"

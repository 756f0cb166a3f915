"""Permits of a limiter and its wait queue."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from sytq import Breaker, Limiter, Permit, Waiting
from sytq.broker.handover import Handover
from sytq.errors import Lost
from tests.broker.bench import LEASE_MS
from tests.broker.limiter_play import ONE, TWO, Play, acquire

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
        acquire(play.limiters, permit)
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
        acquire(play.limiters, woken)
    assert play.state(ONE).running == 1
    play.release(inside)
    play.ack("a")
    with pytest.raises(Lost):
        acquire(play.limiters, woken)


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


def test_released_permit_is_handed_over_to_the_oldest_waiting_task(play: Play) -> None:
    play.running("a", "b", "c")
    first = play.acquire("a", ONE)
    for name in ("b", "c"):
        assert play.wait(name, ONE).after > 5
    assert play.called() == []
    play.release(first)
    assert play.called() == ["b"]
    play.release(play.acquire("b", ONE, created=2))
    assert play.called() == ["c"]
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
    play.limiters.pause("type:t", "ann", "moving")
    assert play.start() == []
    assert play.bench.live("c")[0] == "cancelled"
    assert play.state(TWO).inside == ["c"], "the paused one gave its permit back"
    play.limiters.resume("type:t")
    play.tend()
    assert play.start() == ["d"]


def test_task_that_was_handed_a_permit_has_it_at_its_start(play: Play) -> None:
    play.running("a", "b", "new", "old")
    first = play.acquire("a", ONE)
    play.wait("b", ONE, created=50)
    play.release(first)
    play.refused("new", ONE, created=60)
    play.refused("old", ONE, created=40)  # it did not wait when the permit was released
    assert play.called() == ["b"]
    assert play.acquire("b", ONE, created=50) is play.fetched["b"]
    assert play.state(ONE).running == 1


def test_permit_released_before_the_refusal_is_acked_starts_the_task(play: Play) -> None:
    play.running("a", "b")
    first = play.acquire("a", ONE)
    refusal = play.refused("b", ONE)
    play.release(first)
    assert refusal.permit
    play.ack("b", "wait", 60, wanted=refusal.permit.wanted(None))
    assert play.called() == ["b"]


def test_attempt_finds_the_permit_that_it_waits_for_in_place(play: Play) -> None:
    play.running("a", "b", "c")
    first = play.acquire("a", ONE)
    play.wait("c", ONE, created=90)
    permit = play.permit("b", ONE, created=50)
    permit.in_place_ms = 100_000
    for _ in range(2):
        with pytest.raises(Waiting):
            acquire(play.limiters, permit)
    assert (permit.in_place_ms, play.state(ONE).waiting) == (100_000, 2)
    play.release(first)
    assert play.called() == []  # it is older than c
    acquire(play.limiters, permit)
    assert (play.state(ONE).inside, play.state(ONE).line) == (["b"], ["c"])
    play.release(permit)
    assert play.called() == ["c"]


def test_attempt_that_waits_in_place_no_longer_leaves_the_wait_queue(play: Play) -> None:
    play.running("a", "b")
    first = play.acquire("a", ONE)
    permit = play.permit("b", ONE)
    for patience, waiting in ((100_000, 1), (0, 0)):
        permit.in_place_ms = patience
        with pytest.raises(Waiting):
            acquire(play.limiters, permit)
        assert play.state(ONE).waiting == waiting
    play.release(first)
    assert play.state(ONE).running == 0


def test_attempt_that_ended_is_handed_no_permit(play: Play) -> None:
    play.running("a", "b", "c")
    first = play.acquire("a", ONE)
    permit = play.permit("b", ONE)
    permit.in_place_ms = 100_000
    with pytest.raises(Waiting):
        acquire(play.limiters, permit)
    play.wait("c", ONE)
    play.ack("b")
    play.release(first)
    assert play.called() == ["c"]


def test_task_that_a_person_runs_now_waits_again_without_an_attempt(play: Play) -> None:
    play.running("a", "b")
    first = play.acquire("a", ONE)
    play.wait("b", ONE)
    assert play.bench.operations.reschedule("b", play.bench.now_ms())
    assert play.called() == []
    assert play.state(ONE).line == ["b"]
    play.release(first)
    assert play.called() == ["b"]


def test_permit_that_nobody_fetches_passes_to_the_next_task(play: Play) -> None:
    play.running("a", "b", "c")
    first = play.acquire("a", ONE)
    play.wait("b", ONE)
    play.wait("c", ONE)
    play.release(first)
    assert play.state(ONE).inside == ["b"]
    play.later(LEASE_MS / 1000 + 1)
    play.tend()
    assert play.state(ONE).inside == ["c"]
    assert play.called() == ["c"]
    assert (play.state(ONE).inside, play.state(ONE).line) == (["c"], ["b"])
    play.ack("c")
    assert play.called() == ["b"]


def test_cancelled_task_gives_back_the_permit_that_it_was_handed(play: Play) -> None:
    play.running("a", "b")
    first = play.acquire("a", ONE)
    play.wait("b", ONE)
    play.release(first)
    assert play.bench.operations.cancel("b", "ann") == "cancelled"
    play.later(0.25)  # it has looked for such permits just now
    play.tend()
    assert play.state(ONE).running == 0
    assert play.bench.redis.ask("HLEN", play.bench.keys.waiting) == 0


def test_cancelled_task_is_skipped_in_the_wait_queue(play: Play) -> None:
    play.running("a", "b", "c")
    first = play.acquire("a", ONE)
    play.wait("b", ONE)
    play.wait("c", ONE)
    assert play.bench.operations.cancel("b", "ann") == "cancelled"
    play.release(first)
    assert play.called() == ["c"]
    assert play.bench.redis.ask("HLEN", play.bench.keys.waiting) == 0


def test_task_waiting_for_one_limiter_holds_no_permit_of_another(play: Play) -> None:
    provider = Limiter("provider:p", concurrency=2)
    narrow, wide = Limiter("model:narrow", concurrency=1), Limiter("model:wide", concurrency=5)
    play.running(*"abcdef")
    play.acquire("a", provider, narrow)
    for name in "bcd":
        play.wait(name, provider, narrow)
    play.acquire("e", provider, wide)
    assert play.state(provider).waiting == 0


def test_permit_is_handed_over_only_when_all_limiters_have_one(play: Play) -> None:
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


def test_waiting_task_of_another_queue_is_handed_its_permit_by_limiter_tend(play: Play) -> None:
    play.running("a", "b")
    first = play.acquire("a", ONE)
    play.wait("b", ONE)
    play.limiters.handover = Handover(play.bench.keys, ["other"], {})  # a worker without b's queue leaves it to others
    play.release(first)
    assert play.called() == []
    play.tend()
    assert play.called() == ["b"]


# -- many tasks


def test_many_tasks_at_a_limiter_are_refused_once(play: Play) -> None:
    """Fifty permits for five hundred tasks."""
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
            except Waiting as refusal:
                refusals[name] += 1
                assert refusal.permit
                play.ack(name, "wait", float(refusal.after or 0), wanted=refusal.permit.wanted(None))
        assert 0 < len(inside) <= 50
        name, permit = inside.pop(random.randrange(len(inside)))
        play.release(permit)
        play.ack(name)
        done.append(name)
    assert max(refusals.values()) == 1
    assert sum(refusals.values()) <= 450


def test_many_tasks_at_a_window_are_refused_once(play: Play) -> None:
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
            except Waiting as refusal:
                refusals[name] += 1
                assert refusal.permit
                play.ack(name, "wait", float(refusal.after or 0), wanted=refusal.permit.wanted(None))
            else:
                assert permit.acquired_ms
                acquired.append(permit.acquired_ms)
                play.release(permit)
                play.ack(name)
        play.tend()
        todo[:] = play.called()
        play.later(0.1)
    assert max(refusals.values()) == 1
    assert sum(refusals.values()) == 80
    for n, moment in enumerate(acquired[20:]):
        assert moment - acquired[n] >= 1000, "more than 20 began within a second"

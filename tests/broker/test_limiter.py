"""Places at a limiter and the line before it."""

from __future__ import annotations

import random
import time
from collections import Counter

import pytest

from sytq import Breaker, Limiter, Permit, Retry
from sytq.errors import Lost
from tests.broker.bench import LIVENESS_MS
from tests.broker.limiter_play import ONE, TWO, Play
from tests.servers import poll

# -- running


def test_no_more_than_the_limit_are_inside(play: Play) -> None:
    play.running("a", "b", "c")
    inside = [play.acquire("a", TWO), play.acquire("b", TWO)]
    refusal = play.refused("c", TWO)
    assert str(refusal) == "waiting for provider:two: 2 of 2 run"
    assert not refusal.unavailable
    play.release(inside[0])
    assert play.state(TWO).running == 1


def test_all_gates_or_none(play: Play) -> None:
    play.running("a", "b", "c")
    wide = Limiter("host:wide", concurrency=5)
    play.acquire("a", wide, ONE)
    assert "provider:one" in str(play.refused("b", wide, ONE))
    assert play.state(wide).running == 1
    play.acquire("c", wide)
    assert play.state(wide).running == 2


def test_a_script_that_ran_twice_lets_in_and_out_once(play: Play) -> None:
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


def test_a_later_start_of_a_task_has_the_place_of_the_one_before(play: Play) -> None:
    play.running("a", worker="dead")
    play.acquire("a", ONE)
    play.bench.silence("dead")
    assert play.start("w", sweep=True) == ["a"]
    play.acquire("a", ONE)
    assert play.state(ONE).running == 1


def test_a_start_that_lost_its_task_goes_through_no_gate(play: Play) -> None:
    play.running("a", worker="frozen")
    woken = play.permit("a", ONE)
    play.bench.silence("frozen")
    assert play.start("w", sweep=True) == ["a"]
    inside = play.acquire("a", ONE)
    with pytest.raises(Lost):
        play.limiters.acquire(woken)
    assert play.state(ONE).running == 1
    play.release(inside)
    play.ack("a")
    with pytest.raises(Lost):
        play.limiters.acquire(woken)


def test_the_place_of_a_start_that_ended_without_leaving_is_free(play: Play) -> None:
    play.running("a", "b")
    play.acquire("a", ONE)
    play.ack("a")
    play.acquire("b", ONE)
    assert play.state(ONE).running == 1


def test_the_place_of_a_killed_worker_is_free_once_its_heartbeat_is_stale(play: Play) -> None:
    play.running("a", worker="dead")
    play.running("b")
    play.acquire("a", ONE)
    play.refused("b", ONE)
    play.bench.silence("dead")
    time.sleep(0.25)  # places are looked through at most five times a second
    play.acquire("b", ONE)
    assert play.state(ONE).running == 1


def test_while_nobody_could_give_a_heartbeat_nobody_is_taken_for_dead(play: Play) -> None:
    play.running("a", "b")
    play.acquire("a", ONE)
    keys = play.bench.keys
    play.bench.redis.ask("ZADD", keys.workers, play.bench.now_ms() - 3 * LIVENESS_MS, "w")  # Redis was away so long
    play.refused("b", ONE)


# -- the line


def test_who_waits_is_called_when_a_passage_ends(play: Play) -> None:
    play.running("a", "b", "c")
    first = play.acquire("a", ONE)
    for name in ("b", "c"):
        assert play.wait(name, ONE).after > 5
    assert play.called() == []
    play.release(first)
    assert play.called() == ["b"]
    play.release(play.acquire("b", ONE, created=2))
    assert play.called() == ["c"]
    assert play.state(ONE).waiting == 1  # and the place is kept for it
    play.acquire("c", ONE, created=3)
    assert (play.state(ONE).waiting, play.state(ONE).running) == (0, 1)


def test_who_is_called_starts_before_what_waits_in_its_queue(play: Play) -> None:
    play.running("a", "b")
    inside = play.acquire("a", ONE)
    play.wait("b", ONE)
    play.submit("c", "d", "e")
    play.release(inside)
    play.ack("a")
    play.bench.promote()
    assert play.start(room=1) == ["b"]
    permit = play.acquire("b", ONE)
    # Others meet its entry on their way: it stays where it is.
    assert play.start("other", room=2) == ["c", "d"]
    assert play.start("other") == ["e"]
    assert play.start("other", sweep=True) == play.start("w", sweep=True) == []
    play.release(permit)
    play.ack("b")
    for name in ("c", "d", "e"):
        play.ack(name)
    seen = play.bench.see()
    assert (seen.waiting, seen.pending, seen.lost, seen.delayed) == ([], [], [], {})


def test_of_who_was_called_nobody_starts_that_was_cancelled_or_paused_since(play: Play) -> None:
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


def test_a_newcomer_does_not_overtake(play: Play) -> None:
    play.running("a", "b", "new")
    first = play.acquire("a", ONE)
    play.wait("b", ONE, created=50)
    play.release(first)  # the place is b's now, which is on its way
    assert "1 ahead" in str(play.refused("new", ONE, created=60))
    play.called()
    play.acquire("b", ONE, created=50)


def test_an_older_task_need_not_wait_behind_younger_ones(play: Play) -> None:
    play.running("a", "b", "old")
    first = play.acquire("a", ONE)
    play.wait("b", ONE, created=50)
    play.release(first)
    play.acquire("old", ONE, created=40)
    play.called()
    play.refused("b", ONE, created=50)
    assert play.state(ONE).running == 1


def test_a_place_that_becomes_free_before_the_refused_task_is_settled_does_not_strand_it(play: Play) -> None:
    play.running("a", "b")
    first = play.acquire("a", ONE)
    refusal = play.refused("b", ONE)
    play.release(first)
    assert isinstance(refusal.after, float)
    play.ack("b", "retry", refusal.after)
    assert play.called() == ["b"]


def test_its_own_retry_is_not_hastened_by_a_promise_of_before(play: Play) -> None:
    play.running("a", "b")
    first = play.acquire("a", ONE)
    play.wait("b", ONE)
    play.release(first)
    assert play.called() == ["b"]
    play.ack("b", "retry", 30)  # the database was away, say, before it came to the limiter
    play.tend()
    assert play.called() == []
    play.running("c", "d")
    second = play.acquire("c", ONE, created=0)
    play.wait("d", ONE)
    play.bench.hasten("d")  # a person did
    assert play.called() == ["d"]
    play.ack("d", "retry", 30)
    play.release(second)
    assert play.called() == []
    assert play.state(ONE).waiting == 1  # b's place is still kept


def test_a_promise_that_nobody_keeps_goes_to_the_next(play: Play) -> None:
    play.running("a", "b", "c")
    first = play.acquire("a", ONE)
    play.wait("b", ONE)
    play.wait("c", ONE)
    play.release(first)
    assert play.called() == ["b"]  # and does not come to the limiter
    redis, keys = play.bench.redis, play.bench.keys
    redis.ask("ZADD", keys.reservations, play.bench.now_ms() - 1, "b")  # 5 s later
    play.tend()
    assert play.called() == ["c"]
    play.acquire("c", ONE, created=3)
    play.refused("b", ONE, created=2)


def test_a_cancelled_task_is_passed_over(play: Play) -> None:
    play.running("a", "b", "c")
    first = play.acquire("a", ONE)
    play.wait("b", ONE)
    play.wait("c", ONE)
    assert play.bench.operations.cancel("b", "ann") == "cancelled"
    play.release(first)
    assert play.called() == ["c"]
    assert play.bench.redis.ask("HLEN", play.bench.keys.waiting) == 1


def test_who_waits_for_one_gate_holds_no_place_at_another(play: Play) -> None:
    provider = Limiter("provider:p", concurrency=2)
    narrow, wide = Limiter("model:narrow", concurrency=1), Limiter("model:wide", concurrency=5)
    play.running(*"abcdef")
    play.acquire("a", provider, narrow)
    for name in "bcd":
        play.wait(name, provider, narrow)
    play.acquire("e", provider, wide)
    assert play.state(provider).waiting == 0


def test_a_task_is_called_only_when_all_its_gates_have_room(play: Play) -> None:
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
    play.release(b)  # room at the provider: not for d, whose model is full
    assert play.called() == ["e"]
    e = play.acquire("e", provider, created=12)
    play.running("f")
    play.release(c)
    assert play.called() == ["d"]
    play.acquire("d", provider, model, created=11)
    assert play.state(provider).running == 2
    play.release(e)


def test_who_is_next_at_a_full_gate_moves_to_its_line(play: Play) -> None:
    provider, model = Limiter("provider:p", concurrency=2), Limiter("model:m", concurrency=1)
    play.running(*"abcd")
    a, b = play.acquire("a", provider, model), play.acquire("b", provider)
    play.wait("d", provider, model, created=11)
    play.ack("a")  # its worker never said that it left, and somebody else has its place at the provider
    assert a.acquired_ms
    play.running("x")
    time.sleep(0.25)
    play.acquire("x", provider, created=1)
    time.sleep(0.25)
    play.tend()
    assert (play.state(model).waiting, play.state(provider).waiting) == (0, 1)
    play.release(b)
    assert play.called() == ["d"]


def test_tasks_of_other_queues_are_called_too(play: Play) -> None:
    play.running("a", "b")
    first = play.acquire("a", ONE)
    play.wait("b", ONE)
    play.limiters._queues = ["other"]  # a worker that does not know the queue of b leaves that to others
    play.release(first)
    assert play.called() == []
    play.tend()
    assert play.called() == ["b"]


# -- all together


def test_many_at_a_gate_are_refused_about_once_each(play: Play) -> None:
    """Fifty at once of five hundred: who waits is called one by one, and hardly ever in vain."""
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


def test_many_at_a_window_are_not_refused_time_and_again(play: Play) -> None:
    limiter = Limiter("g", calls=20, window=1)
    names = [f"t{n:03}" for n in range(100)]
    play.running(*names)
    refusals: Counter[str] = Counter()
    entered: list[float] = []
    todo = list(names)
    deadline = time.monotonic() + 60

    def turn() -> bool:
        for name in todo:
            try:
                permit = play.acquire(name, limiter, created=int(name[1:]))
            except Retry as refusal:
                refusals[name] += 1
                play.ack(name, "retry", float(refusal.after or 0))
            else:
                assert permit.acquired_ms
                entered.append(permit.acquired_ms)
                play.release(permit)
                play.ack(name)
        play.tend()
        todo[:] = play.called()
        assert time.monotonic() < deadline
        return len(entered) == len(names)

    poll(turn, interval=0.1)
    assert max(refusals.values()) <= 3
    assert sum(refusals.values()) <= 150
    for n, moment in enumerate(entered[20:]):
        assert moment - entered[n] >= 1000, "more than 20 began within a second"

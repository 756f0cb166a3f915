"""A task is fetched with the permits of the limiters that it names, or waits for them without an attempt."""

from __future__ import annotations

import pytest

from sytq import Breaker, Limiter
from sytq.broker.limiter import settings_of
from tests.broker.limiter_play import BREAKER, ONE, TWO, Play

RATED = Limiter("host:rated", calls=2, window=60)
BROKEN = Limiter("host:broken", concurrency=10, breaker=BREAKER)


def known(play: Play, *limiters: Limiter) -> None:
    """Have an attempt that is over acquire these, so that Redis knows their limits."""
    play.running("first", worker="first")
    play.release(play.acquire("first", *limiters, cost=0), "ignored")
    play.ack("first")


def submit(play: Play, *names: str, limiters: tuple[Limiter, ...] = (ONE,), priority: str = "normal") -> None:
    for name in names:
        created = play.created.setdefault(name, len(play.created) + 1)
        named = tuple(limiter.name for limiter in limiters)
        play.bench.dispatch(name, priority, max_attempts=0, created_ms=created, limiters=named)


def state(play: Play, name: str) -> tuple[str, int]:
    """The task's state, and the number of its attempts."""
    live = play.bench.live(name)
    assert live
    return live[0], int(live[4])


def test_task_without_a_free_permit_waits_and_uses_no_attempt(play: Play) -> None:
    known(play, ONE)
    submit(play, "a", "b", "c")
    assert play.start() == ["a"]
    assert state(play, "b") == state(play, "c") == ("retrying", 0)
    seen = play.state(ONE)
    assert (seen.running, seen.waiting, seen.inside, seen.line) == (1, 2, ["a"], ["b", "c"])
    assert len(play.bench.events()) == 3  # of the first task, and the start of `a`: waiting is none


def test_acknowledgement_hands_the_permit_to_the_oldest_task(play: Play) -> None:
    known(play, ONE)
    submit(play, "a", "b", "c")
    play.start()
    submit(play, "new")
    for name in ("b", "c", "new"):
        play.ack(next(iter(play.started)))
        assert play.called() == [name]
    assert state(play, "new") == ("running", 1)


def test_priorities_go_first_unless_others_wait_for_a_day_longer(play: Play) -> None:
    known(play, ONE)
    submit(play, "holder")
    play.start()
    day = 86_400_000
    waiting = (
        ("low", "low", 0),
        ("old", "normal", 0),
        ("new", "normal", 2 * day),
        ("high", "high", day // 2),
        ("urgent", "urgent", 3 * day),
    )
    for name, priority, created in waiting:
        play.created[name] = 10 * day + created
        submit(play, name, priority=priority)
    play.start()
    for name in ("high", "old", "low", "urgent", "new"):
        play.ack(next(iter(play.started)))
        assert play.called() == [name]


def test_task_whose_permit_is_handed_over_starts_before_others(play: Play) -> None:
    known(play, ONE)
    submit(play, "a", "b")
    play.start()
    submit(play, *(f"other{n}" for n in range(5)), limiters=())
    play.ack("a")
    play.bench.promote()
    assert play.start(slots=1) == ["b"]


def test_p9_full_limiter_holds_back_no_task_that_does_not_name_it(play: Play) -> None:
    known(play, ONE)
    submit(play, *(f"full{n:04}" for n in range(700)))
    submit(play, "other", limiters=())
    assert play.start(slots=10) == ["full0000"]
    assert play.bench.left == 1  # there is more than one call looks at: the worker calls again at once
    assert play.start(slots=10) == ["other"]
    assert play.bench.left == 0
    assert play.state(ONE).waiting == 699


def test_task_is_granted_all_its_permits_or_none(play: Play) -> None:
    known(play, ONE, TWO)
    submit(play, "a", limiters=(ONE,))
    submit(play, "b", limiters=(ONE, TWO))
    submit(play, "c", "d", "e", limiters=(TWO,))
    assert play.start() == ["a", "c", "d"]
    play.ack("a")
    assert play.called() == []
    play.ack("c")
    play.tend()
    assert play.called() == ["b"]
    assert (play.state(ONE).running, play.state(TWO).running) == (1, 2)


def test_limiter_with_unknown_limits_is_acquired_by_the_attempt(play: Play) -> None:
    submit(play, "a", "b")
    assert play.start() == ["a", "b"]
    assert all(len(item) == 7 for _, item in play.started.values())
    play.acquire("a", ONE)
    play.refused("b", ONE)


def test_limits_are_unknown_again_in_an_emptied_redis(play: Play) -> None:
    known(play, TWO)
    submit(play, "a", limiters=(TWO,))
    assert play.start() == ["a"]
    old = play.bench.epoch()
    play.bench.flush()
    play.bench.heartbeat("w")
    play.bench.redis.ask("HSET", play.bench.keys.limiter_settings, TWO.name, settings_of(TWO))
    submit(play, "b", limiters=(TWO,))
    (item,) = play.bench.fetch("w", permits=str(old)).values()
    assert len(item) == 7  # this worker does not know the new Redis yet
    submit(play, "c", limiters=(TWO,))
    (item,) = play.bench.fetch("w", permits=str(play.bench.epoch())).values()
    assert len(item) == 8


def test_p3_reclaimed_task_replaces_its_permit(play: Play) -> None:
    known(play, ONE)
    submit(play, "a", "b")
    play.start("killed")
    play.bench.expire_lease("killed")
    assert play.start("heir", sweep=True) == ["a"]
    assert play.state(ONE).inside == ["a"]
    play.ack("a")
    assert play.called() == ["b"]


def test_reclaimed_task_starts_without_a_permit_where_the_limiter_refuses(play: Play) -> None:
    known(play, ONE)
    submit(play, "a")
    play.start("killed")
    play.limiters.pause(ONE.name, "ann", "moving")
    play.bench.expire_lease("killed")
    assert play.start("heir", sweep=True) == ["a"]
    assert len(play.started["a"][1]) == 7
    assert play.refused("a", ONE).unavailable


def test_outcomes_of_acknowledgements_open_the_breaker(play: Play) -> None:
    known(play, BROKEN)
    submit(play, *"abcde", limiters=(BROKEN,))
    play.start(slots=4)
    for name in "abcd":
        play.ack(name, permit_outcome="failed")
    assert play.state(BROKEN).state == "open"
    assert play.start() == []
    assert state(play, "e") == ("retrying", 0)


def test_permit_that_was_not_used_counts_no_call(play: Play) -> None:
    known(play, RATED)
    submit(play, "a", limiters=(RATED,))
    play.start()
    assert play.state(RATED).calls_in_window == 2
    play.ack("a", permit_outcome="unused")
    assert play.state(RATED).calls_in_window == 1


def test_task_waits_until_a_window_has_room(play: Play) -> None:
    known(play, RATED)
    submit(play, "a", "b", limiters=(RATED,))
    assert play.start() == ["a"]
    play.ack("a")
    assert play.called() == []
    play.later(61)
    play.tend()
    assert play.called() == ["b"]


def test_paused_limiter_starts_no_task_until_it_is_resumed(play: Play) -> None:
    known(play, TWO)
    play.limiters.pause(TWO.name, "ann", "moving")
    submit(play, "a", "b", limiters=(TWO,))
    assert play.start() == []
    assert play.limiters.resume(TWO.name).waiting == 2
    play.tend()
    assert sorted(play.called()) == ["a", "b"]


def test_pause_of_one_configuration_lets_the_attempts_of_others_ask(play: Play) -> None:
    old = Limiter("host:k", concurrency=5, configuration="key|old")
    new = Limiter("host:k", concurrency=5, configuration="key|new")
    known(play, old)
    play.limiters.announce(["key|old"])
    play.limiters.pause(old.name, "task", "401", person=False, configuration="key|old")
    submit(play, "a", limiters=(old,))
    assert play.start() == []
    play.limiters.announce(["key|new"])
    play.tend()
    assert play.called() == ["a"]
    play.acquire("a", new)  # its limits are others than those that granted the permit: it asks again


def test_cancelled_task_leaves_the_wait_queue(play: Play) -> None:
    known(play, ONE)
    submit(play, "a", "b", "c")
    play.start()
    assert play.bench.operations.cancel("b", "ann") == "cancelled"
    play.ack("a")
    assert play.called() == ["c"]


def test_task_that_is_not_called_looks_again_by_itself(play: Play) -> None:
    known(play, ONE)
    submit(play, "a", "b")
    play.start()
    play.bench.redis.ask("DEL", play.bench.keys.wait_queues, play.bench.keys.waiting, play.bench.keys.limiters_due)
    play.ack("a")
    assert play.called() == []
    play.later(120)
    assert play.called() == ["b"]


def test_repeated_acknowledgement_releases_once(play: Play) -> None:
    known(play, TWO)
    submit(play, *"abcd", limiters=(TWO,))
    play.start()
    worker, item = play.started["a"]
    play.ack("a")
    assert play.bench.ack(worker, item, "done") == 0
    assert play.called() == ["c"]
    assert play.state(TWO).running == 2


def test_attempt_that_lost_its_task_leaves_the_permit_to_the_next(play: Play) -> None:
    known(play, ONE)
    submit(play, "a")
    play.start("silent")
    worker, item = play.started["a"]
    play.bench.expire_lease("silent")
    play.start("heir", sweep=True)
    assert play.bench.ack(worker, item, "done") == 0
    assert play.state(ONE).inside == ["a"]


def test_retry_of_a_task_acquires_its_permits_anew(play: Play) -> None:
    known(play, ONE)
    submit(play, "a", "b")
    play.start()
    play.ack("a", "retry", after=0.001)
    assert play.called() == ["b"]
    play.later(1)
    assert play.called() == []
    play.ack("b")
    assert play.called() == ["a"]


@pytest.mark.parametrize("name", ['host:"quoted"', "host:back\\slash"])
def test_name_that_json_would_escape_is_acquired_by_the_attempt(play: Play, name: str) -> None:
    odd = Limiter(name, concurrency=1)
    known(play, odd)
    submit(play, "a", "b", limiters=(odd,))
    assert play.start() == ["a", "b"]


def test_payload_that_imitates_the_options_names_no_limiter(play: Play) -> None:
    known(play, ONE)
    play.running("holder")
    play.acquire("holder", ONE)
    envelope = '{"queue_name": "q", "options": {"priority": "normal", "limiters": "provider:one"}}'
    play.bench.dispatch("a", payload=envelope)
    assert play.start() == ["a"]


def test_half_open_breaker_starts_as_many_tasks_as_it_lets_through(play: Play) -> None:
    limiter = Limiter("host:half", breaker=Breaker(max_requests=2, timeout=60, min_calls=1))
    known(play, limiter)
    submit(play, "a", limiters=(limiter,))
    play.start()
    play.ack("a", permit_outcome="failed")
    submit(play, *"bcde", limiters=(limiter,))
    play.later(61)
    assert play.start() == ["b", "c"]
    play.ack("b")
    play.ack("c")
    assert play.state(limiter).state == "closed"
    play.tend()
    assert play.called() == ["d", "e"]

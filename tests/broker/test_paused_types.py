"""The pause of a type is a pause of its limiter `type:NAME`, whether or not the type has limits."""

from __future__ import annotations

import json

import pytest

from sytq.broker.inspection import Inspection
from sytq.broker.limiters import TypePause
from tests.broker.limiter_play import ONE, TWO, Play
from tests.broker.test_fetched_permits import known, state, submit

TYPE = "type:t"


def inspection(play: Play) -> Inspection:
    return Inspection(play.bench.redis, play.bench.keys, ["q"], {})


def paused(play: Play, *names: str) -> None:
    play.limiters.pause(TYPE, "ann", "moving")
    submit(play, *names, limiters=())
    assert play.start() == []


@pytest.mark.parametrize("limits", [{}, {"concurrency": 2}])
def test_tasks_of_a_paused_type_wait_in_its_wait_queue_and_are_fetched_no_more(
    play: Play, limits: dict[str, int]
) -> None:
    if limits:
        play.limit_type(**limits)
    paused(play, "b", "a")
    shown = inspection(play).limiter(TYPE)
    assert shown
    assert (shown.state, shown.waiting, shown.line, shown.reason) == ("paused", 2, ["b", "a"], "moving")
    assert state(play, "a") == ("retrying", 0)
    play.later(3600)
    play.tend()
    assert play.bench.promote()[0] == 0
    play.limiters.resume(TYPE)
    play.tend()
    assert play.start() == ["b", "a"]
    for name in ("a", "b"):
        play.ack(name)
    redis, keys = play.bench.redis, play.bench.keys
    assert redis.ask("EXISTS", keys.waiting, keys.wait_queues, keys.permits) == 0


def test_a_waiting_task_is_shown_as_queued_behind_its_paused_type(play: Play) -> None:
    paused(play, "a", "b")
    look = inspection(play)
    live = look.live(["a"])["a"]
    assert (live.state, live.parked) == ("queued", True)
    assert (look.parked(), look.delayed(), look.backlog("q")) == ({"q": 2}, {"q": 0}, 2)
    play.limiters.resume(TYPE)
    assert not look.live(["a"])["a"].parked
    assert (look.parked(), look.delayed()) == ({"q": 0}, {"q": 2})


def test_resumption_returns_tasks_in_bounded_pieces(play: Play) -> None:
    names = [f"t{n:03}" for n in range(200)]
    paused(play, *names)
    play.limiters.resume(TYPE)
    play.bench.tend(most=1)
    assert 0 < play.bench.waiting() < 100
    for _ in range(5):
        play.bench.tend(most=1)
    assert play.start(slots=1000) == names, "in the order of their age"


def test_no_permit_is_handed_over_to_a_task_whose_type_was_paused_meanwhile(play: Play) -> None:
    known(play, ONE)
    submit(play, "a", "b")
    assert play.start() == ["a"]
    play.limiters.pause(TYPE, "ann", "moving")
    play.ack("a")
    shown = play.state(ONE)
    assert (shown.running, shown.waiting) == (0, 0)
    assert (waiting := inspection(play).limiter(TYPE)) and waiting.line == ["b"]
    play.limiters.resume(TYPE)
    play.tend()
    assert play.start() == ["b"]
    assert play.state(ONE).inside == ["b"]


def test_a_task_that_was_handed_a_permit_gives_it_back_when_its_type_is_paused(play: Play) -> None:
    known(play, TWO)
    submit(play, "a", "b", "c", limiters=(TWO,))
    assert play.start() == ["a", "b"]
    play.ack("a")
    assert state(play, "c") == ("queued", 0)
    play.limiters.pause(TYPE, "ann", "moving")
    assert play.start() == []
    assert play.state(TWO).inside == ["b"]
    play.limiters.resume(TYPE)
    play.tend()
    assert play.start() == ["c"]


def test_a_tasks_pause_of_a_type_ends_by_itself(play: Play) -> None:
    play.limiters.pause(TYPE, "t 1", "broken", seconds=60, person=False)
    assert play.limiters.type_pauses() == {"t": TypePause("t 1", "broken", False)}
    submit(play, "a", limiters=())
    assert play.start() == []
    play.later(61)
    play.tend()
    assert play.start() == ["a"]
    assert play.limiters.type_pauses() == {}


def test_a_type_whose_pause_has_just_ended_is_fetched_with_other_limiters(play: Play) -> None:
    known(play, ONE)
    play.limiters.pause(TYPE, "t 1", "broken", seconds=10, person=False)
    submit(play, "a")
    play.later(11)
    assert play.start() == ["a"], "before the loop has looked"
    assert play.state(ONE).inside == ["a"]


def test_no_permit_is_handed_over_of_a_limiter_that_was_forgotten_during_the_pause(play: Play) -> None:
    known(play, ONE)
    play.limit_type(concurrency=2)
    paused(play)
    submit(play, "a")
    assert play.start() == []
    play.tend()
    play.later(3601)
    play.tend()
    play.limiters.resume(TYPE)
    play.tend()
    assert play.bench.live("a")[7] == "granted"  # type: ignore[index]
    assert play.start() == ["a"]
    redis, keys = play.bench.redis, play.bench.keys
    assert [permit.partition(b"|")[0] for permit in redis.ask("ZRANGE", keys.permits, 0, -1)] == [TYPE.encode()]
    play.release(play.acquire("a", ONE))
    play.ack("a")
    assert redis.ask("EXISTS", keys.permits, keys.waiting) == 0


def test_a_suspect_of_a_type_whose_pause_has_just_ended_runs_alone(play: Play) -> None:
    play.limiters.pause(TYPE, "t 1", "broken", seconds=10, person=False)
    submit(play, "a", limiters=())
    play.later(11)
    bench = play.bench
    bench.redis.ask("HSET", bench.keys.crashes, "a", json.dumps({"crashes": 2, "level": 0, "alone": 0, "since": 1}))
    assert bench.fetch("w") == {}
    assert list(bench.isolate("w1")) == ["a"], "before the loop has looked"


def test_the_loop_looks_at_a_paused_type_when_its_pause_ends(play: Play) -> None:
    play.limiters.pause(TYPE, "t 1", "broken", seconds=10, person=False)
    play.tend()
    assert play.bench.tend()[1] <= 10_000


def test_a_pause_that_a_worker_of_0_1_wrote_holds_and_ends_with_its_hash(play: Play) -> None:
    redis, keys = play.bench.redis, play.bench.keys
    redis.ask("HSET", keys.paused, "t", json.dumps({"by": "ann", "why": "moving"}))
    assert play.limiters.type_pauses() == {"t": TypePause("ann", "moving", None)}
    submit(play, "a", limiters=())
    assert play.start() == []
    assert (shown := inspection(play).limiter(TYPE)) and (shown.by, shown.waiting) == ("ann", 1)
    redis.ask("HDEL", keys.paused, "t")
    play.tend()
    assert play.start() == ["a"]


def test_a_worker_that_grants_no_permits_starts_no_task_of_a_paused_type(play: Play) -> None:
    play.limiters.pause(TYPE, "ann", "moving")
    submit(play, "a", limiters=())
    assert play.bench.fetch("w", permits="-") == {}
    assert state(play, "a") == ("retrying", 0)
    play.later(3)
    assert play.called() == []
    assert (shown := inspection(play).limiter(TYPE)) and shown.line == ["a"]

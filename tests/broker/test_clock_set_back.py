"""When the clock of Redis' machine is set back by an hour, nothing waits for that hour."""

from __future__ import annotations

from sytq import Breaker, Limiter
from tests.broker import clock
from tests.broker.bench import LEASE_MS, Bench
from tests.broker.limiter_play import ONE, Play
from tests.broker.test_fetched_permits import known, submit

HOUR = 3_600_000


def set_back(bench: Bench) -> None:
    clock.advance_ms(bench.redis, -HOUR)


def test_a_dead_workers_permits_and_tasks_are_taken_over_within_a_lease(play: Play) -> None:
    known(play, ONE)
    submit(play, "a", "b")
    assert play.start("dead") == ["a"]
    set_back(play.bench)
    play.bench.heartbeat("w")
    play.bench.advance(LEASE_MS + 1, silent="dead")
    assert play.start("w", sweep=True) == ["a"]
    play.ack("a")
    assert play.start("w") == ["b"]


def test_a_living_workers_permits_stay_held_beside_a_dead_worker(play: Play) -> None:
    known(play, ONE)
    submit(play, "a", "b")
    assert play.start("w") == ["a"]
    play.bench.heartbeat("dead")
    set_back(play.bench)
    play.bench.heartbeat("w")
    play.tend()
    assert play.state(ONE).inside == ["a"]
    assert play.start("w") == []


def test_windows_pauses_and_breakers_end_in_their_own_time(play: Play) -> None:
    rated = Limiter("host:rated", calls=1, window=60)
    broken = Limiter("host:broken", concurrency=1, breaker=Breaker(min_calls=1, timeout=60, max_requests=1))
    known(play, rated)
    play.later(61)
    submit(play, "a", "b", limiters=(rated,))
    assert play.start() == ["a"]
    play.acquire("a", rated)
    play.running("c")
    play.release(play.acquire("c", broken), "failed")
    play.limiters.pause("host:paused", "t", "402", seconds=60, person=False)
    assert play.state(broken).state == "open"
    set_back(play.bench)
    play.tend()
    assert play.start() == []
    play.later(61)
    play.tend()
    assert play.start() == ["b"]
    assert play.state(broken).state == "half_open"
    assert play.state(Limiter("host:paused")).state == "closed"


def test_a_queues_rate_allows_starts_again_within_its_window(bench: Bench) -> None:
    for name in "ab":
        bench.dispatch(name)
    assert list(bench.fetch("w", rate=1)) == ["a"]
    set_back(bench)
    assert bench.fetch("w", rate=1) == {}
    bench.advance(61_000)
    assert list(bench.fetch("w", rate=1)) == ["b"]

"""A task whose queue is full stands aside in the wait queue of its limiter: no permit idles for it."""

from __future__ import annotations

import pytest

from sytq.broker.handover import QueueLimit
from sytq.broker.limiter import Limiter
from sytq.errors import RedisUnavailable
from tests.broker.bench import LEASE_MS, Bench, Item
from tests.broker.limiter_play import BREAKER, ONE, TWO, Play
from tests.broker.test_fetched_permits import known, submit
from tests.broker.test_rights import user
from tests.servers import RedisServer

WAITING = [f"t{n:02}" for n in range(30)]


class Two:
    """The limited queue `q` of the tests, and beside it `r`, whose tasks need the same limiter."""

    def __init__(self, play: Play, url: str, limit: QueueLimit) -> None:
        self.play, self.q, self.limit = play, play.bench, limit
        self.r = Bench(url, "r", queues=("q", "r"))
        self.holder: Item = []  # of the permit
        self.q.limits["q"] = self.r.limits["q"] = limit

    def submit_to_r(self, *names: str) -> None:
        for name in names:
            self.r.dispatch(name, created_ms=1000, limiters=(ONE.name,))

    def fetch_q(self, slots: int = 100) -> dict[str, Item]:
        limits = {"limit": self.limit.running, "rate": self.limit.starts}
        return self.q.fetch("w", slots=slots, window_ms=self.limit.args[2], **limits)  # type: ignore[arg-type]


@pytest.fixture(params=[QueueLimit(running=1), QueueLimit(starts=1, window=600)], ids=["limit", "rate"])
def two(request: pytest.FixtureRequest, play: Play, every_server: RedisServer) -> Two:
    """The one permit of ONE is held by a task of `r`."""
    two = Two(play, every_server.url, request.param)
    known(play, ONE)
    two.submit_to_r("holder")
    two.holder = two.r.fetch("w")["holder"]
    return two


def test_a_permit_goes_to_the_next_queue_while_the_queue_of_older_tasks_is_full(two: Two) -> None:
    submit(two.play, *WAITING)
    two.q.dispatch("long", created_ms=1)
    assert list(two.fetch_q()) == ["long"]
    assert two.play.state(ONE).waiting == 30
    two.submit_to_r("a", "b")
    assert two.r.fetch("w") == {}
    two.r.ack("w", two.holder, "done")
    a = two.r.fetch("w")
    assert list(a) == ["a"], "at once: none waits for a lease"
    assert two.play.state(ONE).waiting == 31
    two.r.ack("w", a["a"], "done")
    assert list(two.r.fetch("w")) == ["b"]


def test_tasks_that_stood_aside_are_ahead_again_once_their_queue_has_room(two: Two) -> None:
    submit(two.play, *WAITING)
    two.q.dispatch("long", created_ms=1)
    long = two.fetch_q()["long"]
    two.submit_to_r("a", "b")
    assert two.r.fetch("w") == {}
    two.r.ack("w", two.holder, "done")
    a = two.r.fetch("w")["a"]
    two.q.ack("w", long, "done")
    two.play.later(601)
    two.r.ack("w", a, "done")
    assert two.r.fetch("w") == {}
    assert list(two.fetch_q()) == [WAITING[0]]


def test_only_as_many_permits_are_handed_over_as_the_queue_has_room(play: Play, every_server: RedisServer) -> None:
    two = Two(play, every_server.url, QueueLimit(running=1))
    known(play, TWO)
    submit(play, "x", "y", *WAITING, limiters=(TWO,))
    assert play.start(slots=2) == ["x", "y"]
    assert two.q.fetch("w", slots=1, limit=40) == {}
    for name in ("x", "y"):
        play.ack(name)
    assert play.state(TWO).running == 1
    assert list(two.fetch_q()) == [WAITING[0]]
    two.q.advance(LEASE_MS)
    play.tend()
    assert play.state(TWO).inside == [WAITING[0]]


def test_permits_that_are_free_at_once_go_to_the_oldest_tasks_of_all_queues(
    play: Play, every_server: RedisServer
) -> None:
    two, limiter = Two(play, every_server.url, QueueLimit(running=2)), Limiter("host:many", concurrency=5)
    known(play, limiter)
    play.limiters.pause(limiter.name, "ann", "")
    submit(play, *WAITING, limiters=(limiter,))
    for name in "abcdef":
        two.r.dispatch(name, created_ms=1000, limiters=(limiter.name,))
    assert two.fetch_q() == two.r.fetch("w") == {}
    for name in (WAITING[0], WAITING[2]):
        assert two.q.operations.cancel(name, "ann") == "cancelled"
    play.limiters.resume(limiter.name)
    two.r.tend()
    q, r = two.fetch_q(), two.r.fetch("w")
    assert (list(q), list(r)) == ([WAITING[1], WAITING[3]], ["a", "b", "c"])
    assert play.state(limiter).waiting == 29
    two.q.ack("w", q[WAITING[1]], "done")
    assert list(two.fetch_q()) == [WAITING[4]], "it stood aside, and is older"
    for name in "abc":
        two.r.ack("w", r[name], "done")
    assert list(two.r.fetch("w")) == ["d", "e", "f"], "their queue has room"


def test_a_task_that_stands_aside_can_be_cancelled_and_is_seen(two: Two) -> None:
    submit(two.play, "b", "c")
    two.q.dispatch("long", created_ms=1)
    two.fetch_q()
    two.r.ack("w", two.holder, "done")
    assert two.play.state(ONE).line == ["b", "c"]
    assert two.q.operations.cancel("b", "ann") == "cancelled"
    two.play.later(601)
    assert two.play.bench.redis.ask("XLEN", two.q.streams[2]) == 1


def test_tasks_that_stood_aside_go_on_when_their_queue_has_no_limit_any_more(two: Two) -> None:
    submit(two.play, "b", "c")
    two.q.dispatch("long", created_ms=1)
    two.fetch_q()
    two.r.ack("w", two.holder, "done")
    two.q.limits.clear()
    two.play.tend()
    assert list(two.q.fetch("w")) == ["b"]


def test_a_queue_whose_tasks_cannot_be_counted_starts_none(play: Play, every_server: RedisServer) -> None:
    two = Two(play, every_server.url, QueueLimit(running=1))
    two.q.dispatch("long", created_ms=1)
    assert list(two.fetch_q()) == ["long"]
    two.q.dispatch("next", created_ms=2)
    own = two.q.redis
    two.q.redis = user(every_server, "+@all", "~*", "-xpending")
    try:
        with pytest.raises(RedisUnavailable):
            two.fetch_q()
    finally:
        two.q.redis = own


def test_no_permit_is_handed_over_to_a_queue_whose_room_a_suspect_has(two: Two) -> None:
    submit(two.play, "a")
    assert two.fetch_q() == {}
    two.q.redis.ask("ZADD", two.q.keys.suspects("q"), 1, "suspect")
    two.submit_to_r("b")
    assert two.r.fetch("w") == {}
    two.r.ack("w", two.holder, "done")
    assert list(two.r.fetch("w")) == ["b"]


def test_a_breaker_holds_no_permit_back_from_tasks_behind_a_full_queue(play: Play, every_server: RedisServer) -> None:
    guarded = Limiter("provider:guarded", concurrency=1, breaker=BREAKER)
    two = Two(play, every_server.url, QueueLimit(running=1))
    known(play, guarded)
    submit(play, *(f"t{n:03}" for n in range(300)), limiters=(guarded,))
    two.q.dispatch("long", created_ms=1)
    two.r.dispatch("holder", created_ms=1, limiters=(guarded.name,))
    holder = two.r.fetch("w")["holder"]
    assert list(two.fetch_q()) == ["long"]
    two.r.dispatch("b", created_ms=1000, limiters=(guarded.name,))
    assert two.r.fetch("w") == {}
    two.r.ack("w", holder, "done")
    while two.r.tend()[1] == 0:
        pass
    assert list(two.r.fetch("w")) == ["b"], "without a pause between the looks"

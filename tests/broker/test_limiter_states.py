"""Queues with limits and types that are limited or paused are seen beside the other limiters."""

from __future__ import annotations

from sytq.broker.inspection import Inspection
from sytq.broker.limiter_states import LimiterState
from sytq.config.sections import QueueLimits
from tests.broker.limiter_play import ONE, Play
from tests.broker.test_fetched_permits import submit


def test_queues_and_types_are_listed_beside_the_others(play: Play) -> None:
    limits = {"q": QueueLimits.model_validate({"limit": 3, "rate": "9/min"}), "free": QueueLimits(max_waiting=9)}
    inspection = Inspection(play.bench.redis, play.bench.keys, ["q", "free"], limits)
    play.limit_type(concurrency=2, calls=5)
    assert play.start(sweep=True) == []
    idle = inspection.limiters()
    assert [(one.name, one.state, one.running, one.waiting) for one in idle] == [
        ("queue:q", "closed", 0, 0),
        ("type:t", "closed", 0, 0),
    ]
    play.types = ""
    play.running("a")
    play.limit_type(concurrency=2, calls=5)
    play.acquire("a", ONE)
    submit(play, *"bcde", limiters=())
    assert play.start(slots=3, rate=9) == ["b", "c"]
    submit(play, "f", limiters=())
    queue = inspection.limiter("queue:q")
    assert queue == LimiterState(
        "queue:q", "closed", running=3, limit_now=3, limit=3, waiting=1, calls_in_window=2, calls=9
    )
    play.limiters.pause("type:t", "ann", "moving")
    play.limiters.pause("type:other", "bob", "broken")
    seen = {one.name: (one.state, one.running, one.waiting, one.limit, one.by) for one in inspection.limiters()}
    assert seen == {
        "provider:one": ("closed", 1, 0, 1, None),
        "queue:q": ("closed", 3, 1, 3, None),
        "type:other": ("paused", None, 0, 0, "bob"),
        "type:t": ("paused", 2, 2, 2, "ann"),
    }
    limited = inspection.limiter("type:t")
    assert limited is not None
    assert (limited.inside, limited.reason) == (["b", "c"], "moving")
    assert inspection.limiter("type:another") is None

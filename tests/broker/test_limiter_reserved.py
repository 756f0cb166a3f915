"""What workers of 0.1 reserve: until 0.3 they may run beside workers that hand permits over."""

from __future__ import annotations

import json

from tests.broker.limiter_play import ONE, TWO, Play


def reservations(play: Play) -> object:
    return play.bench.redis.ask("ZRANGE", play.bench.keys.wait_queues, 0, -1)


def reserve(play: Play, name: str) -> None:
    """Do as a worker of 0.1: call the task, and keep a permit of each of its limiters free for it."""
    redis, keys = play.bench.redis, play.bench.keys
    record = json.loads(redis.ask("HGET", keys.waiting, name))
    redis.ask("ZREM", keys.wait_queues, f"{record['at']}|1|{record['created']}|{name}")
    for limiter in record["gates"]:
        redis.ask("ZADD", keys.wait_queues, 0, f"{limiter}|0|{record['created']}|{name}")
    redis.ask("HSET", keys.waiting, name, json.dumps(record | {"till": play.bench.now_ms() + 5000}))
    redis.ask("ZADD", keys.delayed("q"), 0, name)


def test_no_reservation_is_left_of_a_task_that_has_started(play: Play) -> None:
    play.running("a", "b")
    inside = play.acquire("a", ONE)
    play.wait("b", ONE, TWO)
    reserve(play, "b")
    play.release(inside)
    assert play.called() == ["b"]
    play.acquire("b", ONE, TWO)
    assert reservations(play) == []


def test_permit_reserved_for_a_task_that_nobody_starts_is_handed_over(play: Play) -> None:
    play.running("a", "b")
    inside = play.acquire("a", ONE)
    play.wait("b", ONE, TWO)
    reserve(play, "b")
    play.release(inside)
    play.tend()
    assert play.state(ONE).running == play.state(TWO).running == 1
    play.tend()
    assert reservations(play) == []
    assert play.called() == ["b"]

"""Limiters that are paused, forgotten with Redis, or idle."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from sytq import Limiter
from sytq.errors import InvalidInput, RedisUnavailable
from tests.broker.bench import LEASE_MS
from tests.broker.limiter_play import BREAKER, ONE, Play

# -- paused


def test_paused_limiter_grants_no_permit_until_resumed(play: Play) -> None:
    play.running("a", "b")
    assert play.limiters.pause(ONE.name, "ann", "moving")
    assert not play.limiters.pause(ONE.name, "bob", "moving house")
    refusal = play.wait("a", ONE)
    assert str(refusal) == "waiting for provider:one: paused by bob: moving house"
    assert refusal.unavailable
    state = play.state(ONE)
    assert (state.state, state.by, state.reason, state.until) == ("paused", "bob", "moving house", None)
    assert state.waiting == 1
    play.tend()
    assert play.called() == []
    assert play.limiters.resume(ONE.name)
    assert not play.limiters.resume(ONE.name)
    play.tend()
    assert play.called() == ["a"]
    play.acquire("a", ONE, created=1)


def test_automatic_pause_expires_and_does_not_replace_a_manual_pause(play: Play) -> None:
    play.running("a")
    assert play.limiters.pause(ONE.name, "llm 1", "402", seconds=60, person=False)
    assert not play.limiters.pause(ONE.name, "llm 2", "402", seconds=60, person=False)
    assert play.state(ONE).by == "llm 1"
    play.refused("a", ONE)
    play.later()
    assert play.state(ONE).state == "closed"
    play.release(play.acquire("a", ONE))
    assert play.limiters.pause(ONE.name, "ann", "no")
    assert not play.limiters.pause(ONE.name, "llm 3", "401", seconds=0.1, person=False)
    assert not play.limiters.resume(ONE.name, person=False)
    assert (play.state(ONE).by, play.state(ONE).until) == ("ann", None)
    play.limiters.pause(ONE.name, "ann", "for a minute", seconds=60)
    until = play.state(ONE).until
    play.limiters.pause(ONE.name, "llm 3", "401", seconds=600, person=False)
    assert (play.state(ONE).by, play.state(ONE).until) == ("ann", until)
    assert play.limiters.resume(ONE.name)
    assert play.limiters.pause(ONE.name, "llm 4", "401", person=False)
    assert play.limiters.resume(ONE.name, person=False)


# -- paused for one configuration: a key that was refused

OLD, NEW = (Limiter(ONE.name, concurrency=4, configuration=f"provider:one|{key}") for key in ("old", "new"))


def refuse_key(play: Play, limiter: Limiter) -> bool:
    return play.limiters.pause(ONE.name, "llm 1", "401", seconds=300, person=False, configuration=limiter.configuration)


def waits_for_old_key(play: Play) -> None:
    """A worker with the old key; three tasks wait, as it was refused."""
    play.limiters.announce([OLD.configuration])
    play.running("a", "b", "c", "d")
    assert refuse_key(play, OLD)
    assert not refuse_key(play, OLD)
    for name in "abc":
        play.wait(name, OLD)
    play.tend()
    assert play.called() == [] and play.state(OLD).state == "paused"


def test_announced_new_key_ends_the_pause_and_waiting_tasks_go_on(play: Play) -> None:
    waits_for_old_key(play)
    play.limiters.announce([NEW.configuration])
    play.tend()
    assert play.state(NEW).state == "closed"
    assert play.called() == ["a", "b", "c"]
    play.acquire("a", NEW, created=1)


def test_old_key_is_refused_beside_the_new_one_without_a_call(play: Play) -> None:
    waits_for_old_key(play)
    play.limiters.announce([OLD.configuration, NEW.configuration])
    refusal = play.refused("d", OLD, created=0)
    assert str(refusal) == "waiting for provider:one: paused by llm 1: 401" and refusal.unavailable
    play.release(play.acquire("d", NEW))
    assert not refuse_key(play, OLD)
    play.tend()
    assert play.called() == ["a", "b", "c"]


def test_resumption_beside_a_new_key_says_what_the_old_one_waited_for(play: Play) -> None:
    waits_for_old_key(play)
    play.limiters.announce([OLD.configuration, NEW.configuration])
    resumed = play.limiters.resume(ONE.name)
    assert (resumed.held, resumed.by, resumed.why, resumed.waiting) == ("paused", "llm 1", "401", 3)
    assert not play.limiters.resume(ONE.name)
    play.tend()
    assert play.called() == ["a", "b", "c"]
    play.acquire("d", OLD)


def test_refused_new_key_pauses_and_the_old_one_still_passes(play: Play) -> None:
    play.limiters.announce([OLD.configuration, NEW.configuration])
    play.running("a", "b")
    assert refuse_key(play, NEW)
    play.wait("a", NEW)
    play.tend()
    assert play.called() == ["a"]
    play.acquire("a", OLD)
    play.acquire("b", OLD)
    play.later(9)
    play.limiters.announce([NEW.configuration])  # the workers with the old key have ended
    assert play.state(ONE).state == "paused"


def test_both_keys_refused_pause_until_a_third_is_announced(play: Play) -> None:
    waits_for_old_key(play)
    play.limiters.announce([NEW.configuration])
    assert refuse_key(play, NEW)
    play.refused("d", NEW)
    play.refused("d", OLD)
    assert play.state(ONE).state == "paused"
    play.limiters.announce(["provider:one|third"])
    assert play.state(ONE).state == "closed"


def test_removed_provider_holds_its_tasks_no_longer(play: Play) -> None:
    waits_for_old_key(play)
    play.limiters.announce(["provider:two|other"])
    assert play.state(ONE).state == "paused"
    play.later(9)
    play.limiters.announce(["provider:two|other"])
    play.tend()
    assert play.called() == ["a", "b", "c"]


def test_persons_pause_outlives_every_new_key(play: Play) -> None:
    waits_for_old_key(play)
    assert not play.limiters.pause(ONE.name, "ann", "moving") or play.state(ONE).by == "ann"
    play.limiters.announce([NEW.configuration])
    assert play.state(ONE).by == "ann"
    play.refused("d", NEW, created=0)
    assert not play.limiters.resume(ONE.name, person=False)
    assert play.limiters.resume(ONE.name).waiting == 3
    play.acquire("d", NEW)


def test_workers_without_a_configuration_wait_for_every_pause(play: Play) -> None:
    waits_for_old_key(play)
    play.refused("d", ONE, created=0)
    play.limiters.announce([NEW.configuration])
    play.acquire("d", ONE)


@pytest.mark.parametrize("name", ["", "a b", "a|b", "ä", "x" * 301, "a\n"])
def test_invalid_limiter_names_are_refused(play: Play, name: str) -> None:
    with pytest.raises(InvalidInput):
        Limiter(name)
    with pytest.raises(InvalidInput):
        play.limiters.pause(name, "ann", "why")


def test_limiters_and_task_ids_with_special_characters_stay_distinct(play: Play) -> None:
    limiters = [
        Limiter(name, concurrency=1) for name in ("host:[::1]:80", "host:[::1]:8", "model:a/b~c", "model:a/b", "a{b}(")
    ]
    ids = ["x|0|1|5", "0|x", "x", "[x", "(x"]
    play.running(*ids, "late")
    inside = [play.acquire(name, limiter) for name, limiter in zip(ids, limiters, strict=True)]
    assert [play.state(limiter).running for limiter in limiters] == [1] * 5
    play.wait("late", *limiters)
    for permit in inside[:-1]:
        play.release(permit)
        assert play.called() == []
    play.release(inside[-1])
    assert play.called() == ["late"]
    play.acquire("late", *limiters, created=6)
    assert [play.state(limiter).inside for limiter in limiters] == [["late"]] * 5


# -- Redis was emptied


def test_emptied_redis_grants_no_permit_until_running_tasks_reregister(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis, keys = play.bench.redis, play.bench.keys
    play.bench.heartbeat("w")
    play.epoch = redis.ask("GET", keys.epoch)
    play.running("a", "b")
    a = play.acquire("a", ONE)
    play.bench.flush()
    with pytest.raises(RedisUnavailable):
        play.acquire("b", ONE)
    for name in ("a", "b"):
        play.bench.reregister("w", play.started[name][1])
    play.bench.heartbeat("w")
    play.epoch = redis.ask("GET", keys.epoch)
    play.limiters.reregister()
    assert play.state(ONE).running == 1
    refusal = play.refused("b", ONE)
    assert "Redis was emptied" in str(refusal)
    assert isinstance(refusal.after, float) and 0 < refusal.after <= LEASE_MS / 1000
    # That time later, in which all workers registered their tasks.
    later = time.monotonic() + refusal.after
    monkeypatch.setattr("sytq.broker.limiters.time", SimpleNamespace(monotonic=lambda: later))
    assert "1 of 1 run" in str(play.refused("b", ONE))
    play.release(a)
    play.acquire("b", ONE, created=2)


# -- housekeeping


def test_idle_limiter_leaves_no_keys_behind(play: Play) -> None:
    limiter = Limiter("g", concurrency=1, adaptive=True, calls=5, cost=5, window=60, breaker=BREAKER)
    play.running("a", "b")
    a = play.acquire("a", limiter)
    play.wait("b", limiter)
    play.release(a)
    play.called()
    play.release(play.acquire("b", limiter, created=2))
    play.tend()
    assert play.state(limiter).state == "closed"
    play.bench.stand_still(3_700_000)
    play.tend()
    assert play.bench.redis.ask("KEYS", "*gates*") == []


def test_limiter_without_acquisitions_is_scheduled_for_cleanup(play: Play) -> None:
    redis, keys = play.bench.redis, play.bench.keys
    play.limiters.pause(ONE.name, "ann", "why")
    play.running("a")
    play.refused("a", ONE, Limiter("model:never"))
    known = {name for key in (keys.limiters, keys.limiter_settings) for name in redis.ask("HGETALL", key)}
    assert known == set(redis.ask("ZRANGE", keys.limiters_due, 0, -1)) == {b"provider:one", b"model:never"}


def test_paused_limiter_is_not_forgotten(play: Play) -> None:
    play.limiters.pause("g", "ann", "why")
    redis, keys = play.bench.redis, play.bench.keys
    play.tend()
    assert b"idle" not in redis.ask("HGET", keys.limiters, "g")


def test_limiter_tend_returns_when_to_run_next(play: Play) -> None:
    assert play.bench.tend(20) == [0, -1]
    play.running("a", "b")
    play.acquire("a", ONE)
    play.wait("b", ONE)
    looked, wait = play.bench.tend(20)
    assert (looked, 0 < wait <= 500) == (0, True)

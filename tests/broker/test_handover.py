"""What becomes of permits that are handed over, and of tasks that wait for them, when things go wrong in between."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sytq import Breaker, Limiter, Waiting
from sytq.errors import RedisUnavailable
from tests.broker.bench import LEASE_MS
from tests.broker.limiter_play import ONE, Play, acquire
from tests.broker.test_fetched_permits import known, submit
from tests.broker.test_rights import commands_of, user
from tests.servers import RedisServer

RATED = Limiter("host:rated", calls=1, window=60)


def test_task_handed_a_permit_waits_when_the_breaker_opens_meanwhile(play: Play) -> None:
    limiter = Limiter("host:breaks", concurrency=2, breaker=Breaker(timeout=60, min_calls=1))
    known(play, limiter)
    submit(play, "a", "b", "c", limiters=(limiter,))
    play.start()
    play.ack("a")  # hands its permit over to c
    play.ack("b", permit_outcome="failed")
    assert play.state(limiter).state == "open"
    assert play.called() == []
    assert (play.state(limiter).running, play.state(limiter).waiting) == (0, 1)


def test_half_open_breaker_hands_over_as_many_permits_as_it_lets_through(play: Play) -> None:
    limiter = Limiter("host:half", breaker=Breaker(max_requests=2, timeout=60, min_calls=1))
    known(play, limiter)
    submit(play, *"abcde", limiters=(limiter,))
    play.start(slots=1)
    play.ack("a", permit_outcome="failed")
    assert play.start() == []
    play.later(61)
    play.tend()
    assert play.called() == ["b", "c"]
    play.tend()
    assert play.called() == []
    play.ack("b", permit_outcome="unused")
    play.tend()
    assert play.called() == ["d"]
    for name in "cd":
        play.ack(name)
    play.tend()
    assert (play.state(limiter).state, play.called()) == ("closed", ["e"])


def test_a_waiting_task_costs_redis_few_commands(play: Play) -> None:
    """From the hand-over to the start 11 for each of 20 tasks: most are for all tasks of a call."""
    limiter = Limiter("host:many", concurrency=20)
    known(play, limiter)
    play.limiters.pause(limiter.name, "ann", "")
    names = [f"t{n:02}" for n in range(20)]
    submit(play, *names, limiters=(limiter,))
    assert play.start() == []
    play.limiters.resume(limiter.name)
    play.bench.redis.ask("CONFIG", "RESETSTAT")
    play.tend()
    assert play.start() == names
    stats = play.bench.redis.ask("INFO", "commandstats")
    assert sum(command["calls"] for command in stats.values()) / len(names) < 15
    assert play.state(limiter).running == 20


def test_task_whose_permits_lapsed_at_one_limiter_counts_one_call(play: Play) -> None:
    rated, other = Limiter("a:rated", calls=1, window=60), Limiter("b:other", concurrency=1)
    known(play, rated, other)
    submit(play, "a", limiters=(rated, other))
    assert play.start() == []
    play.later(61)
    play.tend()
    play.bench.redis.ask("ZREMRANGEBYLEX", play.bench.keys.permits, "[b:other|", "(b:other}")
    assert play.called() == ["a"]
    assert (play.state(rated).calls_in_window, play.state(rated).running, play.state(other).running) == (1, 1, 1)


def test_handed_over_permit_that_nobody_fetches_counts_no_call(play: Play) -> None:
    known(play, RATED)
    submit(play, "a", limiters=(RATED,))
    assert play.start() == []
    play.later(61)
    play.tend()
    assert play.state(RATED).calls_in_window == 1
    play.later(LEASE_MS / 1000 + 1)  # all slots are taken
    play.tend()
    assert play.state(RATED).calls_in_window == 0
    assert play.called() == ["a"]


def test_refused_task_keeps_the_calls_of_its_earlier_attempt_counted(play: Play) -> None:
    limiter = Limiter("host:both", concurrency=1, calls=9)
    submit(play, "a", limiters=(limiter,))
    assert play.start() == ["a"]
    play.acquire("a", limiter)
    play.ack("a", "return")  # its permit is not released
    play.limiters.pause(limiter.name, "ann", "moving")
    assert play.start() == []
    assert play.state(limiter).calls_in_window == 1


def test_concurrent_permits_of_a_fetched_task_all_count_their_costs(play: Play) -> None:
    costly = Limiter("model:costly", cost=100, window=60)
    known(play, costly)
    submit(play, "a", limiters=(costly,))
    play.start()
    for _ in range(2):
        play.acquire("a", costly, cost=40)
    assert play.state(costly).units_in_window == 80
    play.refused("a", costly, cost=40)


def waits_in_place(play: Play, name: str) -> None:
    permit = play.permit(name, ONE)
    permit.in_place_ms = 100_000
    with pytest.raises(Waiting):
        acquire(play.limiters, permit)
    play.limiters.release_all([permit])  # as `ctx.acquire` does when it is interrupted


def test_attempt_interrupted_in_its_wait_is_handed_no_permit(play: Play) -> None:
    play.running("a", "b", "c")
    first = play.acquire("a", ONE)
    waits_in_place(play, "b")
    play.wait("c", ONE)
    play.release(first)
    assert play.called() == ["c"]


def test_retry_after_an_interrupted_wait_keeps_its_time(play: Play) -> None:
    play.running("a", "b")
    first = play.acquire("a", ONE)
    waits_in_place(play, "b")
    play.ack("b", "retry", after=60)
    play.release(first)
    assert play.called() == []


def test_cancelled_task_whose_permit_lapsed_leaves_no_record(play: Play) -> None:
    play.running("a", "b")
    first = play.acquire("a", ONE)
    play.wait("b", ONE)
    play.release(first)
    play.later(LEASE_MS / 1000 + 1)
    play.tend()
    assert play.bench.operations.cancel("b", "ann") == "cancelled"
    play.later(0.25)
    play.tend()
    assert play.bench.redis.ask("HLEN", play.bench.keys.waiting) == 0


def test_refusal_whose_acknowledgement_is_repeated_waits_in_the_queue(play: Play) -> None:
    play.running("a", "b")
    first = play.acquire("a", ONE)
    permit = play.refused("b", ONE).permit
    assert permit
    worker, item = play.started["b"]
    play.ack("b", "wait", 600, wanted=permit.wanted(None))
    # Redis refused the rest of that call:
    play.bench.redis.ask("DEL", play.bench.keys.wait_queues, play.bench.keys.waiting)
    assert play.bench.ack(worker, item, "wait", delay_ms=600_000, wanted=permit.wanted(None)) == 0
    play.release(first)
    assert play.called() == ["b"]


#: What the scripts run that hand permits over.
HANDS_OVER = sorted(
    commands_of("_limiters.lua", "_grant.lua", "_wait_queue.lua", "_admit.lua", "_release.lua", "_release_fetched.lua")
)


def test_p3_task_that_is_called_twice_starts_once(play: Play) -> None:
    known(play, ONE)
    submit(play, "a", "b")
    assert play.start() == ["a"]
    play.ack("a")
    play.bench.redis.ask("RPUSH", play.bench.keys.called("q"), "b")  # as when it was fetched and handed permits again
    assert play.start() == ["b"]
    started = [event[b"data"] for event in play.bench.events() if event[b"kind"] == b"started"]
    assert sum(data.count(b'"b"') for data in started) == 1


def refused_once(play: Play, server: RedisServer, command: str, call: Callable[[], object]) -> None:
    """Make a call that Redis refuses where it runs this command, and repeat it as a worker does."""
    admin, own = server.client(), play.bench.redis
    play.bench.redis = play.limiters._redis = user(server, "+@all", "~*", f"-{command}")
    try:
        call()
    except RedisUnavailable:
        admin.execute_command("ACL", "SETUSER", "limited", "+@all")
        call()
    finally:
        play.bench.redis = play.limiters._redis = own


def test_p1_handover_refused_halfway_strands_no_task(play: Play, every_server: RedisServer) -> None:
    """No task needs its fallback, no limit is exceeded, and no permit or record is left."""
    keys = play.bench.keys
    for command in HANDS_OVER:

        def refused(call: Callable[[], object], command: str = command) -> None:
            refused_once(play, every_server, command, call)

        def ack_all() -> None:
            assert len(play.started) <= 1, command  # noqa: B023
            for name in list(play.started):
                worker, item = play.started.pop(name)
                refused(lambda: play.bench.ack(worker, item, "done"))  # noqa: B023

        play.bench.flush()
        known(play, ONE)
        submit(play, "a", "b", "c")
        refused(lambda: play.start(slots=1, sweep=True))
        play.limiters.pause(ONE.name, "ann", "moving")
        refused(lambda: play.start(sweep=True))
        ack_all()
        play.limiters.resume(ONE.name)
        for _ in range(9):
            refused(play.tend)
            play.later(0.5)
            if play.start(sweep=True) == [] and play.bench.redis.ask("EXISTS", keys.permits) == 0:
                break
            ack_all()
        for name in "abc":  # a delay may be left until its time
            play.bench.operations.reschedule(name, play.bench.now_ms())
        play.bench.promote()
        ended = [play.bench.live(name)[0] for name in "abc"]  # type: ignore[index]
        assert ended == ["succeeded"] * 3, command
        left = (keys.wait_queues, keys.waiting, keys.permits, keys.delayed("q"), keys.bodies("q"))
        assert [key for key in left if play.bench.redis.ask("EXISTS", key)] == [], command

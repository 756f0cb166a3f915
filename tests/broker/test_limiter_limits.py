"""Windows, the adaptive limit and the circuit breaker of a limiter."""

from __future__ import annotations

import pytest

from sytq import Breaker, Limiter
from sytq.broker.limiter import PermitOutcome
from tests.broker.limiter_play import BREAKER, Play

# -- windows


def test_calls_beyond_the_window_limit_wait(play: Play) -> None:
    limiter = Limiter("g", calls=3, window=60)
    names = [f"t{n}" for n in range(5)]
    play.running(*names)
    for name in names[:3]:
        play.release(play.acquire(name, limiter))
    refusal = play.wait(names[3], limiter)
    assert str(refusal) == "waiting for g: 3 of 3 calls in 60 s"
    assert "1 ahead" in str(play.wait(names[4], limiter))
    assert play.state(limiter).calls_in_window == 3
    play.later()
    play.tend()
    assert sorted(play.called()) == names[3:]
    for n in (3, 4):
        play.acquire(names[n], limiter, created=n + 1)


def test_cost_is_reserved_at_acquire_and_corrected_at_release(play: Play) -> None:
    limiter = Limiter("g", cost=100, window=60)
    play.running("a", "b", "c", "d")
    a = play.acquire("a", limiter, cost=60)
    assert "cost 60 of 100 in 60 s, wants 50" in str(play.refused("b", limiter, cost=50, created=9))
    play.release(a, cost=30)
    assert play.state(limiter).units_in_window == 30
    play.acquire("b", limiter, cost=50, created=9)
    play.refused("c", limiter, cost=30)
    play.acquire("d", limiter, cost=20, created=0)


def test_cost_above_the_window_limit_is_granted_alone(play: Play) -> None:
    limiter = Limiter("g", cost=100, window=60)
    play.running("a", "b")
    play.acquire("a", limiter, cost=500)
    play.refused("b", limiter, cost=1)


def test_wait_for_a_window_grows_with_the_wait_queue_position(play: Play) -> None:
    limiter = Limiter("g", calls=2, window=10)
    play.running(*(f"t{n}" for n in range(10)))
    for n in range(2):
        play.acquire(f"t{n}", limiter)
    waits = [float(play.wait(f"t{n}", limiter).after or 0) for n in range(2, 10)]
    # (10, 10, 20, 20, ...) s of estimate; the fallback is a fifth and 5 s later, and up to a tenth of jitter.
    for n, wait in enumerate(waits):
        estimate = 10 * (1 + n // 2)
        assert estimate * 1.15 + 4 < wait < (estimate * 1.2 + 5) * 1.1 + 1


# -- adaptive


def test_adaptive_limit_rises_on_success_and_halves_once_per_round(play: Play) -> None:
    limiter = Limiter("g", concurrency=40, adaptive=True)
    play.running(*(f"t{n}" for n in range(100)))
    inside = [play.acquire(f"t{n}", limiter) for n in range(10)]
    play.refused("t99", limiter)
    assert play.state(limiter).limit_now == 10
    for permit in inside:
        play.release(permit)
    risen = play.state(limiter).limit_now
    assert 12 <= risen <= 20  # only while the limit is nearly used
    inside = [play.acquire(f"t{n}", limiter, created=0) for n in range(20, 20 + risen - 1)]
    for permit in inside:
        play.release(permit, "overloaded")
    assert play.state(limiter).limit_now == risen // 2
    play.later(0.01)
    play.release(play.acquire("t60", limiter, created=0), "overloaded")
    assert play.state(limiter).limit_now == risen // 4


def test_an_adaptive_limit_does_not_rise_while_hardly_used(play: Play) -> None:
    limiter = Limiter("g", concurrency=40, adaptive=True)
    names = [f"t{n}" for n in range(30)]
    play.running(*names)
    for name in names:
        play.release(play.acquire(name, limiter))
    assert play.state(limiter).limit_now == 10


def test_an_adaptive_limit_stays_between_one_and_the_configured_limit(play: Play) -> None:
    limiter = Limiter("g", concurrency=3, adaptive=True)
    play.running(*(f"t{n}" for n in range(40)))
    for n in range(10):
        pair = [play.acquire(f"t{2 * n}", limiter, created=0), play.acquire(f"t{2 * n + 1}", limiter, created=0)]
        for permit in pair:
            play.release(permit)
    assert play.state(limiter).limit_now == 3
    for n in range(20, 30):
        play.later(0.003)
        play.release(play.acquire(f"t{n}", limiter, created=0), "overloaded")
    assert play.state(limiter).limit_now == 1
    play.acquire("t30", limiter, created=0)


# -- breaker


def fail(play: Play, limiter: Limiter, times: int, outcome: PermitOutcome = "failed") -> None:
    for n in range(times):
        name = f"f{len(play.created)}-{n}"
        play.running(name)
        play.release(play.acquire(name, limiter, created=0), outcome)


def test_the_breaker_opens_at_its_threshold_and_not_before(play: Play) -> None:
    limiter = Limiter("g", breaker=BREAKER)
    fail(play, limiter, 2, "ok")
    fail(play, limiter, 1)
    assert play.state(limiter).state == "closed"
    fail(play, limiter, 1, "ignored")  # does not count
    assert play.state(limiter).state == "closed"
    fail(play, limiter, 1, "overloaded")
    state = play.state(limiter)
    assert (state.state, state.reason) == ("open", "2 of 4 calls failed")
    play.running("a")
    refusal = play.refused("a", limiter)
    assert str(refusal) == "waiting for g: its circuit breaker is open, 2 of 4 calls failed"


def test_failure_count_of_a_breaker_resets_after_the_interval(play: Play) -> None:
    limiter = Limiter("g", breaker=Breaker(interval=60, min_calls=4))
    fail(play, limiter, 3)
    play.later()
    fail(play, limiter, 3)
    assert play.state(limiter).state == "closed"
    fail(play, limiter, 1)
    assert play.state(limiter).state == "open"


def test_half_open_breaker_grants_max_requests_and_closes_on_success(play: Play) -> None:
    limiter = Limiter("g", breaker=BREAKER)
    fail(play, limiter, 4)
    play.later()
    assert play.state(limiter).state == "half_open"
    play.running("a", "b", "c", "d")
    probes = [play.acquire("a", limiter), play.acquire("b", limiter)]
    assert "lets 2 calls through" in str(play.refused("c", limiter))
    play.release(probes[0])
    assert play.state(limiter).state == "half_open"
    play.refused("d", limiter)  # one success, one under way: no third
    play.release(probes[1])
    assert play.state(limiter).state == "closed"


def test_half_open_breaker_opens_again_when_a_probe_fails(play: Play) -> None:
    limiter = Limiter("g", breaker=BREAKER)
    fail(play, limiter, 4)
    play.later()
    play.running("a", "b")
    probes = [play.acquire("a", limiter), play.acquire("b", limiter)]
    play.release(probes[0], "failed")
    assert play.state(limiter).state == "open"
    play.release(probes[1])  # late: it is ignored
    assert play.state(limiter).state == "open"


@pytest.mark.parametrize("how", ["ignored", "killed"])
def test_probe_without_outcome_does_not_block_the_half_open_breaker(play: Play, how: str) -> None:
    limiter = Limiter("g", breaker=BREAKER)
    fail(play, limiter, 4)
    play.later()
    play.running("a", "b", worker="dead")
    play.running("c", "d")
    probes = [play.acquire("a", limiter), play.acquire("b", limiter)]
    play.refused("c", limiter)
    if how == "ignored":
        for permit in probes:
            play.limiters.release_all([permit])
    else:
        play.bench.expire_lease("dead")
        play.later(0.25)  # permits are checked at most five times a second
    assert play.state(limiter).state == "half_open"
    for name in ("c", "d"):
        play.release(play.acquire(name, limiter, created=0))
    assert play.state(limiter).state == "closed"


def test_calls_begun_before_the_breaker_opened_do_not_close_it(play: Play) -> None:
    limiter = Limiter("g", breaker=BREAKER)
    play.running("slow", "slower")
    slow = [play.acquire(name, limiter) for name in ("slow", "slower")]
    fail(play, limiter, 4)
    play.later()
    for permit in slow:
        play.release(permit)
    assert play.state(limiter).state == "half_open"


def test_calls_begun_before_the_breaker_opened_do_not_open_it_again(play: Play) -> None:
    limiter = Limiter("g", breaker=BREAKER)
    slow_ones = [f"slow{n}" for n in range(5)]
    play.running(*slow_ones, "a", "b")
    slow = [play.acquire(name, limiter) for name in slow_ones]
    fail(play, limiter, 4)
    play.later()
    for name in ("a", "b"):
        play.release(play.acquire(name, limiter, created=0))
    for permit in slow:
        play.release(permit, "failed")
    state = play.state(limiter)
    assert (state.state, state.failures) == ("closed", 0)


def test_waiting_tasks_start_gradually_after_an_open_breaker(play: Play) -> None:
    limiter = Limiter("g", breaker=BREAKER)
    names = [f"t{n:03}" for n in range(100)]
    play.running(*names)
    fail(play, limiter, 4)
    for n, name in enumerate(names):
        play.wait(name, limiter, created=100 + n)
    assert play.called() == []
    play.later()
    play.tend()
    probes = play.called()
    assert probes == names[:2]
    permits = [play.acquire(name, limiter, created=0) for name in probes]
    play.release(permits[0])
    assert play.called() == []
    play.release(permits[1])
    assert play.called() == names[2:4]  # a success hands over two permits
    play.tend()
    assert play.called() == names[4:24]
    assert play.state(limiter).waiting == 76

"""What gates promise, on the scripts: workers, tasks and time are played, Redis is real."""

from __future__ import annotations

import random
import time
from collections import Counter

import pytest

from sytq import Breaker, Gate, Passage, Retry
from sytq.broker.gates import Gates, PassageOutcome, gate_keys
from sytq.broker.gatestates import GateState, read_gates
from sytq.errors import InvalidInput, RedisUnavailable
from tests.broker.bench import LIVENESS_MS, Bench, Item
from tests.servers import poll

ONE = Gate("provider:one", running=1)
TWO = Gate("provider:two", running=2)
QUICK = Breaker(max_requests=2, interval=60, timeout=0.2, fail_threshold=0.5, min_calls=4)


class Play:
    """Workers with tasks at gates."""

    def __init__(self, url: str) -> None:
        self.bench = Bench(url)
        self.gates = Gates(self.bench.redis, self.bench.keys, LIVENESS_MS / 1000, ["q"])
        self.started: dict[str, tuple[str, Item]] = {}
        self.created: dict[str, int] = {}  # whoever is first to ask is the oldest, unless a test says otherwise

    def submit(self, *names: str) -> None:
        for name in names:
            self.bench.enter(name, most=0)

    def start(self, worker: str = "w", room: int = 1000, sweep: bool = False) -> list[str]:
        """Fetch what waits, and return its names."""
        found = self.bench.fetch(worker, room=room, sweep=sweep)
        for name, item in found.items():
            self.started[name] = (worker, item)
        return list(found)

    def running(self, *names: str, worker: str = "w") -> None:
        self.submit(*names)
        assert sorted(self.start(worker)) == sorted(names)

    def passage(self, name: str, *gates: Gate, units: int = 0, created: int | None = None) -> Passage:
        self.created.setdefault(name, len(self.created) + 1 if created is None else created)
        token = int(self.started[name][1][6])
        return Passage(name, token, self.created[name], gates, units)

    def enter(self, name: str, *gates: Gate, units: int = 0, created: int | None = None) -> Passage:
        passage = self.passage(name, *gates, units=units, created=created)
        self.gates.enter(passage)
        return passage

    def refused(self, name: str, *gates: Gate, units: int = 0, created: int | None = None) -> Retry:
        with pytest.raises(Retry) as caught:
            self.enter(name, *gates, units=units, created=created)
        assert caught.value.counts is False
        return caught.value

    def leave(self, passage: Passage, outcome: PassageOutcome = "ok", units: int | None = None) -> None:
        passage.report(outcome, units=units)
        self.gates.leave(passage)

    def settle(self, name: str, kind: str = "done", after: float = 0.0) -> None:
        worker, item = self.started.pop(name)
        assert self.bench.settle(worker, item, kind, delay_ms=int(after * 1000)) == 1

    def wait(self, name: str, *gates: Gate, units: int = 0, created: int | None = None) -> Retry:
        """Be refused, and wait as the worker lets it."""
        refusal = self.refused(name, *gates, units=units, created=created)
        assert isinstance(refusal.after, float)
        self.settle(name, "retry", refusal.after)
        return refusal

    def called(self) -> list[str]:
        """The waiting tasks whose time is now, in the order in which they start."""
        self.bench.promote()
        return self.start()

    def tend(self) -> None:
        keys = self.bench.keys
        self.bench.redis.ask("ZADD", keys.gates_due, "XX", 0, *self._known()) if self._known() else None
        self.bench.redis.call("gate_tend", [*gate_keys(keys), keys.delayed("q")], [LIVENESS_MS, 1000, "q"])

    def _known(self) -> list[object]:
        known = self.bench.redis.ask("ZRANGE", self.bench.keys.gates_due, 0, -1)
        return [part for name in known for part in (0, name)][1:]

    def state(self, gate: Gate) -> GateState:
        (state,) = read_gates(self.bench.redis, self.bench.keys, gate.name)
        return state


@pytest.fixture
def play(redis_url: str) -> Play:
    return Play(redis_url)


# -- running


def test_no_more_than_the_limit_are_inside(play: Play) -> None:
    play.running("a", "b", "c")
    inside = [play.enter("a", TWO), play.enter("b", TWO)]
    refusal = play.refused("c", TWO)
    assert str(refusal) == "waiting for provider:two: 2 of 2 run"
    play.leave(inside[0])
    assert play.state(TWO).running == 1


def test_all_gates_or_none(play: Play) -> None:
    play.running("a", "b", "c")
    wide = Gate("host:wide", running=5)
    play.enter("a", wide, ONE)
    assert "provider:one" in str(play.refused("b", wide, ONE))
    assert play.state(wide).running == 1
    play.enter("c", wide)
    assert play.state(wide).running == 2


def test_a_script_that_ran_twice_lets_in_and_out_once(play: Play) -> None:
    gate = Gate("g", running=2, calls=10, units=100, breaker=Breaker(min_calls=100))
    play.running("a")
    passage = play.passage("a", gate, units=5)
    for _ in range(2):
        play.gates.enter(passage)
    state = play.state(gate)
    assert (state.running, state.calls_in_window, state.units_in_window) == (1, 1, 5)
    begun = passage.begun_ms
    for _ in range(2):
        play.leave(passage, "failed", units=7)
        passage.begun_ms, play.gates._inside[passage.id] = begun, passage
    state = play.state(gate)
    assert (state.running, state.units_in_window, state.failures) == (0, 7, 1)


def test_a_later_start_of_a_task_has_the_place_of_the_one_before(play: Play) -> None:
    play.running("a", worker="dead")
    play.enter("a", ONE)
    play.bench.silence("dead")
    assert play.start("w", sweep=True) == ["a"]
    play.enter("a", ONE)
    assert play.state(ONE).running == 1


def test_the_place_of_a_start_that_ended_without_leaving_is_free(play: Play) -> None:
    play.running("a", "b")
    play.enter("a", ONE)
    play.settle("a")
    play.enter("b", ONE)
    assert play.state(ONE).running == 1


def test_the_place_of_a_killed_worker_is_free_once_its_heartbeat_is_stale(play: Play) -> None:
    play.running("a", worker="dead")
    play.running("b")
    play.enter("a", ONE)
    play.refused("b", ONE)
    play.bench.silence("dead")
    time.sleep(0.25)  # places are looked through at most five times a second
    play.enter("b", ONE)
    assert play.state(ONE).running == 1


def test_while_nobody_could_give_a_heartbeat_nobody_is_taken_for_dead(play: Play) -> None:
    play.running("a", "b")
    play.enter("a", ONE)
    keys = play.bench.keys
    play.bench.redis.ask("ZADD", keys.workers, play.bench.now_ms() - 3 * LIVENESS_MS, "w")  # Redis was away so long
    play.refused("b", ONE)


# -- the line


def test_who_waits_is_called_when_a_passage_ends(play: Play) -> None:
    play.running("a", "b", "c")
    first = play.enter("a", ONE)
    for name in ("b", "c"):
        assert play.wait(name, ONE).after > 5
    assert play.called() == []
    play.leave(first)
    assert play.called() == ["b"]
    play.leave(play.enter("b", ONE, created=2))
    assert play.called() == ["c"]
    assert play.state(ONE).waiting == 1  # and the place is kept for it
    play.enter("c", ONE, created=3)
    assert (play.state(ONE).waiting, play.state(ONE).running) == (0, 1)


def test_a_newcomer_does_not_overtake(play: Play) -> None:
    play.running("a", "b", "new")
    first = play.enter("a", ONE)
    play.wait("b", ONE, created=50)
    play.leave(first)  # the place is b's now, which is on its way
    assert "1 are ahead" in str(play.refused("new", ONE, created=60))
    play.called()
    play.enter("b", ONE, created=50)


def test_an_older_task_need_not_wait_behind_younger_ones(play: Play) -> None:
    play.running("a", "b", "old")
    first = play.enter("a", ONE)
    play.wait("b", ONE, created=50)
    play.leave(first)
    play.enter("old", ONE, created=40)
    play.called()
    play.refused("b", ONE, created=50)
    assert play.state(ONE).running == 1


def test_a_place_that_becomes_free_before_the_refused_task_is_settled_does_not_strand_it(play: Play) -> None:
    play.running("a", "b")
    first = play.enter("a", ONE)
    refusal = play.refused("b", ONE)
    play.leave(first)
    assert isinstance(refusal.after, float)
    play.settle("b", "retry", refusal.after)
    assert play.called() == ["b"]


def test_its_own_retry_is_not_hastened_by_a_promise_of_before(play: Play) -> None:
    play.running("a", "b")
    first = play.enter("a", ONE)
    play.wait("b", ONE)
    play.leave(first)
    assert play.called() == ["b"]
    play.settle("b", "retry", 30)  # the database was away, say, before it came to the gate
    time.sleep(0.01)
    play.tend()
    assert play.called() == []


def test_a_promise_that_nobody_keeps_goes_to_the_next(play: Play) -> None:
    play.running("a", "b", "c")
    first = play.enter("a", ONE)
    play.wait("b", ONE)
    play.wait("c", ONE)
    play.leave(first)
    assert play.called() == ["b"]  # and does not come to the gate
    redis, keys = play.bench.redis, play.bench.keys
    redis.ask("ZADD", keys.gates_promises, play.bench.now_ms() - 1, "b")  # 5 s later
    play.tend()
    assert play.called() == ["c"]
    play.enter("c", ONE, created=3)
    play.refused("b", ONE, created=2)


def test_a_cancelled_task_is_passed_over(play: Play) -> None:
    play.running("a", "b", "c")
    first = play.enter("a", ONE)
    play.wait("b", ONE)
    play.wait("c", ONE)
    assert play.bench.operations.cancel("b", "ann") == "cancelled"
    play.leave(first)
    assert play.called() == ["c"]
    assert play.bench.redis.ask("HLEN", play.bench.keys.gates_waiting) == 1


def test_who_waits_for_one_gate_holds_no_place_at_another(play: Play) -> None:
    provider = Gate("provider:p", running=2)
    narrow, wide = Gate("model:narrow", running=1), Gate("model:wide", running=5)
    play.running(*"abcdef")
    play.enter("a", provider, narrow)
    for name in "bcd":
        play.wait(name, provider, narrow)
    play.enter("e", provider, wide)
    assert play.state(provider).waiting == 0


def test_a_task_is_called_only_when_all_its_gates_have_room(play: Play) -> None:
    provider, model = Gate("provider:p", running=2), Gate("model:m", running=1)
    play.running(*"abcd")
    a, b = play.enter("a", provider, model), play.enter("b", provider)
    play.wait("c", provider, model, created=10)
    play.leave(a)
    assert play.called() == ["c"]
    c = play.enter("c", provider, model, created=10)
    play.wait("d", provider, model, created=11)
    play.running("e")
    play.wait("e", provider, created=12)
    play.leave(b)  # room at the provider: not for d, whose model is full
    assert play.called() == ["e"]
    e = play.enter("e", provider, created=12)
    play.running("f")
    play.leave(c)
    assert play.called() == ["d"]
    play.enter("d", provider, model, created=11)
    assert play.state(provider).running == 2
    play.leave(e)


def test_who_is_next_at_a_full_gate_moves_to_its_line(play: Play) -> None:
    provider, model = Gate("provider:p", running=2), Gate("model:m", running=1)
    play.running(*"abcd")
    a, b = play.enter("a", provider, model), play.enter("b", provider)
    play.wait("d", provider, model, created=11)
    play.settle("a")  # its worker never said that it left, and somebody else has its place at the provider
    assert a.begun_ms
    play.running("x")
    time.sleep(0.25)
    play.enter("x", provider, created=1)
    time.sleep(0.25)
    play.tend()
    assert (play.state(model).waiting, play.state(provider).waiting) == (0, 1)
    play.leave(b)
    assert play.called() == ["d"]


def test_tasks_of_other_queues_are_called_too(redis_url: str) -> None:
    play = Play(redis_url)
    play.running("a", "b")
    first = play.enter("a", ONE)
    play.wait("b", ONE)
    play.gates._queues = ["other"]  # a worker that does not know the queue of b leaves that to others
    play.leave(first)
    assert play.called() == []
    play.tend()
    assert play.called() == ["b"]


# -- windows


def test_calls_within_a_window(play: Play) -> None:
    gate = Gate("g", calls=3, window=0.6)
    names = [f"t{n}" for n in range(5)]
    play.running(*names)
    for name in names[:3]:
        play.leave(play.enter(name, gate))
    refusal = play.wait(names[3], gate)
    assert str(refusal) == "waiting for g: 3 of 3 calls in 0.6 s"
    assert "1 are ahead" in str(play.wait(names[4], gate))
    assert play.state(gate).calls_in_window == 3
    time.sleep(0.7)
    play.tend()
    assert sorted(play.called()) == names[3:]
    for n in (3, 4):
        play.enter(names[n], gate, created=n + 1)


def test_units_are_reserved_and_corrected(play: Play) -> None:
    gate = Gate("g", units=100, window=60)
    play.running("a", "b", "c", "d")
    a = play.enter("a", gate, units=60)
    assert "60 of 100 units in 60 s, wants 50" in str(play.refused("b", gate, units=50, created=9))
    play.leave(a, units=30)
    assert play.state(gate).units_in_window == 30
    play.enter("b", gate, units=50, created=9)
    play.refused("c", gate, units=30)
    play.enter("d", gate, units=20, created=0)


def test_what_wants_more_than_a_whole_window_goes_alone(play: Play) -> None:
    gate = Gate("g", units=100, window=60)
    play.running("a", "b")
    play.enter("a", gate, units=500)
    play.refused("b", gate, units=1)


def test_waiting_for_a_window_is_given_a_time_by_the_position(play: Play) -> None:
    gate = Gate("g", calls=2, window=10)
    play.running(*(f"t{n}" for n in range(10)))
    for n in range(2):
        play.enter(f"t{n}", gate)
    waits = [float(play.wait(f"t{n}", gate).after or 0) for n in range(2, 10)]
    # (10, 10, 20, 20, ...) s of estimate; the fallback is a fifth and 5 s later, and up to a tenth of jitter.
    for n, wait in enumerate(waits):
        estimate = 10 * (1 + n // 2)
        assert estimate * 1.15 + 4 < wait < (estimate * 1.2 + 5) * 1.1 + 1


# -- adaptive


def test_an_adaptive_limit_rises_with_success_and_halves_once_a_round(play: Play) -> None:
    gate = Gate("g", running=40, adaptive=True)
    play.running(*(f"t{n}" for n in range(100)))
    inside = [play.enter(f"t{n}", gate) for n in range(10)]
    play.refused("t99", gate)
    assert play.state(gate).limit_now == 10
    for passage in inside:
        play.leave(passage)
    risen = play.state(gate).limit_now
    assert 12 <= risen <= 20  # only while the limit is nearly used
    inside = [play.enter(f"t{n}", gate, created=0) for n in range(20, 20 + risen - 1)]
    for passage in inside:
        play.leave(passage, "overloaded")
    assert play.state(gate).limit_now == risen // 2
    time.sleep(0.01)
    play.leave(play.enter("t60", gate, created=0), "overloaded")
    assert play.state(gate).limit_now == risen // 4


def test_an_adaptive_limit_stays_between_one_and_the_configured(play: Play) -> None:
    gate = Gate("g", running=3, adaptive=True)
    play.running(*(f"t{n}" for n in range(40)))
    for n in range(10):
        pair = [play.enter(f"t{2 * n}", gate, created=0), play.enter(f"t{2 * n + 1}", gate, created=0)]
        for passage in pair:
            play.leave(passage)
    assert play.state(gate).limit_now == 3
    for n in range(20, 30):
        time.sleep(0.003)
        play.leave(play.enter(f"t{n}", gate, created=0), "overloaded")
    assert play.state(gate).limit_now == 1
    play.enter("t30", gate, created=0)


# -- breaker


def fail(play: Play, gate: Gate, times: int, outcome: PassageOutcome = "failed") -> None:
    for n in range(times):
        name = f"f{len(play.created)}-{n}"
        play.running(name)
        play.leave(play.enter(name, gate, created=0), outcome)


def test_the_breaker_opens_at_its_threshold_and_not_before(play: Play) -> None:
    gate = Gate("g", breaker=QUICK)
    fail(play, gate, 2, "ok")
    fail(play, gate, 1)
    assert play.state(gate).state == "closed"
    fail(play, gate, 1, "ignored")  # says nothing
    assert play.state(gate).state == "closed"
    fail(play, gate, 1, "overloaded")
    state = play.state(gate)
    assert (state.state, state.reason) == ("open", "2 of 4 calls failed")
    play.running("a")
    refusal = play.refused("a", gate)
    assert str(refusal) == "waiting for g: its circuit breaker is open, 2 of 4 calls failed"


def test_an_old_count_is_forgotten_after_the_interval(play: Play) -> None:
    gate = Gate("g", breaker=Breaker(interval=0.1, min_calls=4))
    fail(play, gate, 3)
    time.sleep(0.15)
    fail(play, gate, 3)
    assert play.state(gate).state == "closed"
    fail(play, gate, 1)
    assert play.state(gate).state == "open"


def test_half_open_lets_so_many_through_and_closes_when_all_succeed(play: Play) -> None:
    gate = Gate("g", breaker=QUICK)
    fail(play, gate, 4)
    time.sleep(0.25)
    assert play.state(gate).state == "half_open"
    play.running("a", "b", "c", "d")
    probes = [play.enter("a", gate), play.enter("b", gate)]
    assert "lets 2 calls through" in str(play.refused("c", gate))
    play.leave(probes[0])
    assert play.state(gate).state == "half_open"
    play.refused("d", gate)  # one success, one under way: no third
    play.leave(probes[1])
    assert play.state(gate).state == "closed"


def test_half_open_opens_again_when_one_fails(play: Play) -> None:
    gate = Gate("g", breaker=QUICK)
    fail(play, gate, 4)
    time.sleep(0.25)
    play.running("a", "b")
    probes = [play.enter("a", gate), play.enter("b", gate)]
    play.leave(probes[0], "failed")
    assert play.state(gate).state == "open"
    play.leave(probes[1])  # late: it says nothing any more
    assert play.state(gate).state == "open"


@pytest.mark.parametrize("how", ["ignored", "killed"])
def test_a_probe_that_says_nothing_does_not_block(play: Play, how: str) -> None:
    gate = Gate("g", breaker=QUICK)
    fail(play, gate, 4)
    time.sleep(0.25)
    play.running("a", "b", worker="dead")
    play.running("c", "d")
    probes = [play.enter("a", gate), play.enter("b", gate)]
    play.refused("c", gate)
    if how == "ignored":
        for passage in probes:
            play.gates.leave(passage)
    else:
        play.bench.silence("dead")
        time.sleep(0.25)
    assert play.state(gate).state == "half_open"
    for name in ("c", "d"):
        play.leave(play.enter(name, gate, created=0))
    assert play.state(gate).state == "closed"


def test_calls_begun_before_the_breaker_opened_do_not_close_it(play: Play) -> None:
    gate = Gate("g", breaker=QUICK)
    play.running("slow", "slower")
    slow = [play.enter(name, gate) for name in ("slow", "slower")]
    fail(play, gate, 4)
    time.sleep(0.25)
    for passage in slow:
        play.leave(passage)
    assert play.state(gate).state == "half_open"


def test_after_an_open_breaker_the_waiting_are_let_through_gradually(play: Play) -> None:
    gate = Gate("g", breaker=QUICK)
    fail(play, gate, 4)
    names = [f"t{n:03}" for n in range(100)]
    play.running(*names)
    for n, name in enumerate(names):
        play.wait(name, gate, created=100 + n)
    assert play.called() == []
    time.sleep(0.25)
    play.tend()
    probes = play.called()
    assert probes == names[:2]
    passages = [play.enter(name, gate, created=0) for name in probes]
    play.leave(passages[0])
    assert play.called() == []
    play.leave(passages[1])
    assert play.called() == names[2:4]  # a success calls two
    play.tend()
    assert play.called() == names[4:24]
    assert play.state(gate).waiting == 98


# -- paused


def test_a_paused_gate_lets_nobody_through_until_it_is_opened(play: Play) -> None:
    play.running("a", "b")
    assert play.gates.pause(ONE.name, "ann", "moving")
    assert not play.gates.pause(ONE.name, "bob", "moving house")
    assert str(play.wait("a", ONE)) == "waiting for provider:one: paused by bob: moving house"
    state = play.state(ONE)
    assert (state.state, state.by, state.reason, state.until) == ("paused", "bob", "moving house", None)
    assert state.waiting == 1
    play.tend()
    assert play.called() == []
    assert play.gates.open(ONE.name)
    assert not play.gates.open(ONE.name)
    play.tend()
    assert play.called() == ["a"]
    play.enter("a", ONE, created=1)


def test_a_finding_ends_by_itself_and_leaves_a_persons_pause_alone(play: Play) -> None:
    play.running("a")
    assert play.gates.pause(ONE.name, "llm 1", "402", seconds=0.2, person=False)
    assert not play.gates.pause(ONE.name, "llm 2", "402", seconds=0.3, person=False)
    assert play.state(ONE).by == "llm 1"
    play.refused("a", ONE)
    time.sleep(0.35)
    assert play.state(ONE).state == "closed"
    play.leave(play.enter("a", ONE))
    assert play.gates.pause(ONE.name, "ann", "no")
    assert not play.gates.pause(ONE.name, "llm 3", "401", seconds=0.1, person=False)
    assert not play.gates.open(ONE.name, person=False)
    assert (play.state(ONE).by, play.state(ONE).until) == ("ann", None)
    assert play.gates.open(ONE.name)
    assert play.gates.pause(ONE.name, "llm 4", "401", person=False)
    assert play.gates.open(ONE.name, person=False)


@pytest.mark.parametrize("name", ["", "a b", "a|b", "ä", "x" * 301, "a\n"])
def test_strange_names_are_refused(play: Play, name: str) -> None:
    with pytest.raises(InvalidInput):
        Gate(name)
    with pytest.raises(InvalidInput):
        play.gates.pause(name, "ann", "why")


def test_task_ids_and_gates_with_strange_characters_are_kept_apart(play: Play) -> None:
    gates = [Gate(name, running=1) for name in ("host:[::1]:80", "host:[::1]:8", "model:a/b~c", "model:a/b", "a{b}(")]
    ids = ["x|0|1|5", "0|x", "x", "[x", "(x"]
    play.running(*ids, "late")
    inside = [play.enter(name, gate) for name, gate in zip(ids, gates, strict=True)]
    assert [play.state(gate).running for gate in gates] == [1] * 5
    play.wait("late", *gates)
    for passage in inside[:-1]:
        play.leave(passage)
        assert play.called() == []
    play.leave(inside[-1])
    assert play.called() == ["late"]
    play.enter("late", *gates, created=6)
    assert [play.state(gate).inside for gate in gates] == [["late"]] * 5


# -- Redis was emptied


def test_nobody_enters_an_emptied_redis_before_the_running_are_known_again(play: Play) -> None:
    redis, keys = play.bench.redis, play.bench.keys
    play.bench.beat("w")
    epoch = redis.ask("GET", keys.epoch)
    play.gates.epoch = lambda: epoch
    play.running("a", "b")
    a = play.enter("a", ONE)
    play.bench.flush()
    with pytest.raises(RedisUnavailable):
        play.enter("b", ONE)
    for name in ("a", "b"):
        play.bench.adopt("w", play.started[name][1])
    play.bench.beat("w")
    epoch = redis.ask("GET", keys.epoch)
    play.gates._liveness = 0.2
    play.gates.enter_again()
    assert play.state(ONE).running == 1
    assert "Redis was emptied" in str(play.refused("b", ONE))
    time.sleep(0.25)
    play.gates._liveness = LIVENESS_MS / 1000
    assert "1 of 1 run" in str(play.refused("b", ONE))
    play.leave(a)
    play.enter("b", ONE, created=2)


# -- housekeeping


def test_an_idle_gate_leaves_nothing_behind(play: Play) -> None:
    gate = Gate("g", running=1, adaptive=True, calls=5, units=5, window=60, breaker=QUICK)
    redis, keys = play.bench.redis, play.bench.keys
    play.running("a", "b")
    a = play.enter("a", gate)
    play.wait("b", gate)
    play.leave(a)
    play.called()
    play.leave(play.enter("b", gate, created=2))
    play.tend()
    assert play.state(gate).state == "closed"
    kept = redis.ask("HGET", keys.gates, "g").replace(b'"idle":1', b'"idle":0')  # an hour ago, and more
    redis.ask("HSET", keys.gates, "g", kept)
    play.tend()
    left = [key for key in redis.ask("KEYS", "*gates*")]
    assert left == []


def test_a_paused_gate_is_not_forgotten(play: Play) -> None:
    play.gates.pause("g", "ann", "why")
    redis, keys = play.bench.redis, play.bench.keys
    play.tend()
    assert b"idle" not in redis.ask("HGET", keys.gates, "g")


def test_the_loop_is_told_when_to_come_again(play: Play) -> None:
    keys = play.bench.keys
    names = [*gate_keys(keys), keys.delayed("q")]
    assert play.bench.redis.call("gate_tend", names, [LIVENESS_MS, 20, "q"]) == [0, -1]
    play.running("a", "b")
    play.enter("a", ONE)
    play.wait("b", ONE)
    looked, wait = play.bench.redis.call("gate_tend", names, [LIVENESS_MS, 20, "q"])
    assert (looked, 0 < wait <= 500) == (0, True)


# -- all together


def test_many_at_a_gate_are_refused_about_once_each(play: Play) -> None:
    """Fifty at once of a thousand: who waits is called one by one, and hardly ever in vain."""
    gate = Gate("g", running=50)
    names = [f"t{n:04}" for n in range(1000)]
    for start in range(0, 1000, 200):
        play.submit(*names[start : start + 200])
    refusals: Counter[str] = Counter()
    inside: list[tuple[str, Passage]] = []
    done: list[str] = []
    random.seed(1)
    while len(done) < len(names):
        for name in play.called() + play.start():
            try:
                inside.append((name, play.enter(name, gate, created=int(name[1:]))))
            except Retry as refusal:
                refusals[name] += 1
                play.settle(name, "retry", float(refusal.after or 0))
        assert 0 < len(inside) <= 50
        name, passage = inside.pop(random.randrange(len(inside)))
        play.leave(passage)
        play.settle(name)
        done.append(name)
    assert max(refusals.values()) <= 2
    assert sum(refusals.values()) <= 1000


def test_many_at_a_window_are_not_refused_time_and_again(play: Play) -> None:
    gate = Gate("g", calls=20, window=1)
    names = [f"t{n:03}" for n in range(100)]
    play.running(*names)
    refusals: Counter[str] = Counter()
    entered: list[float] = []
    todo = list(names)
    deadline = time.monotonic() + 30

    def turn() -> bool:
        for name in todo:
            try:
                passage = play.enter(name, gate, created=int(name[1:]))
            except Retry as refusal:
                refusals[name] += 1
                play.settle(name, "retry", float(refusal.after or 0))
            else:
                assert passage.begun_ms
                entered.append(passage.begun_ms)
                play.leave(passage)
                play.settle(name)
        play.tend()
        todo[:] = play.called()
        assert time.monotonic() < deadline
        return len(entered) == len(names)

    poll(turn, timeout=30, interval=0.1)
    assert max(refusals.values()) <= 3
    assert sum(refusals.values()) <= 150
    for n, moment in enumerate(entered[20:]):
        assert moment - entered[n] >= 1000, "more than 20 began within a second"

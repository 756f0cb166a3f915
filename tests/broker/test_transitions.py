"""The scripts, called as two workers call them: each task has one place, and only its holder moves it."""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import dramatiq
import pytest

from sytq.broker.dispatcher import Envelope
from sytq.broker.inspection import Inspection, Suspects
from sytq.broker.keys import GROUP, RECORDER
from sytq.states import PRIORITIES
from tests.broker.bench import LEASE_MS, Bench


def test_repeated_dispatch_enqueues_once(bench: Bench) -> None:
    assert (bench.dispatch("a"), bench.dispatch("a")) == (1, 0)
    assert bench.waiting() == 1


def test_message_in_the_stream_is_a_dramatiq_message(bench: Bench) -> None:
    bench.dispatch("a")
    ((_, fields),) = bench.redis.ask("XRANGE", bench.streams[2], "-", "+")
    message = dramatiq.Message.decode(fields[b"message"])
    assert (message.message_id, message.actor_name, message.queue_name) == ("a", "t", "q")
    assert message.args == ({},)


def test_fetch_follows_priority_order_and_free_slots(bench: Bench) -> None:
    for priority in reversed(PRIORITIES):
        bench.dispatch(priority, priority)
    assert [next(iter(bench.fetch("w", slots=1))) for _ in PRIORITIES] == list(PRIORITIES)
    assert bench.fetch("w") == {}


def test_p5_redis_older_than_at_the_last_look_starts_nothing(bench: Bench) -> None:
    bench.dispatch("a")
    bench.redis.ask("SET", bench.keys.recorded, 1000)  # of an older copy that took its place between two looks
    assert bench.fetch("w", recorded=2000, sweep=True) == {}
    bench.redis.ask("DEL", bench.keys.recorded)  # it was emptied instead
    assert bench.fetch("w", recorded=2000).keys() == {"a"}


def test_xlen_lag_and_xpending_show_the_state_of_a_queue(bench: Bench) -> None:
    for name in "abc":
        bench.dispatch(name)
    taken = bench.fetch("w", slots=1)
    stream = bench.streams[2]
    assert bench.redis.ask("XLEN", stream) == 3  # not yet finished
    groups = bench.redis.client.xinfo_groups(stream)
    assert groups[0].get("lag", 2) == 2  # not yet fetched (Redis 6.2 has no lag)
    assert bench.redis.ask("XPENDING", stream, GROUP)["pending"] == 1  # being worked on
    bench.ack("w", taken["a"], "done")
    assert bench.redis.ask("XLEN", stream) == 2


@pytest.mark.parametrize(
    ("kind", "state", "waiting"), [("done", "succeeded", 0), ("dead", "dead", 0), ("cancelled", "cancelled", 0)]
)
def test_ended_task_keeps_its_state_and_writes_one_event(bench: Bench, kind: str, state: str, waiting: int) -> None:
    bench.dispatch("a")
    item = bench.fetch("w")["a"]
    assert bench.ack("w", item, kind) == 1
    assert bench.live("a")[0] == state
    assert bench.waiting() == waiting
    assert [event[b"kind"] for event in bench.events()] == [b"started", b"ended"]
    assert bench.dispatch("a") == 0  # a finished task does not look unknown


def test_a_repeated_acknowledgement_changes_nothing(bench: Bench) -> None:
    bench.dispatch("a")
    item = bench.fetch("w")["a"]
    assert [bench.ack("w", item, "retry", 1000) for _ in range(3)] == [1, 0, 0]
    assert bench.redis.ask("ZCARD", bench.keys.delayed("q")) == 1
    assert len(bench.events()) == 2


def test_retrying_task_leaves_the_worker_and_keeps_its_attempts(bench: Bench) -> None:
    bench.dispatch("a")
    first = bench.fetch("w")["a"]
    bench.ack("w", first, "retry", 0)
    assert bench.live("a")[0] == "retrying"
    assert bench.promote()[0] == 1
    second = bench.fetch("v")["a"]
    assert (first[4], second[4]) == (1, 2)
    assert int(second[6]) > int(first[6])  # each attempt raises the fencing token


def test_returned_task_consumes_no_attempt(bench: Bench) -> None:
    bench.dispatch("a")
    bench.ack("w", bench.fetch("w")["a"], "return", attempts=0)
    assert bench.fetch("v")["a"][4] == 1


@pytest.mark.parametrize("kind", ["done", "retry", "dead", "cancelled", "return"])
def test_p6_worker_cannot_acknowledge_a_lost_task(bench: Bench, kind: str) -> None:
    bench.dispatch("a")
    lost = bench.fetch("gone")["a"]
    bench.expire_lease("gone")
    taken = bench.fetch("heir", sweep=True)["a"]
    before = bench.live("a"), bench.events()
    assert bench.ack("gone", lost, kind) == 0
    assert (bench.live("a"), bench.events()) == before
    assert bench.ack("heir", taken, "done") == 1


@pytest.mark.parametrize("kind", ["done", "retry", "dead", "cancelled", "return"])
def test_p6_earlier_attempt_on_the_same_worker_is_refused(bench: Bench, kind: str) -> None:
    bench.dispatch("a")
    lost = bench.fetch("w")["a"]
    bench.expire_lease("w")
    bench.ack("heir", bench.fetch("heir", sweep=True)["a"], "return", attempts=1)
    current = bench.fetch("w")["a"]
    before = bench.live("a"), bench.events()
    assert bench.ack("w", lost, kind) == 0
    assert (bench.live("a"), bench.events()) == before
    assert bench.ack("w", current, "done") == 1


def test_p6_a_stranger_with_the_right_token_is_refused(bench: Bench) -> None:
    bench.dispatch("a")
    item = bench.fetch("w")["a"]
    assert bench.ack("stranger", item, "done") == 0
    assert bench.ack("w", item, "done") == 1


@pytest.mark.parametrize(("silent_ms", "taken"), [(LEASE_MS // 2, []), (LEASE_MS + 1, ["a"])])
def test_p3_a_task_is_taken_over_when_its_lease_is_over(bench: Bench, silent_ms: int, taken: list[str]) -> None:
    bench.dispatch("a")
    bench.fetch("w")
    bench.heartbeat("v")
    bench.advance(silent_ms, silent="w")
    assert list(bench.fetch("v", sweep=True)) == taken


def test_p3_fetches_take_over_10000_tasks_of_a_dead_worker_at_once(bench: Bench) -> None:
    tasks = [Envelope(f"t{n}", "t", "q", PRIORITIES[n % 4], "{}", 1, max_attempts=1) for n in range(10_000)]
    for first in range(0, len(tasks), 500):
        bench.dispatcher.dispatch(tasks[first : first + 500])
    held = set()
    while taken := bench.fetch("dead", slots=500):
        held |= taken.keys()
    bench.dispatch("new", "urgent")
    bench.expire_lease("dead")
    heirs, seconds = Counter[str](), []
    for heir in itertools.cycle(("v", "w", "x")):
        began = time.perf_counter()
        taken = bench.fetch(heir, slots=100, sweep=2 if heirs[heir] else True)
        seconds.append(time.perf_counter() - began)
        heirs[heir] += len(taken)
        held -= taken.keys()
        assert not ("new" in taken and held), "what a dead worker held starts before what is new"
        if not bench.left:
            break
    assert not held
    assert min(heirs.values()) >= 3000, "all fetching workers share the tasks"
    assert statistics.median(seconds) < 0.05, "a call of the script keeps Redis for a few milliseconds"


def test_lost_fetch_reply_is_recovered_by_the_next_sweep(bench: Bench) -> None:
    bench.dispatch("a")
    bench.dispatch("b")
    lost = bench.fetch("w", slots=1)["a"]
    held = bench.fetch("w", slots=1)["b"]
    again = bench.fetch("w", sweep=True, held=[(held[0], held[1].decode())])
    assert list(again) == ["a"]
    assert (again["a"][1], again["a"][4]) == (lost[1], 1), "the same entry, and still its first attempt"
    assert int(again["a"][6]) > int(lost[6])


def test_lost_fetch_replies_consume_no_attempt_and_count_no_crash(bench: Bench) -> None:
    for name, max_attempts in (("once", 1), ("unbounded", 0)):
        bench.dispatch(name, max_attempts=max_attempts)
    bench.fetch("w")
    for _ in range(6):
        assert set(bench.fetch("w", sweep=True)) == {"once", "unbounded"}
    bench.expire_lease("w")
    again = bench.fetch("v", sweep=True)
    assert {name: item[4] for name, item in again.items()} == {"once": 1, "unbounded": 1}


def crash(bench: Bench, worker: str) -> None:
    """A worker dies, and another one looks for what it held."""
    bench.expire_lease(worker)
    bench.fetch("nobody", slots=100, sweep=True)
    bench.heartbeat("nobody", leaving=1)


def suspects(bench: Bench, *names: str, **options: Any) -> None:
    """Tasks whose workers died twice."""
    for name in names:
        bench.dispatch(name, **options)
    bench.fetch("first", slots=100)
    bench.expire_lease("first")
    assert set(bench.fetch("second", slots=100, sweep=True)) == set(names), "a first crash changes nothing"
    bench.expire_lease("second")
    assert bench.fetch("third", slots=100, sweep=True) == {}


def test_p8_only_crashes_alone_count_and_the_third_ends_a_task(bench: Bench) -> None:
    suspects(bench, "a", max_attempts=1)
    live = bench.live("a")
    assert live is not None and (live[0], live[4], live[7], live[8]) == ("queued", "0", "suspect", "")
    for n in range(3):
        item = bench.isolate(f"alone-{n}")["a"]
        assert (item[4], item[5]) == (1, 1), "the same attempt begins again"
        assert bench.isolate("other") == {}
        bench.redis.ask("ZREM", bench.keys.workers, f"alone-{n}")  # its parent saw it die
        bench.redis.ask("HSET", bench.keys.departed, f"alone-{n}", '{"how": "killed by SIGSEGV", "log": "last words"}')
        assert bench.fetch("heir", sweep=True) == {}
    ended = json.loads(bench.events()[-1][b"data"])
    assert (ended["state"], ended["fingerprint"], ended["attempts"]) == ("dead", "worker-died", 1)
    assert ended["error"].endswith("ran alone in it: killed by SIGSEGV")
    assert ended["detail"] == {"log": "last words"}
    seen = bench.see()
    assert (seen.waiting, seen.pending, seen.parked) == ([], [], {})
    bench.read_events()
    bench.advance(1)
    bench.forget()
    assert bench.isolate("last") == {}
    assert bench.redis.ask("EXISTS", bench.keys.crashes, bench.keys.suspects("q")) == 0


@pytest.mark.parametrize("culprits", [{"t0"}, {"t17"}, {"t39"}, {"t3", "t20", "t21"}])
def test_p8_bystanders_of_poison_tasks_all_succeed_with_one_attempt(bench: Bench, culprits: set[str]) -> None:
    names = [f"t{n}" for n in range(40)]
    suspects(bench, *names)
    rounds, done = 0, set()
    while taken := bench.isolate(f"alone-{rounds}"):
        if culprits & taken.keys():
            crash(bench, f"alone-{rounds}")
        else:
            assert all(bench.ack(f"alone-{rounds}", item, "done") for item in taken.values())
            done |= taken.keys()
        rounds += 1
    assert {name: bench.live(name)[0] for name in culprits} == dict.fromkeys(culprits, "dead")  # type: ignore[index]
    assert done == set(names) - culprits
    assert {bench.live(name)[4] for name in names} == {"1"}  # type: ignore[index]
    assert rounds <= len(culprits) * (6 + 3) + 6, "halving bounds how long they wait"


def test_stop_of_a_worker_that_is_killed_meanwhile_is_no_crash(bench: Bench) -> None:
    bench.dispatch("a")
    bench.fetch("w")
    for n in range(5):
        bench.heartbeat("w", leaving=2)
        crash(bench, "w")
        assert bench.redis.ask("HLEN", bench.keys.crashes) == 0
        assert bench.fetch("w", sweep=True)["a"][4] == 1, n


def test_crash_of_a_suspended_worker_is_taken_back_when_it_resumes(bench: Bench) -> None:
    bench.dispatch("a")
    bench.fetch("w")
    for _ in range(3):
        bench.expire_lease("w")
        assert "a" in bench.fetch("heir", sweep=True)
        bench.heartbeat("w", held=["a"])
        bench.heartbeat("heir", leaving=1)
        assert "a" in bench.fetch("w", sweep=True)


def test_p8_task_that_silences_every_worker_for_a_while_ends_dead(bench: Bench) -> None:
    bench.dispatch("a")
    starts = 0
    while found := bench.fetch(f"w{starts}", sweep=True) or bench.isolate(f"w{starts}"):
        if starts:
            bench.heartbeat(f"w{starts - 1}", held=["a"])  # silent for longer than its lease, and not dead
        assert found["a"][4] == 1
        bench.expire_lease(f"w{starts}")
        starts += 1
        assert starts < 10, "a task starts again without end"
    live = bench.live("a")
    assert live is not None and live[0] == "dead"


def test_failure_while_its_worker_lives_clears_a_suspect(bench: Bench) -> None:
    suspects(bench, "a")
    bench.ack("alone", bench.isolate("alone")["a"], "retry", 0)
    bench.promote()
    assert bench.fetch("w")["a"][4] == 2


@pytest.mark.parametrize("kind", ["return", "wait"])
def test_suspect_that_waits_or_returns_still_runs_alone(bench: Bench, kind: str) -> None:
    suspects(bench, "a")
    bench.ack("alone", bench.isolate("alone")["a"], kind, 0, attempts=0)
    bench.promote()
    bench.dispatch("b")
    assert list(bench.fetch("w")) == ["b"]
    assert bench.isolate("alone")["a"][4] == 1


def test_suspects_obey_queue_limit_pause_and_cancellation(bench: Bench) -> None:
    suspects(bench, "a", "b", "c")
    for name in ("d", "e"):
        bench.dispatch(name)
    assert len(bench.fetch("w", limit=2)) == 1, "one place is a suspect's"
    assert list(bench.isolate("alone", limit=2)) == ["a"]
    assert bench.isolate("alone", limit=2) == {}
    bench.limiters.pause("type:t", "ann", "moving")
    assert bench.isolate("alone") == {}
    bench.dispatch("f")
    assert bench.fetch("v", limit=3) == {}
    assert bench.redis.ask("EXISTS", bench.keys.suspects("q")) == 0, "it has no place in the queue meanwhile"
    assert bench.operations.cancel("b", "ann") == "cancelled"
    bench.limiters.resume("type:t")
    bench.tend()
    assert list(bench.fetch("v")) == ["e", "f"]
    assert list(bench.isolate("alone")) == ["c"]


def test_suspects_that_wait_are_shown_beside_parked_tasks(bench: Bench) -> None:
    inspection = Inspection(bench.redis, bench.keys, ["q", "other"], {})
    assert inspection.suspects() == {"q": Suspects(0, None), "other": Suspects(0, None)}
    suspects(bench, "a", "b")
    live = inspection.live(["a"])["a"]
    assert (live.state, live.worker, live.suspect, live.parked) == ("queued", None, True, False)
    shown = inspection.suspects()["q"]
    assert shown.waiting == 2
    assert shown.oldest is not None and 0 < shown.oldest < 60
    assert (inspection.parked()["q"], inspection.backlog("q")) == (0, 2)
    bench.operations.unpark()  # suspects stay where they are
    assert inspection.suspects()["q"].waiting == 2
    bench.isolate("alone")
    assert inspection.suspects()["q"].waiting == 1


def test_emptied_redis_forgets_suspicions_and_no_suspect(bench: Bench) -> None:
    suspects(bench, "a")
    item = bench.isolate("alone")["a"]
    bench.flush()
    item[1] = bench.reregister("alone", item)
    crash(bench, "alone")
    assert list(bench.fetch("w")) == []
    crash(bench, "nobody")
    assert bench.live("a") is not None


@pytest.mark.parametrize("heir", ["heir", "w"])
def test_lost_task_of_a_paused_type_waits_for_its_resumption(bench: Bench, heir: str) -> None:
    bench.dispatch("a", max_attempts=2)
    bench.fetch("w")
    bench.expire_lease("w")
    bench.limiters.pause("type:t", "ann", "moving")
    assert bench.fetch(heir, sweep=True) == {}
    assert bench.live("a")[:1] + bench.live("a")[4:5] == ["retrying", "0"]
    assert (list(bench.see().delayed), bench.waiting()) == (["a"], 0)
    said = json.loads(bench.events()[-1][b"data"])
    assert (said["state"], said["outcome"], said["worker"], said["attempts"]) == ("queued", "lost", "w", 0)
    bench.limiters.resume("type:t")
    bench.tend()
    assert bench.fetch(heir)["a"][4] == 1


def test_queue_limit_spans_all_workers_and_a_crash_frees_its_slots(bench: Bench) -> None:
    for name in "abcd":
        bench.dispatch(name)
    assert len(bench.fetch("w", limit=2)) == 2
    assert bench.fetch("v", limit=2) == {}
    bench.expire_lease("w")
    assert set(bench.fetch("v", limit=2, sweep=True)) == {"a", "b"}
    assert bench.fetch("v", limit=2) == {}


def test_due_tasks_are_promoted_and_an_earlier_due_time_notifies(bench: Bench) -> None:
    now = bench.now_ms()
    bench.dispatch("far", due_ms=now + 60_000)
    bench.dispatch("near", due_ms=now + 40_000)
    bench.dispatch("between", due_ms=now + 50_000)
    assert bench.redis.ask("XLEN", bench.keys.bell) == 1
    ((_, bell),) = bench.redis.ask("XRANGE", bench.keys.bell, "-", "+")
    assert int(bell[b"due"]) == now + 40_000
    moved, due, _ = bench.promote()
    assert moved == 0 and 0 <= due <= 40_000
    bench.advance(40_000)
    assert bench.promote()[0] == 1
    assert list(bench.fetch("w")) == ["near"]


def test_running_task_reregisters_after_a_flush_and_keeps_its_worker(bench: Bench) -> None:
    bench.dispatch("a")
    item = bench.fetch("w")["a"]
    bench.flush()
    bench.dispatch("before")  # new tasks came first
    entry = bench.reregister("w", item)
    assert bench.reregister("w", item) == entry  # the reply may get lost
    assert list(bench.fetch("v")) == ["before"]
    item[1] = entry
    assert bench.ack("w", item, "done") == 1
    assert bench.live("a")[0] == "succeeded"


def test_reregistering_creates_a_missing_consumer_group(bench: Bench) -> None:
    bench.dispatch("a")
    item = bench.fetch("w")["a"]
    bench.redis.ask("FLUSHALL")
    entry = bench.reregister("w", item)
    assert bench.redis.ask("XPENDING", bench.streams[2], GROUP)["consumers"] == [{"name": b"w", "pending": 1}]
    assert bench.live("a")[8].encode() == entry


@pytest.mark.parametrize(("kind", "accepted"), [("done", 1), ("dead", 1), ("retry", 0), ("return", 0)])
def test_emptied_redis_accepts_ends_and_refuses_retries_and_returns(bench: Bench, kind: str, accepted: int) -> None:
    bench.dispatch("a")
    item = bench.fetch("w")["a"]
    bench.redis.ask("FLUSHALL")
    assert bench.ack("w", item, kind) == accepted
    assert len(bench.events()) == accepted


def test_emptied_redis_in_use_by_other_workers_accepts_an_end(bench: Bench) -> None:
    bench.dispatch("a")
    item = bench.fetch("w")["a"]
    bench.flush()
    bench.fetch("v")
    assert bench.ack("w", item, "done") == 1


def test_p6_late_end_of_a_forgotten_task_is_refused(bench: Bench) -> None:
    bench.dispatch("a")
    lost = bench.fetch("frozen")["a"]
    bench.expire_lease("frozen")
    bench.ack("heir", bench.fetch("heir", sweep=True)["a"], "done")
    bench.read_events()
    bench.advance(1)
    bench.forget()
    counted = bench.redis.ask("HGETALL", bench.keys.stats)
    assert bench.ack("frozen", lost, "done") == 0
    assert bench.redis.ask("HGETALL", bench.keys.stats) == counted
    assert (bench.live("a"), bench.events()) == (None, [])


def test_fencing_token_exceeds_the_epoch_when_the_clock_is_set_back(bench: Bench) -> None:
    ahead = bench.now_ms() + 60_000
    bench.redis.ask("SET", bench.keys.epoch, ahead)  # as seen by the server before a failover
    bench.dispatch("a")
    assert int(bench.fetch("w")["a"][6]) > ahead


def test_progress_is_accepted_from_the_current_attempt_only(bench: Bench) -> None:
    bench.dispatch("a")
    item = bench.fetch("w")["a"]
    touch: Callable[[int], int] = lambda token: bench.redis.call(  # noqa: E731
        "touch", [bench.keys.live, bench.keys.progress, bench.keys.cancels], ["a", token, "{}"]
    )
    assert touch(int(item[6])) == 1
    assert touch(int(item[6]) - 1) == 0
    bench.ack("w", item, "done")
    assert touch(int(item[6])) == 0


def test_expired_dispatch_is_refused(bench: Bench) -> None:
    envelope = Envelope("a", "t", "q", "normal", "{}", 1)
    assert bench.dispatcher.dispatch([envelope], not_after_ms=1) == 0
    assert bench.live("a") is None


def test_ended_tasks_stay_in_the_state_index_until_recorded(bench: Bench) -> None:
    bench.dispatch("a")
    bench.ack("w", bench.fetch("w")["a"], "done")
    forget: Callable[[], int] = lambda: bench.redis.call(  # noqa: E731
        "forget", [bench.keys.events, bench.keys.live, bench.keys.progress, bench.keys.crashes], [RECORDER, "+", 100]
    )
    assert forget() == 0  # not read yet
    reply = bench.redis.ask("XREADGROUP", "GROUP", RECORDER, "r", "STREAMS", bench.keys.events, ">")
    entries = [entry for entry, _ in reply[0][1]]
    assert forget() == 0  # read, not written
    bench.redis.ask("XACK", bench.keys.events, RECORDER, *entries)
    assert forget() == 2
    assert bench.live("a") is None


def test_one_fetch_starts_a_dead_workers_task_once(bench: Bench) -> None:
    bench.dispatch("a")
    bench.fetch("a-worker")  # Redis names it before the heir, which then finds the entry among its own
    bench.expire_lease("a-worker")
    assert list(bench.fetch("heir", sweep=True)) == ["a"]
    assert (bench.live("a") or [])[4] == "1"


def test_p3_outage_does_not_expire_the_leases_of_live_workers(bench: Bench) -> None:
    bench.dispatch("a")
    bench.fetch("lives")
    bench.heartbeat("died-before")
    bench.expire_lease("died-before")
    before = bench.now_ms()
    bench.stand_still(60_000)
    assert bench.fetch("first-back", sweep=True) == {}
    assert bench.redis.ask("ZSCORE", bench.keys.workers, "lives") >= before + 60_000
    assert bench.redis.ask("ZSCORE", bench.keys.workers, "died-before") < before

"""The scripts, called as two workers would: every task in one place, and only its holder moves it."""

from __future__ import annotations

import json
from collections.abc import Callable

import dramatiq
import pytest

from sytq.broker.dispatcher import Envelope
from sytq.broker.keys import GROUP, RECORDER
from sytq.states import PRIORITIES
from tests.broker.bench import LIVENESS_MS, Bench


def test_entering_twice_is_entering_once(bench: Bench) -> None:
    assert (bench.enter("a"), bench.enter("a")) == (1, 0)
    assert bench.waiting() == 1


def test_the_message_in_the_stream_is_dramatiqs(bench: Bench) -> None:
    bench.enter("a")
    ((_, fields),) = bench.redis.ask("XRANGE", bench.streams[2], "-", "+")
    message = dramatiq.Message.decode(fields[b"message"])
    assert (message.message_id, message.actor_name, message.queue_name) == ("a", "t", "q")
    assert message.args == ({},)


def test_priorities_are_taken_in_order_and_room_is_respected(bench: Bench) -> None:
    for priority in reversed(PRIORITIES):
        bench.enter(priority, priority)
    assert [next(iter(bench.fetch("w", room=1))) for _ in PRIORITIES] == list(PRIORITIES)
    assert bench.fetch("w") == {}


def test_operators_commands_mean_what_they_say(bench: Bench) -> None:
    for name in "abc":
        bench.enter(name)
    taken = bench.fetch("w", room=1)
    stream = bench.streams[2]
    assert bench.redis.ask("XLEN", stream) == 3  # not yet finished
    groups = bench.redis.client.xinfo_groups(stream)
    assert groups[0].get("lag", 2) == 2  # not yet taken (Redis 6.2 does not say)
    assert bench.redis.ask("XPENDING", stream, GROUP)["pending"] == 1  # being worked on
    bench.ack("w", taken["a"], "done")
    assert bench.redis.ask("XLEN", stream) == 2


@pytest.mark.parametrize(
    ("kind", "state", "waiting"), [("done", "succeeded", 0), ("dead", "dead", 0), ("cancelled", "cancelled", 0)]
)
def test_an_end_leaves_a_mark_and_one_event(bench: Bench, kind: str, state: str, waiting: int) -> None:
    bench.enter("a")
    item = bench.fetch("w")["a"]
    assert bench.ack("w", item, kind) == 1
    assert bench.live("a")[0] == state
    assert bench.waiting() == waiting
    assert [event[b"kind"] for event in bench.events()] == [b"started", b"ended"]
    assert bench.enter("a") == 0  # a finished task does not look unknown


def test_a_repeated_acknowledgement_changes_nothing(bench: Bench) -> None:
    bench.enter("a")
    item = bench.fetch("w")["a"]
    assert [bench.ack("w", item, "retry", 1000) for _ in range(3)] == [1, 0, 0]
    assert bench.redis.ask("ZCARD", bench.keys.delayed("q")) == 1
    assert len(bench.events()) == 2


def test_a_retry_waits_outside_the_worker_and_keeps_its_attempts(bench: Bench) -> None:
    bench.enter("a")
    first = bench.fetch("w")["a"]
    bench.ack("w", first, "retry", 0)
    assert bench.live("a")[0] == "retrying"
    assert bench.promote()[0] == 1
    second = bench.fetch("v")["a"]
    assert (first[4], second[4]) == (1, 2)
    assert int(second[6]) > int(first[6])  # each start raises the token


def test_a_return_uses_no_attempt(bench: Bench) -> None:
    bench.enter("a")
    bench.ack("w", bench.fetch("w")["a"], "return", attempts=0)
    assert bench.fetch("v")["a"][4] == 1


@pytest.mark.parametrize("kind", ["done", "retry", "dead", "cancelled", "return"])
def test_p6_who_lost_a_task_cannot_acknowledge_it(bench: Bench, kind: str) -> None:
    bench.enter("a")
    lost = bench.fetch("gone")["a"]
    bench.silence("gone")
    taken = bench.fetch("heir", sweep=True)["a"]
    before = bench.live("a"), bench.events()
    assert bench.ack("gone", lost, kind) == 0
    assert (bench.live("a"), bench.events()) == before
    assert bench.ack("heir", taken, "done") == 1


def test_a_living_workers_tasks_are_not_taken(bench: Bench) -> None:
    bench.enter("a")
    bench.fetch("w")
    assert bench.fetch("v", sweep=True) == {}


def test_the_reply_of_a_fetch_that_was_lost_is_found_again(bench: Bench) -> None:
    bench.enter("a")
    bench.enter("b")
    lost = bench.fetch("w", room=1)["a"]
    held = bench.fetch("w", room=1)["b"]
    again = bench.fetch("w", sweep=True, held=[(held[0], held[1].decode())])
    assert list(again) == ["a"]
    assert (again["a"][1], again["a"][4]) == (lost[1], 1), "the same entry, and still its first attempt"
    assert int(again["a"][6]) > int(lost[6])


def test_lost_replies_use_no_attempt_and_are_no_deaths(bench: Bench) -> None:
    for name, most in (("once", 1), ("unbounded", 0)):
        bench.enter(name, most=most)
    bench.fetch("w")
    for _ in range(6):  # one more than the deaths that end a task without a bound
        assert set(bench.fetch("w", sweep=True)) == {"once", "unbounded"}
    bench.silence("w")
    assert list(bench.fetch("v", sweep=True)) == ["unbounded"]
    assert bench.live("once")[0] == "dead"


def test_p8_after_its_attempts_a_dead_workers_task_is_dead(bench: Bench) -> None:
    bench.enter("a", most=2)
    bench.fetch("w1")
    bench.silence("w1")
    assert "a" in bench.fetch("w2", sweep=True)
    bench.silence("w2")
    assert bench.fetch("w3", sweep=True) == {}
    assert bench.live("a")[0] == "dead"
    assert bench.waiting() == 0
    assert json.loads(bench.events()[-1][b"data"])["outcome"] == "dead"


@pytest.mark.parametrize(("heir", "attempts"), [("heir", 1), ("w", 0)])
def test_a_task_of_a_paused_type_whose_worker_lost_it_is_set_aside(bench: Bench, heir: str, attempts: int) -> None:
    bench.enter("a", most=2)
    bench.fetch("w")
    bench.silence("w")
    bench.operations.pause("t", "{}")
    assert bench.fetch(heir, sweep=True) == {}
    assert bench.live("a")[:1] + bench.live("a")[4:5] == ["queued", str(attempts)]
    assert (list(bench.see().parked), bench.waiting()) == (["a"], 0)
    said = json.loads(bench.events()[-1][b"data"])
    assert (said["state"], said["outcome"], said["worker"], said["attempts"]) == ("queued", "lost", "w", attempts)
    bench.operations.resume("t")
    assert bench.fetch(heir)["a"][4] == attempts + 1


def test_p8_a_type_without_bound_dies_after_five_worker_deaths_in_a_row(bench: Bench) -> None:
    bench.enter("a", most=0)
    bench.fetch("w0")
    for n in range(4):
        bench.silence(f"w{n}")
        assert "a" in bench.fetch(f"w{n + 1}", sweep=True)
    bench.silence("w4")
    assert bench.fetch("w5", sweep=True) == {}
    assert bench.live("a")[0] == "dead"


def test_a_limit_counts_what_all_workers_run_and_a_crash_gives_the_place_back(bench: Bench) -> None:
    for name in "abcd":
        bench.enter(name)
    assert len(bench.fetch("w", limit=2)) == 2
    assert bench.fetch("v", limit=2) == {}
    bench.silence("w")
    assert set(bench.fetch("v", limit=2, sweep=True)) == {"a", "b"}
    assert bench.fetch("v", limit=2) == {}


def test_delayed_tasks_are_promoted_when_due_and_rung_for_when_nearer(bench: Bench) -> None:
    seconds, micros = bench.redis.ask("TIME")
    now = seconds * 1000 + micros // 1000
    bench.enter("far", due_ms=now + 60_000)
    bench.enter("near", due_ms=now + 40_000)
    bench.enter("between", due_ms=now + 50_000)
    assert bench.redis.ask("XLEN", bench.keys.bell) == 1
    ((_, bell),) = bench.redis.ask("XRANGE", bench.keys.bell, "-", "+")
    assert int(bell[b"due"]) == now + 40_000
    moved, due, _ = bench.promote()
    assert moved == 0 and 0 <= due <= 40_000
    bench.hasten("near")
    assert bench.promote()[0] == 1
    assert list(bench.fetch("w")) == ["near"]


def test_a_running_task_is_entered_again_after_a_flush_and_stays_its_workers(bench: Bench) -> None:
    bench.enter("a")
    item = bench.fetch("w")["a"]
    bench.flush()
    bench.enter("before")  # new tasks came first
    entry = bench.reregister("w", item)
    assert bench.reregister("w", item) == entry  # the reply may get lost
    assert list(bench.fetch("v")) == ["before"]
    item[1] = entry
    assert bench.ack("w", item, "done") == 1
    assert bench.live("a")[0] == "succeeded"


def test_a_running_task_is_entered_whole_where_there_is_no_group_yet(bench: Bench) -> None:
    bench.enter("a")
    item = bench.fetch("w")["a"]
    bench.redis.ask("FLUSHALL")
    entry = bench.reregister("w", item)
    assert bench.redis.ask("XPENDING", bench.streams[2], GROUP)["consumers"] == [{"name": b"w", "pending": 1}]
    assert bench.live("a")[8].encode() == entry


@pytest.mark.parametrize(("kind", "accepted"), [("done", 1), ("dead", 1), ("retry", 0), ("return", 0)])
def test_an_end_counts_in_an_emptied_redis_and_another_try_does_not(bench: Bench, kind: str, accepted: int) -> None:
    bench.enter("a")
    item = bench.fetch("w")["a"]
    bench.redis.ask("FLUSHALL")
    assert bench.ack("w", item, kind) == accepted
    assert len(bench.events()) == accepted


def test_an_end_counts_in_an_emptied_redis_that_other_workers_use_already(bench: Bench) -> None:
    bench.enter("a")
    item = bench.fetch("w")["a"]
    bench.flush()
    bench.fetch("v")
    assert bench.ack("w", item, "done") == 1


def test_p6_an_end_that_comes_after_its_task_was_forgotten_does_not_count_again(bench: Bench) -> None:
    bench.enter("a")
    lost = bench.fetch("frozen")["a"]
    bench.silence("frozen")
    bench.ack("heir", bench.fetch("heir", sweep=True)["a"], "done")
    bench.read_events()
    bench.wait_until_after(bench.now_ms())
    bench.forget()
    counted = bench.redis.ask("HGETALL", bench.keys.stats)
    assert bench.ack("frozen", lost, "done") == 0
    assert bench.redis.ask("HGETALL", bench.keys.stats) == counted
    assert (bench.live("a"), bench.events()) == (None, [])


def test_a_start_is_younger_than_its_redis_also_when_the_clock_was_set_back(bench: Bench) -> None:
    ahead = bench.now_ms() + 60_000
    bench.redis.ask("SET", bench.keys.epoch, ahead)  # as seen by the server before a failover
    bench.enter("a")
    assert int(bench.fetch("w")["a"][6]) > ahead


def test_progress_is_the_holders_alone(bench: Bench) -> None:
    bench.enter("a")
    item = bench.fetch("w")["a"]
    touch: Callable[[int], int] = lambda token: bench.redis.call(  # noqa: E731
        "touch", [bench.keys.live, bench.keys.progress, bench.keys.cancels], ["a", token, "{}"]
    )
    assert touch(int(item[6])) == 1
    assert touch(int(item[6]) - 1) == 0
    bench.ack("w", item, "done")
    assert touch(int(item[6])) == 0


def test_nothing_is_entered_on_knowledge_that_is_too_old(bench: Bench) -> None:
    envelope = Envelope("a", "t", "q", "normal", "{}", 1)
    assert bench.dispatcher.dispatch([envelope], not_after_ms=1) == 0
    assert bench.live("a") is None


def test_marks_stay_until_the_recorder_is_through_and_then_go(bench: Bench) -> None:
    bench.enter("a")
    bench.ack("w", bench.fetch("w")["a"], "done")
    forget: Callable[[], int] = lambda: bench.redis.call(  # noqa: E731
        "forget", [bench.keys.events, bench.keys.live, bench.keys.progress], [RECORDER, 0, 100]
    )
    assert forget() == 0  # not read yet
    reply = bench.redis.ask("XREADGROUP", "GROUP", RECORDER, "r", "STREAMS", bench.keys.events, ">")
    entries = [entry for entry, _ in reply[0][1]]
    assert forget() == 0  # read, not written
    bench.redis.ask("XACK", bench.keys.events, RECORDER, *entries)
    assert forget() == 2
    assert bench.live("a") is None


def test_one_fetch_starts_a_dead_workers_task_once(bench: Bench) -> None:
    bench.enter("a")
    bench.fetch("a-worker")  # Redis names it before the heir, which then finds the entry among its own
    bench.silence("a-worker")
    bench.fetch("heir", sweep=True)
    assert (bench.live("a") or [])[4] == "2"


def test_p3_an_outage_is_not_the_death_of_all_workers(bench: Bench) -> None:
    bench.enter("a")
    bench.fetch("lives")
    past = bench.now_ms() - 60_000
    bench.redis.ask("ZADD", bench.keys.workers, past, "lives", past - LIVENESS_MS - 1, "died-before")
    assert bench.fetch("first-back", sweep=True) == {}
    assert bench.redis.ask("ZSCORE", bench.keys.workers, "lives") >= past + 60_000
    assert bench.redis.ask("ZSCORE", bench.keys.workers, "died-before") < past

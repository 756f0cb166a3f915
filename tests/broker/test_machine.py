"""Whatever workers, clients and faults do to a queue in whatever order, every task stays in exactly one place.

A model says what Redis must know after each call of a script, and what the ledger has been told. The changes that are
legal are the arrows of the diagram in docs/task-life.md, each by the script that is named there.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sytq.states import CANCELLED, DEAD, PRIORITIES, QUEUED, RETRYING, RUNNING, SCHEDULED, TERMINAL
from tests.broker.bench import FIRST, Bench, Item

DOCS = Path(__file__).parents[2] / "docs/task-life.md"
#: What stands for a task that Redis does not know, as in the diagram.
UNKNOWN = "[*]"
OUTCOMES = {"done": "succeeded", "dead": DEAD, "cancelled": CANCELLED, "retry": RETRYING, "return": QUEUED}
#: Most attempts of a task; 0 is without a bound, and then MAX_DEATHS counts.
BOUNDS = (1, 2, 3, 0)
MAX_DEATHS = 2
HOUR = 3_600_000

Change = tuple[str, str, str]  # state before, state after, script


def documented_changes() -> set[Change]:
    found = re.findall(r"^ *(\S+) --> (\S+): (.+)$", DOCS.read_text(), re.MULTILINE)
    return {(before, after, script) for before, after, scripts in found for script in scripts.split(", ")}


@dataclass
class Known:
    """What the live index must say of a task. Token 0: not started since it was entered."""

    state: str
    priority: str
    attempts: int
    most: int
    token: int = 0
    consumer: str = ""
    entry: str = ""
    recorded: bool = False  # the ledger has its end
    asked: bool = False  # to be cancelled
    parked: bool = False  # met while its type was paused

    def value(self) -> list[str]:
        queue = "q" if self.priority else ""
        numbers = map(str, (self.attempts, self.most, self.token))
        return [self.state, "t", queue, self.priority, *numbers, self.consumer, self.entry]


@dataclass
class Row:
    """A task in the ledger."""

    priority: str
    most: int
    state: str = QUEUED
    token: int = 0
    attempts: int = 0

    def record(self, state: str, token: int, attempts: int) -> None:
        """As the ledger's UPDATE: an end stays, and an older start writes nothing over a later one."""
        if self.state not in TERMINAL and self.token <= token:
            self.state, self.token, self.attempts = state, token, attempts


@dataclass
class Worker:
    name: str
    fresh: bool = False  # its heartbeat is
    silent: bool = False  # stopped or cut off: it does nothing until it returns
    entered: bool = True  # the tasks that it runs, since Redis was emptied
    held: dict[tuple[str, int], Item] = field(default_factory=dict)  # (id, token) -> a start it has not released

    def runs(self) -> list[Item]:
        """Its latest start of each task."""
        return list({task_id: item for (task_id, _), item in sorted(self.held.items())}.values())


@dataclass
class End:
    """How one of the starts is settled: which, as what, using an attempt, how often, and whether the worker knows."""

    which: int
    kind: str
    counts: bool
    times: int
    reply_lost: bool


@dataclass
class Turn:
    """A worker's fetch, after the delayed tasks were due (late) or not, and what follows."""

    worker: int
    room: int
    sweep: bool
    reply_lost: bool
    late: bool
    ends: list[End]
    silent: str | None


ENDS = st.lists(
    st.builds(
        End,
        which=st.integers(0, 9),
        kind=st.sampled_from(list(OUTCOMES)),
        counts=st.booleans(),
        times=st.integers(1, 2),
        reply_lost=st.booleans(),
    ),
    max_size=3,
)
SILENT = ("stopped", "leaves", "killed")
TURNS = st.builds(
    Turn,
    worker=st.integers(0, 2),
    room=st.integers(1, 4),
    sweep=st.booleans(),
    reply_lost=st.sampled_from([False, False, False, True]),
    late=st.booleans(),
    ends=ENDS,
    silent=st.sampled_from([None, None, *SILENT]),
)


class TaskLife(RuleBasedStateMachine):
    bench: Bench
    legal: set[Change]
    observed: set[Change]

    @initialize(
        limit=st.sampled_from([0, 0, 1, 3]),
        first=st.lists(st.tuples(st.sampled_from(PRIORITIES), st.booleans(), st.sampled_from(BOUNDS)), max_size=5),
    )
    def begin(self, limit: int, first: list[tuple[str, bool, int]]) -> None:
        self.bench.flush()
        self.limit = limit
        self.ledger: dict[str, Row] = {}
        self.known: dict[str, Known] = {}
        self.absent: set[str] = set()  # accepted, and Redis may know nothing of them: it was away or emptied
        self.workers = [Worker(f"w{n}") for n in range(3)]
        self.names = 3
        self.started: Counter[str] = Counter()  # the highest token so far
        self.ends: Counter[str] = Counter()  # since Redis was emptied
        self.flushes = 0
        self.paused = False
        self.replayed: set[str] = set()
        self.script = ""
        self.before: dict[str, list[str]] = {}
        self.read = self.written = "-"  # the events that this test and the recorder have seen
        self.seen = self.bench.see()
        for priority, delayed, most in first:
            self.accept(priority, delayed, most, arrives=True)

    # -- clients and the reconciler

    @precondition(lambda self: len(self.ledger) < 12)
    @rule(
        priority=st.sampled_from(PRIORITIES),
        delayed=st.booleans(),
        most=st.sampled_from(BOUNDS),
        arrives=st.sampled_from([True, True, True, False]),
    )
    def accept(self, priority: str, delayed: bool, most: int, arrives: bool) -> None:
        task_id = f"t{len(self.ledger)}"
        self.ledger[task_id] = Row(priority, most)
        if arrives:
            due = self.bench.now_ms() + HOUR if delayed else 0
            assert self.bench.enter(task_id, priority, due, most=most) == 1
            self._entered(task_id, SCHEDULED if delayed else QUEUED)
        else:
            self.absent.add(task_id)
        for known in self.known:
            assert self.bench.enter(known) == 0, "entered twice"

    @precondition(lambda self: self.absent and all(worker.entered or worker.silent for worker in self.workers))
    @rule()
    def reconcile(self) -> None:
        for task_id, row in self.ledger.items():
            if row.state not in TERMINAL and task_id not in self.known:
                assert self.bench.enter(task_id, row.priority, attempts=row.attempts, most=row.most) == 1
                self._entered(task_id, QUEUED)
        self.absent.clear()

    def _entered(self, task_id: str, state: str) -> None:
        self.script = "dispatch"
        row = self.ledger[task_id]
        entry = self._entry(task_id) if state == QUEUED else ""
        self.known[task_id] = Known(state, row.priority, row.attempts, row.most, entry=entry)

    def _entry(self, task_id: str) -> str:
        live = self.bench.live(task_id)
        assert live
        return live[8]

    # -- time

    @precondition(lambda self: self.seen.delayed)
    @rule(which=st.sets(st.integers(0, 11)))
    def promote(self, which: set[int]) -> None:
        """The time of some delayed tasks has come."""
        self.script = "promote"
        later = self.bench.now_ms() + 2 * HOUR
        for task_id, known in self.known.items():
            waits = known.state in (SCHEDULED, RETRYING)
            assert self.bench.operations.reschedule(task_id, later) == waits
        due = {task_id for n, task_id in enumerate(sorted(self.seen.delayed)) if n in which}
        for task_id in due:
            self.bench.hasten(task_id)
        moved, next_due, _ = self.bench.promote()
        assert moved == len(due)
        assert (next_due == -1) == (due == self.seen.delayed.keys())
        for task_id in due:
            self.known[task_id].state, self.known[task_id].entry = QUEUED, self._entry(task_id)

    # -- workers

    @precondition(lambda self: self.known)
    @rule(turns=st.lists(TURNS, min_size=1, max_size=4))
    def work(self, turns: list[Turn]) -> None:
        for turn in turns:
            if turn.late:
                self.promote(set(range(len(self.seen.delayed))))
                self.all_is_well()
            self._fetch(self.workers[turn.worker], turn.room, turn.sweep, turn.reply_lost)
            self.all_is_well()
            self.settle(turn.ends)
            if turn.silent:
                self.falls_silent(turn.worker, turn.silent)

    def _fetch(self, worker: Worker, room: int, sweep: bool, reply_lost: bool) -> list[Item]:
        self.script = "fetch"
        held = {(item[0], item[1].decode()) for item in worker.runs()}
        worker.fresh, worker.silent = True, False
        running = self._count(RUNNING)
        orphans, doomed = self._orphans(worker, held) if sweep else (set(), set())
        queued = {task_id for task_id, known in self.known.items() if known.state == QUEUED and not known.parked}

        items = self.bench.fetch(worker.name, room, self.limit, sweep, held, MAX_DEATHS)

        assert len(items) <= room
        assert items.keys() <= queued | orphans
        for task_id in doomed:
            live = self.bench.live(task_id)
            if live and live[0] == DEAD:
                self.known[task_id].state = DEAD
        for task_id, item in items.items():
            known, token = self.known[task_id], int(item[6])
            assert (item[1].decode(), item[4], item[5]) == (known.entry, known.attempts + 1, known.most)
            assert token > self.started[task_id], "a later start has a larger token"
            self.started[task_id] = token
            known.state, known.consumer, known.attempts, known.token = RUNNING, worker.name, item[4], token
            if not reply_lost:
                worker.held[task_id, token] = item

        if self.paused:
            assert items.keys() <= orphans
            met = queued & self.bench.see().parked.keys()
            for task_id in met:
                self.known[task_id].parked, self.known[task_id].entry = True, ""
            queued -= met
        spare = room - len(items)
        if spare > 0 and len(orphans | doomed) <= 7:
            assert orphans <= items.keys(), "what nobody holds is found"
            assert all(self.known[task_id].state == DEAD for task_id in doomed)
        if self.limit:
            now = self._count(RUNNING)
            assert now <= max(self.limit, running)
            spare = min(spare, self.limit - now)
        taken, left = queued & items.keys(), queued - items.keys()
        assert spare <= 0 or not left, "nothing waits while there is room"
        if taken and left:
            assert max(map(self._rank, taken)) <= min(map(self._rank, left)), "the most urgent first"
        return list(items.values())

    def _orphans(self, worker: Worker, held: set[tuple[int, str]]) -> tuple[set[str], set[str]]:
        """Running tasks that `worker` takes over, and those that end because their workers keep dying."""
        fresh = {other.name for other in self.workers if other.fresh}
        deliveries = {task_id: times for _, _, task_id, _, times in self.seen.pending}
        orphans, doomed = set(), set()
        for task_id, known in self.known.items():
            if known.state != RUNNING:
                continue
            if known.consumer == worker.name:
                if (self.bench.index(known.priority), known.entry) not in held:
                    orphans.add(task_id)
            elif known.consumer not in fresh:
                last = known.attempts >= known.most if known.most else deliveries[task_id] >= MAX_DEATHS
                (doomed if last else orphans).add(task_id)
        return orphans, doomed

    def _rank(self, task_id: str) -> int:
        return PRIORITIES.index(self.known[task_id].priority)

    def _count(self, *states: str) -> int:
        return sum(known.state in states for known in self.known.values())

    def _starts(self) -> list[tuple[int, tuple[str, int]]]:
        return [(n, key) for n, worker in enumerate(self.workers) for key in sorted(worker.held)]

    @precondition(lambda self: self._starts())
    @rule(ends=ENDS)
    def settle(self, ends: list[End]) -> None:
        for end in ends:
            starts = self._starts()
            if starts:
                n, key = starts[end.which % len(starts)]
                for _ in range(end.times):
                    self._settle(self.workers[n], key, end.kind, end.counts)
                    self.all_is_well()
                if not end.reply_lost:
                    del self.workers[n].held[key]

    def _settle(self, worker: Worker, key: tuple[str, int], kind: str, counts: bool = True) -> None:
        self.script = "settle"
        (task_id, token), item, state = key, worker.held[key], OUTCOMES[kind]
        known = self.known.get(task_id)
        started = known is None or (known.state, known.token) == (RUNNING, token)
        progress = self.bench.touch(item)
        assert bool(progress) == started, "progress is the latest start's alone"
        assert (progress == 2) == (started and task_id in self.seen.cancels)
        # An end that Redis knows nothing of counts there (it was emptied); the ledger refuses a second one.
        unknown_end = known is None and state in TERMINAL
        mine = known is not None and (known.state, known.consumer, known.token) == (RUNNING, worker.name, token)
        used = item[4] - (kind == "return" or (kind == "retry" and not counts))
        event, if_cancelled = (json.dumps({"state": end, "attempts": used}) for end in (state, CANCELLED))
        accepted = self.bench.settle(worker.name, item, kind, HOUR, used, event, if_cancelled)
        assert accepted == (mine or unknown_end), "who holds the task settles it, and nobody else"
        if unknown_end:
            self.known[task_id] = Known(state, "", used, 0, token)
            self.absent.discard(task_id)
            self.ends[task_id] = 0
        elif mine and known:
            if known.asked and state not in TERMINAL:
                state = CANCELLED
            known.asked = False
            known.state, known.attempts, known.consumer, known.entry = state, used, "", ""
            if state == QUEUED:
                known.entry = self._entry(task_id)

    # -- operators

    @precondition(lambda self: self.known)
    @rule(which=st.sets(st.integers(0, 11), min_size=1, max_size=3))
    def cancel(self, which: set[int]) -> None:
        self.script = "cancel"
        for task_id in [task_id for n, task_id in enumerate(self.known) if n in which]:
            known = self.known[task_id]
            answer = self.bench.operations.cancel(task_id, "somebody")
            if known.state in TERMINAL:
                assert answer == "ended"
            elif known.state == RUNNING:
                assert answer == "asked"
                known.asked = True
            else:
                assert answer == "cancelled"
                known.state, known.entry, known.parked = CANCELLED, "", False
        assert self.bench.operations.cancel("nobody's", "somebody") == "unknown"

    @precondition(lambda self: any(row.state in (DEAD, CANCELLED) for row in self.ledger.values()))
    @rule(dispatched=st.booleans())
    def replay(self, dispatched: bool) -> None:
        """As the operator's replay: the ledger first. When that is all that happens, the reconciler does the rest."""
        again = {task_id: row for task_id, row in self.ledger.items() if row.state in (DEAD, CANCELLED)}
        for task_id, row in again.items():
            row.state, row.attempts = QUEUED, 0
            self.ends[task_id] = 0
        self.absent |= again.keys()
        self.replayed |= again.keys()
        if dispatched:
            self.script = "revive"
            self.bench.operations.revive(list(again))
            for task_id in again.keys() & self.known.keys():
                if self.known[task_id].state in (DEAD, CANCELLED):
                    del self.known[task_id]
            self.all_is_well()
            self.script = "dispatch"
            for task_id in again.keys() - self.known.keys():
                row = self.ledger[task_id]
                assert self.bench.enter(task_id, row.priority, most=row.most) == 1
                self._entered(task_id, QUEUED)

    @precondition(lambda self: self.paused or self._count(QUEUED))
    @rule()
    def pause_or_resume(self) -> None:
        self.script = "unpark"
        if self.paused:
            self.bench.operations.resume("t")
            for task_id, known in self.known.items():
                if known.parked:
                    known.parked, known.entry = False, self._entry(task_id)
        else:
            self.bench.operations.pause("t", "{}")
        self.paused = not self.paused

    # -- faults

    @precondition(lambda self: any(worker.fresh for worker in self.workers))
    @rule(n=st.integers(0, 2), how=st.sampled_from(SILENT))
    def falls_silent(self, n: int, how: str) -> None:
        worker = self.workers[n]
        if how == "leaves":
            self.bench.beat(worker.name, leaving=True)
        else:
            self.bench.silence(worker.name)
        worker.fresh, worker.silent = False, True
        if how == "killed":
            self.workers[n] = Worker(f"w{self.names}")
            self.names += 1

    @precondition(lambda self: not all(worker.fresh and worker.entered for worker in self.workers))
    @rule(n=st.integers(0, 2))
    def beats(self, n: int) -> None:
        """Alive, or back again; after Redis was emptied it enters what it runs."""
        worker = self.workers[n]
        runs = [item[2].decode() for item in worker.runs()]
        asked = self.bench.beat(worker.name, held=runs)
        assert asked == [task_id in self.seen.cancels for task_id in runs]
        worker.fresh, worker.silent = True, False
        if worker.entered:
            return
        self.script = "adopt"
        for item in worker.runs():
            task_id = item[2].decode()
            entry = self.bench.adopt(worker.name, item)
            assert (entry is None) == (task_id in self.known)
            if entry:
                item[1] = entry
                priority = PRIORITIES[item[0] - FIRST]
                self.known[task_id] = Known(
                    RUNNING, priority, item[4], item[5], int(item[6]), worker.name, entry.decode()
                )
        worker.entered = True

    @precondition(lambda self: self.flushes < 2)
    @rule(ends=ENDS, noticed_by=st.sets(st.integers(0, 2)))
    def redis_is_emptied(self, ends: list[End], noticed_by: set[int]) -> None:
        self.bench.flush()
        self.bench.wait_until_after(max(self.started.values(), default=0))
        self.flushes += 1
        self.paused = False  # the reconciler pauses it again; the next rule may
        self.absent = {task_id for task_id, row in self.ledger.items() if row.state not in TERMINAL}
        for worker in self.workers:
            worker.fresh, worker.entered = False, False
        for forgotten in (self.known, self.ends, self.before):
            forgotten.clear()
        self.read = self.written = "-"
        self.settle(ends)
        for n in noticed_by:
            self.beats(n)
            self.all_is_well()

    # -- the recorder

    @precondition(lambda self: self.read != self.written or any(known.recorded for known in self.known.values()))
    @rule(forget=st.booleans(), write=st.booleans())
    def record(self, forget: bool, write: bool = True) -> None:
        self.script = ""
        if write:
            self._write()
        if forget:
            self.all_is_well()
            self._forget()

    def _write(self) -> None:
        self.written = self.read
        for event in self.bench.read_events():
            data: Any = json.loads(event[b"data"])
            if event[b"kind"] == b"started":
                for task_id, token, attempts in data:
                    self.ledger[task_id].record(RUNNING, int(token), attempts)
                continue
            task_id, token = event[b"id"].decode(), int(event[b"token"])
            self.ledger[task_id].record(data["state"], token, data["attempts"])
            known = self.known.get(task_id)
            if known and known.state in TERMINAL and known.token == token:
                known.recorded = True

    def _forget(self) -> None:
        self.script = "forget"
        self.bench.forget(most=1000)
        for task_id in [task_id for task_id, known in self.known.items() if known.recorded]:
            del self.known[task_id]
            if self.ledger[task_id].state not in TERMINAL:
                # Replayed; or the end of a start that was no longer the last one when Redis was emptied.
                assert self.flushes or task_id in self.replayed
                self.absent.add(task_id)

    # -- what must hold after each of these

    @invariant()
    def all_is_well(self) -> None:
        if hasattr(self, "seen"):
            self.seen = self.bench.see()
            self._only_legal_changes()
            self._everything_in_one_place()
            self._one_end_each()

    def _only_legal_changes(self) -> None:
        now = self.seen.live
        for task_id in self.before.keys() | now.keys():
            before, after = self.before.get(task_id), now.get(task_id)
            if not (before and after and (before[0], before[6]) == (after[0], after[6])):  # another state or start
                change = (before[0] if before else UNKNOWN, after[0] if after else UNKNOWN, self.script)
                assert change in self.legal, f"{task_id}: {before} became {after} by {self.script}"
                self.observed.add(change)
        self.before = now

    def _everything_in_one_place(self) -> None:
        expected = {task_id: known.value() for task_id, known in self.known.items()}
        assert self.seen.live == expected
        waiting, pending, delayed, parked = [], [], [], []
        for task_id, known in self.known.items():
            place = (f"{{sytq}}:queue:q:{known.priority}", known.entry, task_id)
            if known.parked:
                parked.append(task_id)
            elif known.state == QUEUED:
                waiting.append(place)
            elif known.state == RUNNING:
                pending.append((*place, known.consumer))
            elif known.state in (SCHEDULED, RETRYING):
                delayed.append(task_id)
        assert sorted(self.seen.waiting) == sorted(waiting)
        assert sorted(one[:4] for one in self.seen.pending) == sorted(pending)
        assert not self.seen.lost, "given to a worker, and pending for none"
        assert self.seen.delayed.keys() == self.seen.bodies.keys() == set(delayed)
        assert self.seen.parked.keys() == set(parked)
        unfinished = {task_id for task_id, row in self.ledger.items() if row.state not in TERMINAL}
        assert unfinished <= self.known.keys() | self.absent, "accepted and lost"

    def _one_end_each(self) -> None:
        for entry, event in self.bench.events_after(self.read):
            self.read = f"({entry}"
            if event[b"kind"] == b"ended" and json.loads(event[b"data"])["state"] in TERMINAL:
                self.ends[event[b"id"].decode()] += 1
        assert not [task_id for task_id, ends in self.ends.items() if ends > 1], "ended twice"

    def teardown(self) -> None:
        """Whatever happened before: with one worker left, every accepted task ends."""
        if not hasattr(self, "seen") or sys.exc_info()[0]:
            return
        for n in range(3):
            self.falls_silent(n, "killed")
        for worker in self.workers:
            worker.silent = True
        if self.paused:
            self.pause_or_resume()
            self.all_is_well()
        last = Worker("last")
        self.workers.append(last)
        for _ in range(40):
            self.record(forget=True)
            self.all_is_well()
            self.reconcile()
            self.all_is_well()
            self.promote(set(range(len(self.seen.delayed))))
            self.all_is_well()
            self._fetch(last, 100, True, reply_lost=False)
            self.all_is_well()
            for key in list(last.held):
                self._settle(last, key, "done")
                del last.held[key]
                self.all_is_well()
            if all(row.state in TERMINAL for row in self.ledger.values()):
                return
        raise AssertionError(f"accepted and never ended: {self.ledger}")


@pytest.fixture
def life(redis_url: str) -> type[TaskLife]:
    class Life(TaskLife):
        bench = Bench(redis_url)
        legal = documented_changes()
        observed = set()  # noqa: RUF012

    return Life


def test_every_task_is_in_one_place_whatever_happens(life: type[TaskLife]) -> None:
    run_state_machine_as_test(
        life,
        settings=settings(
            max_examples=100,
            stateful_step_count=30,
            deadline=None,
            derandomize=bool(os.environ.get("CI")),
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_every_arrow_of_the_diagram_happens(life: type[TaskLife]) -> None:
    one = life()

    def start(*first: tuple[str, bool, int]) -> None:
        one.begin(0, list(first))
        one.all_is_well()

    def fetch(worker: int = 0, *ends: str, late: bool = True, silent: str | None = None) -> None:
        how = [End(0, kind, counts=True, times=1, reply_lost=False) for kind in ends]
        one.work([Turn(worker, 1, True, reply_lost=False, late=late, ends=how, silent=silent)])
        one.all_is_well()

    task, delayed = ("normal", False, 2), ("normal", True, 2)
    for end in ("done", "dead", "cancelled"):
        start(task)
        fetch(0, end)
        one.record(forget=True)
        one.all_is_well()
        start(task)
        fetch(0)
        one.redis_is_emptied([End(0, end, counts=True, times=1, reply_lost=False)], set())
        one.all_is_well()
    start(delayed, task)
    fetch(0, "retry", late=False)
    one.cancel({0, 1})
    one.all_is_well()
    start(delayed)
    fetch(0, "return")
    fetch(0, "retry")
    fetch(0)
    one.redis_is_emptied([], {0})
    fetch(0, silent="stopped")
    fetch(1, silent="killed")
    start(task)
    fetch(0, silent="killed")
    fetch(1, silent="killed")
    fetch(2)
    one.accept("low", delayed=False, most=1, arrives=True)
    one.all_is_well()
    one.cancel({1})
    one.all_is_well()
    one.record(forget=False)
    one.replay(dispatched=True)
    one.all_is_well()
    one.teardown()
    assert one.legal == one.observed

"""The base of the state machine (machine.py): its model, a recorder, and the checks after every step.

The checks: every task in exactly one place, only the changes of the diagram in docs/task-life.md, one end each,
no accepted task lost.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize

from sytq.states import PRIORITIES, QUEUED, RETRYING, RUNNING, SCHEDULED, TERMINAL
from tests.broker.bench import Bench
from tests.broker.model import ISOLATED, UNKNOWN, Change, Crashes, Known, Row, Worker


class MachineChecks(RuleBasedStateMachine):
    bench: Bench
    legal: set[Change]
    observed: set[Change]

    @initialize(limit=st.sampled_from([0, 0, 1, 3]))
    def begin(self, limit: int) -> None:
        self.bench.flush()
        self.limit = limit
        self.ledger: dict[str, Row] = {}
        self.known: dict[str, Known] = {}
        self.absent: set[str] = set()  # accepted, but perhaps unknown to Redis, which was unavailable or emptied
        self.workers = [*(Worker(f"w{n}") for n in range(ISOLATED)), Worker(f"alone{ISOLATED}")]
        self.names = len(self.workers)
        self.crashes: dict[str, Crashes] = {}
        self.left: set[str] = set()  # workers that were asked to stop and left
        self.started: Counter[str] = Counter()  # the highest fencing token so far
        self.ends: Counter[str] = Counter()  # since Redis was emptied
        self.flushes = 0
        self.rounds = 0
        self.paused = False
        self.asked: set[str] = set()  # to be cancelled by their workers
        self.replayed: set[str] = set()
        self.script = ""
        self.before: dict[str, list[str]] = {}
        self.read = self.written = "-"  # the events that this test and the recorder have seen
        self.seen = self.bench.see()

    def _rank(self, task_id: str) -> int:
        return PRIORITIES.index(self.known[task_id].priority)

    def _count(self, *states: str) -> int:
        return sum(known.state in states for known in self.known.values())

    def _starts(self) -> list[tuple[int, tuple[str, int]]]:
        return [(n, key) for n, worker in enumerate(self.workers) for key in sorted(worker.held)]

    # -- the recorder

    def record(self, write: bool, forget: bool) -> None:
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
                for task_id, token, attempts, _again in data:
                    self.ledger[task_id].record(RUNNING, int(token), attempts)
                continue
            assert event[b"kind"] == b"ended"
            task_id, token = event[b"id"].decode(), int(event[b"token"])
            self.ledger[task_id].record(data["state"], token, data["attempts"])
            known = self.known.get(task_id)
            if known and known.state in TERMINAL and known.token == token:
                known.recorded = True

    def _forget(self) -> None:
        self.script = "forget"
        self.bench.forget(max_events=1000)
        for task_id in [task_id for task_id, known in self.known.items() if known.recorded]:
            del self.known[task_id]
            self.crashes.pop(task_id, None)
            if self.ledger[task_id].state not in TERMINAL:
                # Replayed; or the end of an attempt that was not the latest when Redis was emptied.
                assert self.flushes or task_id in self.replayed
                self.absent.add(task_id)
                self.ends[task_id] = 0  # the ledger refused that end

    # -- what must hold after each of these

    def all_is_well(self) -> None:
        self.seen = self.bench.see()
        self._only_legal_changes()
        self._everything_in_one_place()
        self._suspects_run_alone()
        self._one_end_each()

    def _only_legal_changes(self) -> None:
        now = self.seen.live
        for task_id in self.before.keys() | now.keys():
            before, after = self.before.get(task_id), now.get(task_id)
            if not (before and after and (before[0], before[6]) == (after[0], after[6])):  # another state or attempt
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
            if known.suspect:
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
        assert self.seen.suspects == {task_id for task_id, known in self.known.items() if known.suspect}
        assert self.seen.cancels.keys() == self.asked
        unfinished = {task_id for task_id, row in self.ledger.items() if row.state not in TERMINAL}
        assert unfinished <= self.known.keys() | self.absent, "accepted and lost"

    def _suspects_run_alone(self) -> None:
        counted = {task_id: (one.ordinary, one.level, one.alone) for task_id, one in self.crashes.items()}
        assert self.seen.crashes == counted
        for task_id, known in self.known.items():
            if known.state == RUNNING and self.crashes.get(task_id, Crashes()).suspect:
                assert known.consumer.startswith("alone"), "a suspect runs beside no other task"

    def _one_end_each(self) -> None:
        for entry, event in self.bench.events_after(self.read):
            self.read = f"({entry}"
            if event[b"kind"] == b"ended" and json.loads(event[b"data"])["state"] in TERMINAL:
                self.ends[event[b"id"].decode()] += 1
        assert not [task_id for task_id, ends in self.ends.items() if ends > 1], "ended twice"

"""A hypothesis state machine of a queue: workers, clients, operators and faults, in any order.

Each step updates the model (model.py) and checks it. The legal changes are the arrows of the diagram in
docs/task-life.md, each by the script that is named there.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from random import Random
from typing import Any

from hypothesis import currently_in_test_context, note
from hypothesis import strategies as st
from hypothesis.stateful import rule

from sytq.states import CANCELLED, DEAD, PRIORITIES, QUEUED, RETRYING, RUNNING, SCHEDULED, TERMINAL
from tests.broker.bench import FIRST, Item
from tests.broker.machine_checks import MachineChecks
from tests.broker.model import HOUR, ISOLATED, MAX_CRASHES, MENU, OUTCOMES, Crashes, Known, Row, Worker


class TaskLife(MachineChecks):
    @rule(seed=st.integers(0, 2**32))
    def operate(self, seed: int) -> None:
        """Twenty steps. Their randomness is not hypothesis' own, which likes to repeat itself: faults take variety."""
        self.rounds += 1
        random = Random(f"{seed} {self.rounds}")
        for _, name, arguments in random.choices(MENU, [times for times, *_ in MENU], k=20):
            self.do(name, **arguments(random))

    def do(self, name: str, **arguments: Any) -> None:
        if currently_in_test_context():
            note(f"    {name} {arguments}")
        getattr(self, name)(**arguments)
        self.all_is_well()

    # -- clients and the reconciler

    def accept(
        self, priority: str, delayed: bool, max_attempts: int, arrives: bool, limiters: tuple[str, ...] = ()
    ) -> None:
        if len(self.ledger) == 12:
            return
        task_id = f"t{len(self.ledger)}"
        self.ledger[task_id] = Row(priority, max_attempts)
        if arrives:
            due = self.bench.now_ms() + HOUR if delayed else 0
            assert self.bench.dispatch(task_id, priority, due, max_attempts=max_attempts, limiters=limiters) == 1
            self._dispatched(task_id, SCHEDULED if delayed else QUEUED)
        else:
            self.absent.add(task_id)
        for known in self.known:
            assert self.bench.dispatch(known) == 0, "dispatched twice"

    def reconcile(self) -> None:
        for n, worker in enumerate(self.workers):
            if not worker.reregistered and not worker.silent:  # the reconciler gives them the time
                self.heartbeat(n)
                self.all_is_well()
        for task_id, row in self.ledger.items():
            if row.state not in TERMINAL and task_id not in self.known:
                assert self._dispatch_again(task_id) == 1
                self._dispatched(task_id, QUEUED)
        self.absent.clear()

    def _dispatch_again(self, task_id: str) -> int:
        row = self.ledger[task_id]
        return self.bench.dispatch(
            task_id, row.priority, attempts=row.attempts, max_attempts=row.max_attempts, token=row.token
        )

    def _dispatched(self, task_id: str, state: str) -> None:
        self.script = "dispatch"
        row = self.ledger[task_id]
        entry = self._entry(task_id) if state == QUEUED else ""
        self.known[task_id] = Known(state, row.priority, row.attempts, row.max_attempts, row.token, entry=entry)

    def _entry(self, task_id: str) -> str:
        live = self.bench.live(task_id)
        assert live
        return live[8]

    # -- time

    def promote(self, which: set[int]) -> None:
        """The time of some delayed tasks has come."""
        self.script = "promote"
        later = self.bench.now_ms() + 2 * HOUR
        for task_id, known in self.known.items():
            waits = known.state in (SCHEDULED, RETRYING)
            assert self.bench.operations.reschedule(task_id, later) == waits
        due = {task_id for n, task_id in enumerate(sorted(self.seen.delayed)) if n in which}
        for task_id in due:
            assert self.bench.operations.reschedule(task_id, self.bench.now_ms())
        moved, next_due, _ = self.bench.promote()
        assert moved == len(due)
        assert (next_due == -1) == (due == self.seen.delayed.keys())
        for task_id in due:
            self.known[task_id].state, self.known[task_id].entry = QUEUED, self._entry(task_id)

    # -- workers

    def fetch(self, n: int, slots: int, sweep: bool, reply_lost: bool) -> None:
        self._fetch(self.workers[n], slots, sweep, reply_lost)

    def _fetch(self, worker: Worker, slots: int, sweep: bool, reply_lost: bool) -> list[Item]:
        self.script = "fetch"
        held = {(item[0], item[1].decode()) for item in worker.runs()}
        if worker.reregistering:
            held |= {(item[0], item[2].decode()) for item in worker.runs()}
        worker.fresh, worker.silent = True, False
        running = self._count(RUNNING)
        orphans, fates = self._orphans(worker, held) if sweep else (set(), {})
        queued = {task_id for task_id, known in self.known.items() if known.state == QUEUED and known.entry}
        suspects = {task_id for task_id in queued if self.crashes.get(task_id, Crashes()).suspect}

        items = self.bench.fetch(worker.name, slots, self.limit, sweep, held, MAX_CRASHES)

        assert len(items) <= slots
        assert items.keys() <= queued - suspects | orphans
        after = self.bench.see()
        for task_id, fate in fates.items():
            if after.live[task_id][0] == fate:
                known = self.known[task_id]
                mine = known.consumer == worker.name  # the reply never arrived
                known.attempts -= fate in (QUEUED, RETRYING) or (fate == CANCELLED and mine)  # the attempt is not used
                self._note_crash(task_id, worker)
                known.state, known.consumer, known.entry = fate, "waited" if fate == RETRYING else "", ""
                known.suspect = fate == QUEUED
                self.asked.discard(task_id)
        placed = any(known.suspect for known in self.known.values())
        for task_id, item in items.items():
            known, token = self.known[task_id], int(item[6])
            # Neither a lost reply nor the death of its worker uses an attempt.
            used = known.attempts + (known.state != RUNNING)
            self._note_crash(task_id, worker)
            assert (item[1].decode(), item[4], item[5]) == (known.entry, used, known.max_attempts)
            assert token > self.started[task_id], "a later attempt has a larger fencing token"
            self.started[task_id] = token
            known.state, known.consumer, known.attempts, known.token = RUNNING, worker.name, item[4], token
            if not reply_lost:
                worker.held[task_id, token] = item

        if self.paused:
            assert not items
            met = queued & after.delayed.keys()
            for task_id in met:
                known = self.known[task_id]
                known.state, known.consumer, known.entry = RETRYING, "waited", ""
            queued -= met
        else:
            met = {task_id for task_id in suspects if after.live[task_id][7] == "suspect"}
            for task_id in met:
                self.known[task_id].suspect, self.known[task_id].entry = True, ""
            queued -= suspects
        spare = slots - len(items)
        if spare > 0 and len(orphans | fates.keys()) <= 7:
            assert orphans <= items.keys(), "orphans are found"
            assert all(self.known[task_id].state == fate for task_id, fate in fates.items())
        if self.limit:
            now = self._count(RUNNING)
            assert now <= max(self.limit, running)
            spare = min(spare, self.limit - now - placed)
        taken, left = queued & items.keys(), queued - items.keys()
        assert spare <= 0 or not left, "nothing waits while a slot is free"
        if taken and left:
            assert max(map(self._rank, taken)) <= min(map(self._rank, left)), "the most urgent first"
        return list(items.values())

    def _orphans(self, worker: Worker, held: set[tuple[int, str]]) -> tuple[set[str], dict[str, str]]:
        """Running tasks that `worker` takes over, and the states of the orphans that do not start again."""
        fresh = {other.name for other in self.workers if other.fresh}
        orphans: set[str] = set()
        fates: dict[str, str] = {}
        for task_id, known in self.known.items():
            mine, index = known.consumer == worker.name, self.bench.index(known.priority or PRIORITIES[0])
            kept = {(index, known.entry), (index, task_id)} & held if mine else known.consumer in fresh
            if known.state != RUNNING or kept:
                continue
            crashes = self._crashes_after(task_id, worker)
            if task_id in self.asked:
                fates[task_id] = CANCELLED
            elif crashes.alone >= MAX_CRASHES:
                fates[task_id] = DEAD
            elif self.paused:
                fates[task_id] = RETRYING
            elif crashes.suspect:
                fates[task_id] = QUEUED
            else:
                orphans.add(task_id)
        return orphans, fates

    def _crashes_after(self, task_id: str, heir: Worker) -> Crashes:
        """The crashes of a running task when `heir` takes it over."""
        crashes, consumer = self.crashes.get(task_id, Crashes()), self.known[task_id].consumer
        return crashes if consumer == heir.name else crashes.after(consumer, consumer in self.left)

    def _note_crash(self, task_id: str, heir: Worker) -> None:
        if self.known[task_id].state == RUNNING:
            crashes = self._crashes_after(task_id, heir)
            if task_id in self.crashes or crashes.ordinary:
                self.crashes[task_id] = crashes

    def isolate(self, most: int, reply_lost: bool) -> None:
        self._isolate(self.workers[ISOLATED], most, reply_lost)

    def _isolate(self, process: Worker, most: int, reply_lost: bool = False) -> list[Item]:
        self.script = "isolate"
        process.fresh, process.silent = True, False
        waiting = {task_id for task_id, known in self.known.items() if known.suspect}
        room = self.limit - self._count(RUNNING) if self.limit else most

        items = self.bench.isolate(process.name, most, self.limit)

        if self.paused:
            assert not items
            for task_id in waiting:
                known = self.known[task_id]
                known.suspect, known.consumer, known.entry = False, "", self._entry(task_id)
            return []
        assert items.keys() <= waiting
        assert min(1, room, len(waiting)) <= len(items) <= min(most, max(room, 0))
        alone = {task_id for task_id in items if self.crashes[task_id].alone}
        assert not alone or len(items) == 1, "a task that crashed alone runs alone"
        live = self.bench.see().live
        for task_id, item in items.items():
            known, token = self.known[task_id], int(item[6])
            assert (item[4], item[5]) == (known.attempts + 1, known.max_attempts)
            assert token > self.started[task_id]
            self.started[task_id] = token
            known.state, known.consumer, known.attempts, known.token = RUNNING, process.name, item[4], token
            known.suspect, known.entry = False, live[task_id][8]
            self.crashes[task_id] = replace(self.crashes[task_id], together=len(items))
            if not reply_lost:
                process.held[task_id, token] = item
        return list(items.values())

    def ack(self, which: int, kind: str, counts: bool = True, times: int = 1, reply_lost: bool = False) -> None:
        """End an attempt that a worker believes to hold, once or repeatedly after a lost reply."""
        starts = self._starts()
        if not starts:
            return
        n, key = starts[which % len(starts)]
        for _ in range(times):
            self._ack(self.workers[n], key, kind, counts)
            self.all_is_well()
        if not reply_lost:
            del self.workers[n].held[key]

    def _ack(self, worker: Worker, key: tuple[str, int], kind: str, counts: bool = True) -> None:
        self.script = "ack"
        (task_id, token), item, state = key, worker.held[key], OUTCOMES[kind]
        known = self.known.get(task_id)
        started = known is None or (known.state, known.token) == (RUNNING, token)
        progress = self.bench.touch(item)
        assert bool(progress) == started, "progress is accepted from the latest attempt only"
        assert (progress == 2) == (started and task_id in self.asked)
        # An end of an unknown task counts when Redis was emptied after the start of the attempt, as the ledger refuses
        # a second end; otherwise the task has ended and is forgotten.
        emptied = not self.bench.epoch() or token <= self.bench.epoch()
        unknown_end = known is None and emptied and state in TERMINAL
        mine = known is not None and (known.state, known.consumer, known.token) == (RUNNING, worker.name, token)
        used = item[4] - (kind == "return" or (kind == "retry" and not counts))
        event, if_cancelled = (json.dumps({"state": end, "attempts": used}) for end in (state, CANCELLED))
        accepted = self.bench.ack(worker.name, item, kind, HOUR, used, event, if_cancelled)
        assert accepted == (mine or unknown_end), "only the holder acknowledges a task"
        asked = accepted and task_id in self.asked
        if asked:
            self.asked.remove(task_id)
        if unknown_end:
            self.known[task_id] = Known(state, "", used, 0, token)
            self.absent.discard(task_id)
            self.ends[task_id] = 0
        elif mine and known:
            if asked and state not in TERMINAL:
                state = CANCELLED
            if state == RETRYING:
                self.crashes.pop(task_id, None)
            known.state, known.attempts, known.consumer, known.entry = state, used, "", ""
            if state == QUEUED:
                known.entry = self._entry(task_id)

    # -- operators

    def cancel(self, which: set[int]) -> None:
        self.script = "cancel"
        for task_id in [task_id for n, task_id in enumerate(self.known) if n in which]:
            known = self.known[task_id]
            answer = self.bench.operations.cancel(task_id, "somebody")
            if known.state in TERMINAL:
                assert answer == "ended"
            elif known.state == RUNNING:
                assert answer == "asked"
                self.asked.add(task_id)
            else:
                assert answer == "cancelled"
                known.state, known.consumer, known.entry, known.suspect = CANCELLED, "", "", False
                known.token += 1
        assert self.bench.operations.cancel("nobody's", "somebody") == "unknown"

    def replay(self, dispatched: bool) -> None:
        """Replay as the operator does: the ledger first. Without a dispatch, the reconciler does the rest."""
        again = {task_id: row for task_id, row in self.ledger.items() if row.state in (DEAD, CANCELLED)}
        for task_id, row in again.items():
            row.state, row.attempts, row.token = QUEUED, 0, row.token + 1
            self.ends[task_id] = 0
        self.absent |= again.keys()
        self.replayed |= again.keys()
        if dispatched:
            self.script = "revive"
            self.bench.operations.revive(list(again))
            for task_id in again.keys() & self.known.keys():
                if self.known[task_id].state in (DEAD, CANCELLED):
                    del self.known[task_id]
                    self.crashes.pop(task_id, None)
            self.all_is_well()
            self.script = "dispatch"
            for task_id in again.keys() - self.known.keys():
                assert self._dispatch_again(task_id) == 1
                self._dispatched(task_id, QUEUED)

    def pause(self, n: int, resume: bool) -> None:
        """Pause the type, let a worker fetch its tasks, and resume at once or later."""
        if not self.paused:
            self.bench.limiters.pause("type:t", "ann", "moving")
            self.paused = True
            self.fetch(n, 2, sweep=True, reply_lost=False)
            self.all_is_well()
            if not resume:
                return
        self.script = "limiter_tend"
        self.bench.limiters.resume("type:t")
        self.bench.tend()
        self.paused = False
        for task_id, known in self.known.items():
            if known.state == RETRYING and known.consumer == "waited":
                known.state, known.entry = QUEUED, self._entry(task_id)

    # -- faults

    def lose_lease(self, n: int, how: str) -> None:
        worker = self.workers[n]
        if how == "leaves":
            self.bench.heartbeat(worker.name, leaving=1)
            self.left.add(worker.name)
        else:
            self.bench.expire_lease(worker.name)
        worker.fresh, worker.silent = False, True
        if how == "killed":
            self.workers[n] = Worker(f"{'alone' if n == ISOLATED else 'w'}{self.names}")
            self.names += 1

    def crash_loop(self, n: int, times: int, alone: int) -> None:
        """A worker and its successors die with the same tasks, and so do isolated processes."""
        for _ in range(times):
            self.fetch(n, 4, sweep=True, reply_lost=False)
            self.all_is_well()
            self.lose_lease(n, "killed")
        for _ in range(alone):
            self.fetch(n, 4, sweep=True, reply_lost=False)
            self.all_is_well()
            self.isolate(4, reply_lost=False)
            self.all_is_well()
            self.lose_lease(ISOLATED, "killed")

    def heartbeat(self, n: int, reply_lost: bool = False) -> None:
        """Renew the lease; after Redis was emptied, re-register the running tasks, again when the reply is lost."""
        worker = self.workers[n]
        runs = [item[2].decode() for item in worker.runs()]
        asked = self.bench.heartbeat(worker.name, held=runs)
        assert asked == [task_id in self.asked for task_id in runs]
        for task_id in runs:  # this worker lives
            if task_id in self.crashes and self.crashes[task_id].worker == worker.name:
                self.crashes[task_id] = self.crashes[task_id].taken_back()
        worker.fresh, worker.silent = True, False
        if worker.reregistered:
            return
        self.script = "reregister"
        for item in worker.runs():
            task_id, token = item[2].decode(), int(item[6])
            known = self.known.get(task_id)
            ours = known and (known.state, known.consumer, known.token) == (RUNNING, worker.name, token)
            entry = self.bench.reregister(worker.name, item)
            assert bool(entry) == (known is None or ours)
            if entry and known is None:
                self.ends[task_id] = 0  # it may have ended elsewhere and be forgotten: the ledger refuses another end
                priority = PRIORITIES[item[0] - FIRST]
                self.known[task_id] = Known(RUNNING, priority, item[4], item[5], token, worker.name, entry.decode())
            if entry and not reply_lost:
                item[1] = entry
        worker.reregistering = reply_lost
        if reply_lost:
            return
        worker.reregistered = True

    def redis_is_emptied(self, ends: list[dict[str, Any]], noticed_by: set[int]) -> None:
        if self.flushes == 2:
            return
        self.bench.flush()
        self.bench.advance_beyond(max(self.started.values(), default=0))
        self.flushes += 1
        self.paused = False  # the reconciler pauses it again; the next rule may
        self.absent = {task_id for task_id, row in self.ledger.items() if row.state not in TERMINAL}
        for worker in self.workers:
            worker.fresh, worker.reregistered = False, False
        self.left.clear()
        for forgotten in (self.known, self.ends, self.before, self.asked, self.crashes):
            forgotten.clear()
        self.read = self.written = "-"
        for end in ends:
            self.ack(**end)
        for n in noticed_by:
            self.heartbeat(n)
            self.all_is_well()

    def teardown(self) -> None:
        """With one worker left, every accepted task ends."""
        if not hasattr(self, "seen") or sys.exc_info()[0]:  # it has failed already
            return
        for n in range(len(self.workers)):
            self.lose_lease(n, "killed")
        for worker in self.workers:
            worker.silent = True
        if self.paused:
            self.pause(0, resume=True)
            self.all_is_well()
        last, alone = Worker("last"), Worker("alone")
        self.workers += [last, alone]
        for _ in range(40):
            self.record(write=True, forget=True)
            self.all_is_well()
            self.reconcile()
            self.all_is_well()
            self.promote(set(range(len(self.seen.delayed))))
            self.all_is_well()
            self._fetch(last, 100, True, reply_lost=False)
            self.all_is_well()
            self._isolate(alone, 100)
            self.all_is_well()
            for worker in (last, alone):
                for key in list(worker.held):
                    self._ack(worker, key, "done")
                    del worker.held[key]
                    self.all_is_well()
            if all(row.state in TERMINAL for row in self.ledger.values()):
                return
        raise AssertionError(f"accepted and never ended: {self.ledger}")

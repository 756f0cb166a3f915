"""Under random submissions, changes, pauses, kills, wipes and steps of the clock no limit is exceeded, and every
task runs."""

from __future__ import annotations

import json
import os
from bisect import insort
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from random import Random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from sytq import Limiter, Permit, Waiting
from sytq.broker.handover import QueueLimit
from sytq.broker.keys import GROUP
from sytq.broker.limiter import settings_of
from sytq.broker.limiters import Limiters
from sytq.states import TERMINAL
from tests.broker import clock
from tests.broker.bench import LEASE_MS, Item
from tests.broker.limiter_play import Play, acquire

LIMITERS = (
    Limiter("provider:p", concurrency=3),
    Limiter("model:m", concurrency=1),
    Limiter("host:a", concurrency=2, adaptive=True),
    Limiter("host:w", calls=4, window=0.5),
)
#: The limiters of the tasks' type and queue, which every task has.
TYPE, QUEUE = "type:t", "queue:q"
#: No task may need its fallback: a task that is not called is stranded.
NEVER = 3_600_000
WORKERS = 3


class Fetching(RuleBasedStateMachine):
    """Workers whose tasks name their limiters, on the scripts and a real Redis."""

    play: Play

    @rule(seed=st.integers(0, 2**32))
    def operate(self, seed: int) -> None:
        """Forty steps. Their randomness is not hypothesis' own, which likes to repeat itself."""
        self.random = Random(seed)
        for name in self.random.choices([name for name, _ in MENU], [times for _, times in MENU], k=40):
            getattr(self, name)()
            self.check()

    def __init__(self) -> None:
        super().__init__()
        bench = self.play.bench
        bench.redis.ask("FLUSHALL")
        bench.make_groups()
        self.random = Random(0)
        self.limits = {limiter.name: limiter for limiter in LIMITERS}
        self.type = Limiter(TYPE, concurrency=6)
        self.queue = QueueLimit()
        self.allowed = {limiter.name: limiter.concurrency for limiter in (*LIMITERS, self.type)} | {QUEUE: 0}
        self.type_paused = False
        #: Task and time of a permit that was handed over before the clock was set back -> that time by the new clock.
        self.handed: dict[tuple[str, int], int] = {}
        self.wants: dict[str, tuple[str, ...]] = {}
        self.tokens: dict[str, int] = {}
        self.running: dict[str, tuple[str, Item]] = {}
        self.fetched: dict[str, Permit | None] = {}
        self.inside: dict[str, list[Permit]] = {}  # tasks that run, with the permits of their calls
        self.staying: dict[str, Permit] = {}  # attempts that wait in place
        self.pruned: set[str] = set()  # tasks that may have left a permit behind, which is freed in time
        self.calls: dict[str, list[int]] = defaultdict(list)
        self.names = 0  # of workers: a dead one is replaced
        self.ended: set[str] = set()
        self.play.limiters = self.fresh()

    def fresh(self) -> Limiters:
        return Play(self.play.bench).limiters

    def workers(self) -> list[str]:
        return [f"w{self.names + n}" for n in range(WORKERS)]

    def heartbeat(self) -> None:
        for worker in self.workers():
            self.play.bench.heartbeat(worker)

    # -- clients and operators

    def submit(self) -> None:
        if len(self.wants) - len(self.ended) < 25:
            name = f"t{len(self.wants):03}"
            self.wants[name] = tuple(self.random.sample(sorted(self.limits), self.random.choice([0, 1, 1, 1, 2])))
            self.dispatch(name)

    def dispatch(self, name: str) -> None:
        token = self.tokens.get(name, 0)
        self.play.bench.dispatch(
            name, max_attempts=0, token=token, created_ms=int(name[1:]) + 1, limiters=self.wants[name]
        )

    def change(self) -> None:
        concurrent = [name for name, limiter in self.limits.items() if limiter.concurrency]
        name = self.random.choice([TYPE, QUEUE, *concurrent])
        if name == TYPE:
            self.type = replace(self.type, concurrency=self.random.randint(1, 8))
            self.allowed[name] = max(self.allowed[name], self.type.concurrency)
            return
        if name == QUEUE:
            self.queue = self.play.bench.limits["q"] = QueueLimit(running=self.random.choice([0, 1, 3, 6]))
            self.allowed[name] = max(self.allowed[name], self.queue.running)
            return
        self.limits[name] = replace(self.limits[name], concurrency=self.random.randint(1, 4))
        self.allowed[name] = max(self.allowed[name], self.limits[name].concurrency)

    def pause(self) -> None:
        name = self.random.choice([TYPE, *sorted(self.limits)])
        self.play.limiters.pause(name, "ann", "moving")
        self.type_paused |= name == TYPE

    def resume(self) -> None:
        for name in (TYPE, *self.limits):
            self.play.limiters.resume(name)
        self.type_paused = False

    def cancel(self) -> None:
        if self.wants and self.random.random() < 0.3:
            name = self.random.choice(sorted(self.wants))
            if self.play.bench.operations.cancel(name, "ann") == "cancelled":
                self.ended.add(name)

    # -- workers

    def fetch(self) -> None:
        self.heartbeat()
        worker = self.random.choice(self.workers())
        held = [(item[0], item[1].decode()) for by, item in self.running.values() if by == worker]
        self.play.bench.redis.ask("DEL", self.play.bench.keys.crashes)  # no task becomes a suspect
        slots = self.random.randint(1, 6)
        epoch = str(self.play.bench.epoch()) if self.random.random() < 0.95 else "-"
        types = json.dumps({"t": settings_of(self.type)})
        limit = self.queue.running
        found = self.play.bench.fetch(worker, slots, limit, sweep=True, held=held, permits=epoch, types=types)
        assert not (found and self.type_paused), "a task of a paused type starts"
        if epoch == "-":
            self.pruned |= self.wants.keys() - self.ended  # what they were handed is not taken over
        for name, item in found.items():
            self.running[name], self.tokens[name] = (worker, item), int(item[6])
            self.begin(name, item)
        self.no_fallback()

    def begin(self, name: str, item: Item) -> None:
        """What `ctx.acquire` does with the limits that this worker knows now."""
        fetched = self.fetched[name] = self.permit_of(name, item)
        self.inside[name] = []
        further = self.random.choice(sorted(self.limits))
        goes_on = not self.wants[name] or self.enter(name, self.wants[name], fetched)
        if goes_on and further not in self.wants[name] and self.random.random() < 0.3:
            self.enter(name, (further,), fetched, in_place_ms=self.random.choice([0, 10_000_000]))

    def permit_of(self, name: str, item: Item) -> Permit | None:
        if len(item) <= 7 or not item[7]:
            return None
        at, _awaited, cost, *limits = (part.decode() for part in item[7])
        pairs = dict(zip(limits[::2], limits[1::2], strict=True))
        return Permit.fetched(name, int(item[6]), int(name[1:]) + 1, pairs, int(at), int(cost))

    def enter(self, name: str, names: Sequence[str], fetched: Permit | None, in_place_ms: int = 0) -> bool:
        limiters = [self.limits[each] for each in names]
        permit = Permit(name, int(self.running[name][1][6]), int(name[1:]) + 1, limiters, 0).or_fetched(fetched)
        if permit is not fetched:
            permit.in_place_ms = in_place_ms
            return self.ask(name, permit)
        self.enters(name, permit)
        return True

    def ask(self, name: str, permit: Permit) -> bool:
        """Acquire; an attempt that is refused asks again, or waits without a slot."""
        try:
            acquire(self.play.limiters, permit)
        except Waiting:
            if permit.in_place_ms:
                self.staying[name] = permit
                return False
            self.staying.pop(name, None)
            self.leave(name)
            fetched = self.fetched[name]
            self.end(name, "wait", fetched.outcome if fetched else "unused", permit.wanted(fetched))
            return False
        self.staying.pop(name, None)
        self.enters(name, permit)
        return True

    def ask_again(self) -> None:
        for name, permit in list(self.staying.items()):
            permit.in_place_ms = self.random.choice([0, 10_000_000])
            self.ask(name, permit)

    def enters(self, name: str, permit: Permit) -> None:
        self.inside[name].append(permit)
        assert permit.acquired_ms
        at = self.handed.get((name, permit.acquired_ms), permit.acquired_ms)
        for each in permit.limits:
            insort(self.calls[each], at)  # a permit that was handed over may be older than the last

    def leave(self, name: str) -> None:
        for permit in self.inside.pop(name):
            if permit is self.fetched[name]:
                continue
            if self.random.random() < 0.9:
                self.play.limiters.release_all([permit])
            else:
                self.pruned.add(name)

    def finish(self) -> None:
        ready = sorted(self.inside.keys() - self.staying.keys())
        for name in self.random.sample(ready, min(len(ready), self.random.randint(1, 4))):
            outcome = self.random.choice(["ok", "ok", "overloaded", "failed", "ignored"])
            self.leave(name)
            self.end(name, self.random.choice(["done", "done", "done", "return"]), outcome)

    def end(self, name: str, kind: str, outcome: str, wanted: str = "") -> None:
        worker, item = self.running.pop(name)
        delay = NEVER if kind == "wait" else 0
        ended = self.play.bench.ack(worker, item, kind, delay_ms=delay, permit_outcome=outcome, wanted=wanted)
        assert ended == 1
        live = self.play.bench.live(name)
        assert live
        if live[0] in TERMINAL:
            self.ended.add(name)

    def kill(self) -> None:
        self.heartbeat()  # so that no other lease expires when this machine stalls
        worker, self.names = self.workers()[0], self.names + 1
        self.heartbeat()
        self.play.bench.expire_lease(worker)
        for name in [name for name, (by, _) in self.running.items() if by == worker]:
            del self.running[name], self.inside[name]
            self.staying.pop(name, None)
            self.pruned.add(name)

    def note_ends(self) -> None:
        """A fetch ends the task of a dead worker whose cancellation was asked for."""
        for name in self.wants.keys() - self.ended:
            live = self.play.bench.live(name)
            if live and live[0] in TERMINAL:
                self.ended.add(name)

    def wipe(self) -> None:
        """Redis is emptied; each worker notices, and grants no permit until all have entered theirs."""
        self.note_ends()
        bench = self.play.bench
        bench.flush()
        self.heartbeat()
        for worker, item in self.running.values():
            entry = bench.reregister(worker, item)
            assert entry
            item[1] = entry
        self.play.limiters._held.clear()  # but of those that are still held
        for name, permits in self.inside.items():
            for permit in [*permits, fetched] if (fetched := self.fetched[name]) else permits:
                self.play.limiters.hold(permit)
        self.play.limiters.recount()
        for name in self.inside:
            if fetched := self.fetched[name]:
                self.running[name][1][7][0] = str(fetched.acquired_ms).encode()
        self.calls.clear()  # the windows are lost
        self.type_paused = False  # as the reconciler has not entered it yet
        bench.advance(LEASE_MS)
        for name in self.wants.keys() - self.running.keys() - self.ended:
            self.dispatch(name)

    def step_clock(self) -> None:
        """The clock of Redis' machine is set."""
        ms = self.random.choice([700, 30_000, 3_600_000])
        if self.random.random() < 0.5:
            clock.advance_ms(self.play.bench.redis, ms)
            self.calls.clear()  # as far as anybody can tell the time has passed
        else:
            redis, delayed = self.play.bench.redis, self.play.bench.keys.delayed("q")
            clock.advance_ms(redis, -ms)
            for name in redis.ask("ZRANGE", delayed, 0, -1):
                redis.ask("ZINCRBY", delayed, -ms, name)  # what waits for a time does so for longer
            self.calls = defaultdict(list, {name: [at - ms for at in calls] for name, calls in self.calls.items()})
            held = redis.ask("ZRANGE", self.play.bench.keys.permits, 0, -1)
            for name, at in {(permit.decode().split("|")[1], int(permit.rpartition(b"|")[2])) for permit in held}:
                self.handed[name, at] = self.handed.get((name, at), at) - ms
            for worker in redis.ask("ZRANGE", self.play.bench.keys.workers, 0, -1):
                if worker.decode() not in self.workers():  # the dead stay silent, though their leases are of the future
                    redis.ask("ZADD", self.play.bench.keys.workers, self.play.bench.now_ms() - LEASE_MS - 1, worker)

    # -- loops

    def promote(self) -> None:
        self.play.bench.promote()

    def tend(self) -> None:
        self.play.tend()

    def wait(self) -> None:
        self.play.later(self.random.choice([0.05, 0.3, 1.0]))
        self.no_fallback()

    def no_fallback(self) -> None:
        redis, keys = self.play.bench.redis, self.play.bench.keys
        for name, text in redis.ask("HGETALL", keys.waiting).items():
            if b'"granted"' not in text:
                redis.ask("ZADD", keys.delayed("q"), "XX", self.play.bench.now_ms() + NEVER, name)

    # -- what holds

    def check(self) -> None:
        for name, limiter in self.limits.items():
            inside = sum(any(name in permit.limits for permit in permits) for permits in self.inside.values())
            if limiter.concurrency:
                assert inside <= self.allowed[name], f"{inside} at {name}, {self.allowed[name]} allowed"
                self.allowed[name] = max(limiter.concurrency, min(self.allowed[name], inside))
            else:
                for first, last in zip(self.calls[name], self.calls[name][limiter.calls :], strict=False):
                    assert last - first >= limiter.window * 1000, f"too many calls at {name}"
        of_type = len(self.running)
        assert of_type <= self.allowed[TYPE], f"{of_type} run, {self.allowed[TYPE]} allowed"
        # A dead worker's tasks start again with the permits that they hold, unless these were freed before.
        redis, keys = self.play.bench.redis, self.play.bench.keys
        held = int(redis.ask("ZLEXCOUNT", keys.permits, f"[{TYPE}|", f"({TYPE}}}"))
        self.allowed[TYPE] = max(self.type.concurrency, min(self.allowed[TYPE], max(of_type, held)))
        places = self.places()
        if self.queue.running:
            assert places <= self.allowed[QUEUE], f"{places} have a place in the queue, {self.allowed[QUEUE]} allowed"
            self.allowed[QUEUE] = max(self.queue.running, min(self.allowed[QUEUE], places))
        else:
            self.allowed[QUEUE] = places
        for permit in self.play.bench.redis.ask("ZRANGE", self.play.bench.keys.permits, 0, -1):
            limiter_name, task, _token, number, _at = permit.decode().split("|")
            if number != "0":
                continue  # of an attempt that waited in place, whose worker died meanwhile: freed in time
            live = self.play.bench.live(task)
            known = task in self.running or task in self.pruned or (live and live[7] == "granted")
            assert known or not live or live[0] == "cancelled", f"{task} waits, and holds a permit of {limiter_name}"

    def places(self) -> int:
        """How many tasks run in the queue, those of dead workers among them until they start again."""
        bench = self.play.bench
        return sum(bench.redis.ask("XPENDING", stream, GROUP)["pending"] for stream in bench.keys.streams("q"))

    def teardown(self) -> None:
        self.resume()
        for _ in range(200):
            self.fetch()
            self.check()
            self.ask_again()
            self.finish()
            self.tend()
            self.promote()
            self.play.later(0.1)
            if not self.unfinished():
                break
        assert not self.unfinished(), f"stranded: {self.unfinished()}"
        self.play.later(6)  # a cancelled task may still hold a permit that it was handed
        self.heartbeat()
        self.tend()
        keys = self.play.bench.keys
        left = (keys.wait_queues, keys.waiting, keys.permits)
        assert [key for key in left if self.play.bench.redis.ask("EXISTS", key)] == []

    def unfinished(self) -> dict[str, object]:
        self.note_ends()
        redis, keys = self.play.bench.redis, self.play.bench.keys
        left = [name for name in self.wants if name not in self.ended]
        return {name: (self.play.bench.live(name), redis.ask("HGET", keys.waiting, name)) for name in left[:3]}


#: Each operation, and how often it is drawn.
MENU = [
    *[("submit", 10), ("fetch", 10), ("finish", 9), ("ask_again", 4), ("promote", 5), ("tend", 4), ("wait", 3)],
    *[("change", 1), ("pause", 1), ("resume", 2), ("cancel", 1), ("kill", 1), ("wipe", 0.4), ("step_clock", 0.5)],
]


def test_no_limit_is_exceeded_and_every_task_runs(play: Play) -> None:
    on_it = play

    class Life(Fetching):
        play = on_it

    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=15,
            stateful_step_count=4,
            deadline=None,
            derandomize=bool(os.environ.get("CI")),
            suppress_health_check=list(HealthCheck),
        ),
    )

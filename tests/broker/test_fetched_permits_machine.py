"""Under random submissions, changes of limits, pauses, kills and wipes no limit is exceeded and every task runs."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import replace
from random import Random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from sytq import Limiter, Permit, Waiting
from sytq.broker.limiter import settings_of
from sytq.broker.limiters import Limiters
from sytq.states import TERMINAL
from tests.broker.bench import LEASE_MS, Item
from tests.broker.limiter_play import Play

LIMITERS = (
    Limiter("provider:p", concurrency=3),
    Limiter("model:m", concurrency=1),
    Limiter("host:a", concurrency=2, adaptive=True),
    Limiter("host:w", calls=4, window=0.5),
)
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
        self.allowed = {limiter.name: limiter.concurrency for limiter in LIMITERS}
        self.wants: dict[str, tuple[str, ...]] = {}
        self.tokens: dict[str, int] = {}
        self.running: dict[str, tuple[str, Item]] = {}
        self.inside: dict[str, Permit | None] = {}  # tasks in their calls; None: a fetch granted the permits
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
        name = self.random.choice([name for name, limiter in self.limits.items() if limiter.concurrency])
        self.limits[name] = replace(self.limits[name], concurrency=self.random.randint(1, 4))
        self.allowed[name] = max(self.allowed[name], self.limits[name].concurrency)

    def pause(self) -> None:
        self.play.limiters.pause(self.random.choice(sorted(self.limits)), "ann", "moving")

    def resume(self) -> None:
        for name in self.limits:
            self.play.limiters.resume(name)

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
        found = self.play.bench.fetch(worker, slots=slots, sweep=True, held=held, permits=epoch)
        for name, item in found.items():
            self.running[name], self.tokens[name] = (worker, item), int(item[6])
            self.inside.pop(name, None)
            self.begin(name, item)
        self.no_fallback()

    def begin(self, name: str, item: Item) -> None:
        """What `ctx.acquire` does with the limits that this worker knows now."""
        limiters = [self.limits[each] for each in self.wants[name]]
        at, _awaited, *limits = item[7] if len(item) > 7 else (0, b"")
        pairs = dict(zip(limits[::2], limits[1::2], strict=True))
        if pairs == {limiter.name.encode(): settings_of(limiter).encode() for limiter in limiters}:
            self.inside[name] = None
            for each in self.wants[name]:
                self.calls[each].append(int(at))
            return
        permit = Permit(name, int(item[6]), int(name[1:]) + 1, limiters, 0)
        try:
            self.play.limiters.acquire(permit)
        except Waiting:
            self.end(name, "retry", "unused")
            return
        self.inside[name] = permit
        for each in self.wants[name]:
            assert permit.acquired_ms
            self.calls[each].append(permit.acquired_ms)

    def finish(self) -> None:
        for name in self.random.sample(sorted(self.inside), min(len(self.inside), self.random.randint(1, 4))):
            outcome = self.random.choice(["ok", "ok", "overloaded", "failed", "ignored"])
            permit = self.inside.pop(name)
            if permit is not None and self.random.random() < 0.9:  # else the release never reaches Redis
                self.play.limiters.release(permit)
            self.end(name, self.random.choice(["done", "done", "done", "return"]), outcome)

    def end(self, name: str, kind: str, outcome: str) -> None:
        worker, item = self.running.pop(name)
        delay = NEVER if kind == "retry" else 0
        assert self.play.bench.ack(worker, item, kind, delay_ms=delay, permit_outcome=outcome) == 1
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
            del self.running[name]
            self.inside.pop(name, None)

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
        for name, permit in self.inside.items():
            if permit is None and self.wants[name]:
                _, item = self.running[name]
                at, _awaited, *limits = item[7]
                texts = [each.decode() for each in limits]
                pairs = dict(zip(texts[::2], texts[1::2], strict=True))
                self.play.limiters.hold(Permit.fetched(name, int(item[6]), int(name[1:]) + 1, pairs, int(at)))
        self.play.limiters.recount()
        self.play.limiters._held.clear()
        self.calls.clear()  # the windows are lost
        bench.advance(LEASE_MS)
        for name in self.wants.keys() - self.running.keys() - self.ended:
            self.dispatch(name)

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
            if b'"till"' not in text:
                redis.ask("ZADD", keys.delayed("q"), "XX", self.play.bench.now_ms() + NEVER, name)

    # -- what holds

    def check(self) -> None:
        for name, limiter in self.limits.items():
            inside = sum(name in self.wants[task] for task in self.inside)
            if limiter.concurrency:
                assert inside <= self.allowed[name], f"{inside} at {name}, {self.allowed[name]} allowed"
                self.allowed[name] = max(limiter.concurrency, min(self.allowed[name], inside))
            else:
                for first, last in zip(self.calls[name], self.calls[name][limiter.calls :], strict=False):
                    assert last - first >= limiter.window * 1000, f"too many calls at {name}"

    def teardown(self) -> None:
        self.resume()
        for _ in range(200):
            self.fetch()
            self.check()
            self.finish()
            self.tend()
            self.promote()
            self.play.later(0.1)
            if not self.unfinished():
                break
        assert not self.unfinished(), f"stranded: {self.unfinished()}"
        self.play.later(6)  # a permit may still be reserved for a cancelled task
        self.heartbeat()
        self.tend()
        keys = self.play.bench.keys
        left = (keys.wait_queues, keys.waiting, keys.permits, keys.reservations)
        assert [key for key in left if self.play.bench.redis.ask("EXISTS", key)] == []

    def unfinished(self) -> dict[str, object]:
        self.note_ends()
        redis, keys = self.play.bench.redis, self.play.bench.keys
        left = [name for name in self.wants if name not in self.ended]
        return {name: (self.play.bench.live(name), redis.ask("HGET", keys.waiting, name)) for name in left[:3]}


#: Each operation, and how often it is drawn.
MENU = [
    *[("submit", 10), ("fetch", 10), ("finish", 9), ("promote", 5), ("tend", 4), ("wait", 3)],
    *[("change", 1), ("pause", 1), ("resume", 2), ("cancel", 1), ("kill", 1), ("wipe", 0.4)],
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

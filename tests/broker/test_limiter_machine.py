"""Random workers, faults and operators exceed no limit, and no waiting task is forgotten."""

from __future__ import annotations

import os.path
from collections import defaultdict
from random import Random

import pytest

from sytq import Limiter, Permit
from sytq.embedded import find_server
from sytq.states import TERMINAL
from tests.broker.limiter_play import Play
from tests.topologies import server_programs

LIMITERS = [
    Limiter("provider:p", concurrency=3),
    Limiter("model:m", concurrency=1),
    Limiter("model:n", concurrency=2, adaptive=True),
    Limiter("host:h", calls=4, window=0.3),
    Limiter("free"),
]
#: No test waits for a fallback: a task without a reservation is stranded.
NEVER = 3600.0


class Life:
    """Random workers on a real Redis, and the calls in progress as the workers know them."""

    def __init__(self, play: Play, random: Random) -> None:
        self.play = play
        self.random = random
        self.wants: dict[str, list[Limiter]] = {}
        self.inside: dict[str, Permit] = {}
        self.refused: set[str] = set()  # and not acknowledged yet
        self.begun: dict[str, list[int]] = defaultdict(list)
        self.workers = 3
        self.dead: set[str] = set()

    def submit(self) -> None:
        name = f"t{len(self.wants):03}"
        self.wants[name] = self.random.sample(LIMITERS, self.random.randint(1, 3))
        self.play.submit(name)

    def heartbeat(self) -> None:
        for worker in range(self.workers - 3, self.workers):
            self.play.bench.heartbeat(f"w{worker}")

    def fetch(self) -> None:
        self.heartbeat()
        worker = f"w{self.random.randrange(self.workers - 3, self.workers)}"
        # The tasks of killed workers start again, and their calls in progress are gone.
        for name in self.play.start(worker, slots=self.random.randint(1, 5), sweep=self.random.random() < 0.3):
            self.inside.pop(name, None)
            self.refused.discard(name)

    def acquire(self) -> None:
        ready = sorted(self.play.started.keys() - self.inside.keys() - self.refused)
        names = self.random.sample(ready, min(len(ready), self.random.randint(1, 3)))
        permits = [self.play.permit(name, *self.wants[name]) for name in names]
        refusals = self.play.limiters.acquire_all(permits)
        acquired = [permit for permit in permits if permit.acquired_ms]
        if acquired and self.random.random() < 0.1:
            self.play.limiters._acquire(acquired)  # the reply was lost
        for name, permit, refusal in zip(names, permits, refusals, strict=True):
            if refusal is not None:
                self.refused.add(name)
                if self.random.random() < 0.7:
                    self.ack_refused(name)
                continue
            self.inside[name] = permit
            assert permit.acquired_ms
            for limiter in (one for one in LIMITERS if one.name in permit.limits):
                self.begun[limiter.name].append(permit.acquired_ms)

    def ack_refused(self, name: str) -> None:
        self.refused.discard(name)
        worker, item = self.play.started.pop(name)
        if self.play.bench.ack(worker, item, "retry", delay_ms=int(NEVER * 1000)) == 0:
            assert worker in self.dead

    def release(self) -> None:
        names = self.random.sample(sorted(self.inside), min(len(self.inside), self.random.randint(1, 3)))
        permits = [self.inside.pop(name) for name in names]
        for permit in permits:
            permit.report(self.random.choice(["ok", "ok", "overloaded", "failed", "ignored"]))
        if self.random.random() < 0.8:  # else the release never reaches Redis
            self.play.limiters.release_all(permits)
        for name in names:
            if self.random.random() < 0.8:
                self.play.ack(name)

    def kill(self) -> None:
        self.heartbeat()  # so that no other lease expires when this machine stalls
        worker = f"w{self.workers - 3}"
        self.workers += 1  # a new worker replaces it
        self.dead.add(worker)
        for name in sorted(self.refused):
            if self.play.started[name][0] != worker:
                self.ack_refused(name)  # no living worker takes as long as a reservation lasts
        self.play.bench.expire_lease(worker)
        for name, (held_by, _item) in list(self.play.started.items()):
            if held_by == worker:
                del self.play.started[name]
                self.inside.pop(name, None)
                self.refused.discard(name)

    def cancel(self) -> None:
        if self.wants:
            self.play.bench.operations.cancel(self.random.choice(list(self.wants)), "ann")

    def unfinished(self) -> list[str]:
        found = {name: self.play.bench.live(name) for name in self.wants}
        return [name for name, live in found.items() if live is None or live[0] not in TERMINAL]

    def promote(self) -> None:
        self.play.bench.promote()

    def tend(self) -> None:
        self.play.tend()

    def check(self) -> None:
        for limiter in LIMITERS:
            if limiter.concurrency:
                inside = sum(limiter.name in permit.limits for permit in self.inside.values())
                assert inside <= limiter.concurrency, f"{inside} at {limiter.name}"
            if limiter.calls:
                times = self.begun[limiter.name]
                for first, last in zip(times, times[limiter.calls :], strict=False):
                    assert last - first >= limiter.window * 1000, f"too many calls at {limiter.name}"


OPS = [
    *["submit"] * 6,
    *["fetch"] * 8,
    *["acquire"] * 12,
    *["release"] * 8,
    *["promote"] * 4,
    *["tend"] * 3,
    "kill",
    "cancel",
]


#: Four on the server that all other tests use, one on each other.
RUNS = [
    pytest.param(program, seed, id=f"{name}-{seed}")
    for name, program in server_programs().items()
    for seed in range(4 if os.path.realpath(program) == os.path.realpath(find_server()) else 1)
]


@pytest.mark.parametrize(("every_server", "seed"), RUNS, indirect=["every_server"])
def test_no_limit_is_exceeded_and_no_waiting_task_is_stranded(play: Play, seed: int) -> None:
    life = Life(play, Random(seed))
    for _ in range(400):
        getattr(life, life.random.choice(OPS))()
        life.check()
    rounds = 0
    while life.unfinished():
        rounds += 1
        assert rounds < 5000, f"stranded: {stranded(life)}"
        for name in sorted(life.refused):
            life.ack_refused(name)
        for _ in range(10):
            life.acquire()
            life.check()
            life.release()
        life.heartbeat()
        life.tend()
        life.promote()
        for worker in range(life.workers - 3, life.workers):
            for name in life.play.start(f"w{worker}", sweep=True):
                life.inside.pop(name, None)
                life.refused.discard(name)
        play.later(0.02)

    play.later(6)  # a permit may still be reserved for a cancelled task
    life.tend()
    keys = play.bench.keys
    left = (keys.wait_queues, keys.waiting, keys.permits, keys.reservations)
    assert [key for key in left if play.bench.redis.ask("EXISTS", key)] == []


def stranded(life: Life) -> dict[str, object]:
    redis, keys = life.play.bench.redis, life.play.bench.keys
    return {name: (life.play.bench.live(name), redis.ask("HGET", keys.waiting, name)) for name in life.unfinished()[:3]}

"""The model of a queue, and the operations of machine.py with their odds."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from sytq.states import CANCELLED, DEAD, PRIORITIES, QUEUED, RETRYING, TERMINAL
from tests.broker.bench import Item

DOCS = Path(__file__).parents[2] / "docs/task-life.md"
#: The state of a task unknown to Redis, as in the diagram.
UNKNOWN = "[*]"
OUTCOMES = {"done": "succeeded", "dead": DEAD, "cancelled": CANCELLED, "retry": RETRYING, "return": QUEUED}
#: The max_attempts of a task; 0 means unbounded.
BOUNDS = (1, 2, 3, 0)
MAX_CRASHES = 2
#: The number of the isolated process among the machine's workers.
ISOLATED = 3
SILENT = ("stopped", "leaves", "killed")
HOUR = 3_600_000

Change = tuple[str, str, str]  # state before, state after, script


def documented_changes() -> set[Change]:
    found = re.findall(r"^ *(\S+) --> (\S+): (.+)$", DOCS.read_text(), re.MULTILINE)
    return {(before, after, script) for before, after, scripts in found for script in scripts.split(", ")}


@dataclass
class Known:
    """The expected state index entry of a task. The fencing token belongs to its latest attempt."""

    state: str
    priority: str
    attempts: int
    max_attempts: int
    token: int = 0
    consumer: str = ""
    entry: str = ""
    recorded: bool = False  # the ledger has its end
    suspect: bool = False  # it waits to run alone

    def value(self) -> list[str]:
        queue = "q" if self.priority else ""
        numbers = map(str, (self.attempts, self.max_attempts, self.token))
        consumer = "suspect" if self.suspect else self.consumer
        return [self.state, "t", queue, self.priority, *numbers, consumer, self.entry]


@dataclass(frozen=True)
class Crashes:
    """The expected crashes of a task's workers."""

    ordinary: int = 0
    level: int = 0
    alone: int = 0
    together: int = 0  # the suspects that its isolated process began with; 0: its worker is an ordinary one
    worker: str = ""  # of the latest crash, which added one to `counted`
    counted: str = ""
    resumed: int = 0  # how often one was taken back

    @property
    def suspect(self) -> bool:
        return self.ordinary >= 2

    def after(self, worker: str, left: bool) -> Crashes:
        """When `worker` has died, or has `left`."""
        if left:
            return replace(self, together=0)
        counted = {0: "ordinary", 1: "alone"}.get(self.together, "level")
        more = {counted: getattr(self, counted) + 1}
        return replace(self, **more, together=0, worker=worker, counted=counted)  # type: ignore[arg-type]

    def taken_back(self) -> Crashes:
        if self.resumed == 3:
            return self
        less = {self.counted: getattr(self, self.counted) - 1}
        return replace(self, **less, worker="", resumed=self.resumed + 1)


@dataclass
class Row:
    """A task in the ledger."""

    priority: str
    max_attempts: int
    state: str = QUEUED
    token: int = 0
    attempts: int = 0

    def record(self, state: str, token: int, attempts: int) -> None:
        """As the ledger's UPDATE: an end stays, and an older attempt does not overwrite a later one."""
        if self.state not in TERMINAL and self.token <= token:
            self.state, self.token, self.attempts = state, token, attempts


@dataclass
class Worker:
    name: str
    fresh: bool = False  # its heartbeat is
    silent: bool = False  # stopped or disconnected: it does nothing until it returns
    reregistered: bool = True  # its running tasks, since Redis was emptied
    reregistering: bool = False  # it does not know all their new entries yet
    held: dict[tuple[str, int], Item] = field(
        default_factory=dict
    )  # (id, token) -> an attempt without an acknowledgement

    def runs(self) -> list[Item]:
        """Its latest attempt of each task."""
        return list({task_id: item for (task_id, _), item in sorted(self.held.items())}.values())


def _task(random: Random) -> dict[str, Any]:
    return {
        "priority": random.choice(PRIORITIES),
        "delayed": random.random() < 0.3,
        "max_attempts": random.choice(BOUNDS),
        "arrives": random.random() < 0.9,
    }


def _fetch(random: Random) -> dict[str, Any]:
    lost = random.random() < 0.2
    return {"n": random.randrange(3), "slots": random.randint(1, 4), "sweep": random.random() < 0.6, "reply_lost": lost}


def _end(random: Random) -> dict[str, Any]:
    return {
        "which": random.randrange(10),
        "kind": random.choice(list(OUTCOMES)),
        "counts": random.random() < 0.7,
        "times": random.choice((1, 1, 2)),
        "reply_lost": random.random() < 0.3,
    }


def _some(random: Random) -> set[int]:
    return {n for n in range(12) if random.random() < 0.3}


#: What may happen: how often, a method of the machine, its arguments.
MENU: tuple[tuple[int, str, Callable[[Random], dict[str, Any]]], ...] = (
    (6, "accept", _task),
    (10, "fetch", _fetch),
    (5, "isolate", lambda random: {"most": random.randint(1, 4), "reply_lost": random.random() < 0.1}),
    (10, "ack", _end),
    (4, "promote", lambda random: {"which": _some(random)}),
    (3, "lose_lease", lambda random: {"n": random.randrange(4), "how": random.choice(SILENT)}),
    (3, "crash_loop", lambda random: {"n": random.randrange(3), "times": 2, "alone": random.randrange(4)}),
    (3, "heartbeat", lambda random: {"n": random.randrange(4), "reply_lost": random.random() < 0.3}),
    (4, "record", lambda random: {"write": random.random() < 0.6, "forget": random.random() < 0.6}),
    (3, "reconcile", lambda random: {}),
    (2, "cancel", lambda random: {"which": _some(random)}),
    (2, "replay", lambda random: {"dispatched": random.random() < 0.7}),
    (1, "pause", lambda random: {"n": random.randrange(3), "resume": random.random() < 0.9}),
    (1, "redis_is_emptied", lambda random: {"ends": [_end(random)], "noticed_by": _some(random) & {0, 1, 2, ISOLATED}}),
)

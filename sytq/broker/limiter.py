"""Gates: something outside that many tasks share (a provider, one model of it, a host), with what it bears.

Owns the words Gate, Breaker and Passage, and a worker's way in and out. Every decision is made in Redis, for all
workers and all gates of a passage at once (`_limiters.lua`, `limiter_*.lua`); docs/gates.md says what is counted.
Must not know what lies behind a gate.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import structlog

from sytq.broker.connection import Redis
from sytq.broker.keys import Keys
from sytq.errors import InvalidInput, Lost, RedisUnavailable, Waiting

log = structlog.get_logger(__name__)

PermitOutcome = Literal["ok", "overloaded", "failed", "ignored"]

_NAME = re.compile(r"[!-{}~]{1,300}")
_MOST_GATES = 8
#: A task that waits is called as soon as there is room, so its own time is a fallback: the estimate and a margin.
_MARGIN = (1.2, 5.0)
_LONGEST = 600.0


@dataclass(frozen=True)
class Breaker:
    """When a gate stops letting calls through. Times are seconds; the words are those of circuit breakers.

    Closed: calls pass; when of at least `min_calls` results within `interval` the part `fail_threshold` has failed, it
    opens. Open: nothing passes for `timeout`. Half open: `max_requests` calls pass; when all of them succeed it closes,
    when one fails it opens again.
    """

    max_requests: int = 2
    interval: float = 60.0
    timeout: float = 120.0
    fail_threshold: float = 0.5
    min_calls: int = 5

    def __post_init__(self) -> None:
        for name in ("max_requests", "interval", "timeout", "min_calls"):
            if getattr(self, name) <= 0:
                raise ValueError(f"Breaker: {name} must be above 0, not {getattr(self, name)}")
        if not 0 < self.fail_threshold <= 1:
            raise ValueError(f"Breaker: fail_threshold must be above 0 and at most 1, not {self.fail_threshold}")


@dataclass(frozen=True)
class Limiter:
    """A gate and what it bears, over all workers; 0 is no limit.

    `running`: most passages at once; with `adaptive` the limit in force moves between 1 and that, by what `report`
    says. `calls`, `units`: most passages, and units of them (tokens), begun within any `window` seconds.
    The limits are those of the latest passage; gates are told apart by `name` alone, such as "provider:deepseek".
    """

    name: str
    running: int = 0
    adaptive: bool = False
    calls: int = 0
    units: int = 0
    window: float = 60.0
    breaker: Breaker | None = None

    def __post_init__(self) -> None:
        check_limiter_name(self.name)
        for name in ("running", "calls", "units"):
            if getattr(self, name) < 0:
                raise ValueError(f"Gate {self.name}: {name} must not be below 0: {getattr(self, name)}")
        if self.window <= 0:
            raise ValueError(f"Gate {self.name}: window must be above 0 s, not {self.window}")


class Permit:
    """One way through gates; made by `ctx.passage`."""

    def __init__(self, task_id: str, token: int, created_ms: int, gates: Iterable[Limiter], units: int) -> None:
        self.gates = list({gate.name: gate for gate in gates}.values())
        if len(self.gates) > _MOST_GATES:
            raise ValueError(f"a passage goes through at most {_MOST_GATES} gates, not {len(self.gates)}")
        self.task_id = task_id
        self.token = token
        self.created = f"{created_ms:013d}"
        self.reserved = self.units = max(0, units)
        self.outcome: PermitOutcome = "ignored"
        self.id = os.urandom(6).hex()
        self.begun_ms: int | None = None  # None outside
        self.over = False
        self.lock = threading.Lock()  # a cancelled task leaves while it may still be entering on another thread

    def report(self, outcome: PermitOutcome, *, units: int | None = None) -> None:
        """Say how the call went, and how many units it really took; the last word counts.

        "ok", "overloaded" (the other side has too much to do), "failed" (it does not work), "ignored" (the call says
        nothing about the other side; also without a report). The breaker counts the first three, the second and third
        as failures; the adaptive limit goes up by the first and down by the second.
        """
        if outcome not in get_args(PermitOutcome):
            raise ValueError(f"report: '{outcome}' is not valid; valid: {', '.join(get_args(PermitOutcome))}")
        self.outcome = outcome
        if units is not None:
            self.units = max(0, units)


class Limiters:
    """The ways through gates; `queues` are those whose waiting tasks can be called."""

    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        liveness: float,
        queues: Iterable[str] = (),
        epoch: Callable[[], bytes | None] = lambda: None,
    ) -> None:
        self._redis = redis
        self._keys = keys
        self._names = limiter_keys(keys)
        self._liveness = liveness
        self._queues = queues
        self._epoch = epoch  # in a worker: the Redis that it knows
        self._inside: dict[str, Permit] = {}
        self._closed_until = 0.0

    def enter(self, passage: Permit) -> None:
        """Go through all its gates at once.

        Raises Waiting (no room), Lost (another start has the task) and RedisUnavailable; none uses an attempt.
        """
        (refusal,) = self.enter_all([passage])
        if refusal is not None:
            raise refusal

    def enter_all(self, passages: Sequence[Permit]) -> list[Exception | None]:
        """As `enter` for each of them, in this order and with one round trip; return what it would raise."""
        with _held(passages):
            ways = [passage for passage in passages if passage.gates and not passage.over]
            refusals = dict(zip(ways, self._refusals(ways), strict=True)) if ways else {}
            return [refusals.get(passage) for passage in passages]

    def _refusals(self, passages: Sequence[Permit]) -> list[Exception | None]:
        if (left := self._closed_until - time.monotonic()) > 0:
            waiting = Waiting(left, reason="Redis was emptied: waiting until what runs is known again")
            return [waiting] * len(passages)
        try:
            answers = self._enter(passages)
        except RedisUnavailable as error:
            return [error] * len(passages)
        return [self._refusal(*pair) for pair in zip(passages, answers, strict=True)]

    def _refusal(self, passage: Permit, answer: Any) -> Exception | None:
        if answer[0] == 3:
            return Lost(f"start {passage.token} of task {passage.task_id} no longer holds it")
        if answer[0] == 0:
            _, wait, name, why, closed = answer
            factor, margin = _MARGIN
            after = min(max(wait, 0) / 1000 * factor + margin, _LONGEST) * random.uniform(1, 1.1)  # noqa: S311
            return Waiting(after, reason=f"waiting for {name.decode()}: {why.decode()}", closed=bool(closed))
        passage.begun_ms = int(answer[1])
        self._inside[passage.id] = passage
        return None

    def leave(self, passage: Permit) -> None:
        """Give the places back and count how it went; harmless outside.

        When Redis does not answer the places are free once the task's start has ended, and the result is not counted.
        """
        self.leave_all([passage])

    def leave_all(self, passages: Sequence[Permit]) -> None:
        """As `leave` for each of them, with one round trip."""
        with _held(passages):
            args: list[Any] = []
            for passage in passages:
                passage.over = True
                if passage.begun_ms is None:
                    continue
                args += [passage.task_id, passage.token, passage.id, passage.begun_ms, passage.outcome]
                args += [passage.reserved, passage.units, len(passage.gates), *(gate.name for gate in passage.gates)]
                passage.begun_ms = None
                del self._inside[passage.id]
            if not args:
                return
            queues = list(self._queues)
            names = [*self._names, *map(self._keys.delayed, queues)]
            try:
                changes = self._redis.call("limiter_release", names, [self._liveness_ms, len(queues), *queues, *args])
            except RedisUnavailable as error:
                log.warning("left a gate without saying so: Redis does not answer", error=str(error))
                return
        for name, state in changes:
            said = log.warning if state == b"open" else log.info
            said("circuit breaker changed", gate=name.decode(), state=state.decode())

    def enter_again(self) -> None:
        """Redis was emptied: those inside are so again, and nobody enters until other workers have said the same."""
        self._closed_until = time.monotonic() + self._liveness
        for passage in list(self._inside.values()):
            with passage.lock:
                if passage.begun_ms is not None:
                    ((entered, *begun),) = self._enter([passage], force=True)
                    if entered == 1:
                        passage.begun_ms = int(begun[0])

    def _enter(self, passages: Sequence[Permit], *, force: bool = False) -> Any:
        args: list[Any] = [self._liveness_ms, self._epoch() or b"", int(force)]
        for passage in passages:
            args += [passage.task_id, passage.token, passage.created, passage.reserved, passage.id, len(passage.gates)]
            for gate in passage.gates:
                args += [gate.name, _settings(gate)]
        answers = self._redis.call("limiter_acquire", self._names, args)
        if not answers:
            raise RedisUnavailable("Redis was emptied: what runs is not known yet")
        return answers

    def pause(self, name: str, by: str, why: str, *, seconds: float | None = None, person: bool = True) -> bool:
        """Let no task through a gate until `open`, or for `seconds`; False when it was paused already.

        What is not a person's prolongs a pause of its kind and changes no person's. Raises InvalidInput for a name
        that cannot be a gate's, and RedisUnavailable.
        """
        check_limiter_name(name)
        length = 0 if seconds is None else max(1, int(seconds * 1000))
        said = [self._liveness_ms, name, "pause", int(person), by[:64], why[:255], length]
        return bool(self._redis.call("limiter_pause", self._names, said))

    def open(self, name: str, *, person: bool = True) -> bool:
        """Let tasks through a paused gate; False when it was not paused, or by a person and this is none."""
        check_limiter_name(name)
        said = [self._liveness_ms, name, "open", int(person), "", "", 0]
        return bool(self._redis.call("limiter_pause", self._names, said))

    @property
    def _liveness_ms(self) -> int:
        return int(self._liveness * 1000)


@contextlib.contextmanager
def _held(passages: Iterable[Permit]) -> Iterator[None]:
    with contextlib.ExitStack() as held:
        for passage in passages:
            held.enter_context(passage.lock)
        yield


def limiter_keys(keys: Keys) -> list[str]:
    """The keys that every gate script takes, in its order."""
    own = [keys.gates, keys.gates_settings, keys.gates_places, keys.gates_line]
    own += [keys.gates_waiting, keys.gates_calls, keys.gates_due, keys.gates_promises]
    return [keys.live, keys.workers, keys.bell, keys.epoch, *own]


def check_limiter_name(name: str) -> None:
    """Raise InvalidInput for what cannot be a gate's name."""
    if not _NAME.fullmatch(name):
        raise InvalidInput("gate", f"{name[:80]!r} is not valid; valid: up to 300 ASCII characters but space and |")


@functools.lru_cache(maxsize=1000)
def _settings(gate: Limiter) -> str:
    settings: dict[str, Any] = {
        "running": gate.running,
        "adaptive": gate.adaptive,
        "calls": gate.calls,
        "units": gate.units,
        "window": int(gate.window * 1000),
    }
    if gate.breaker is not None:
        settings["breaker"] = {
            "max_requests": gate.breaker.max_requests,
            "interval": int(gate.breaker.interval * 1000),
            "timeout": int(gate.breaker.timeout * 1000),
            "fail_threshold": gate.breaker.fail_threshold,
            "min_calls": gate.breaker.min_calls,
        }
    return json.dumps(settings, separators=(",", ":"))

"""Acquires and releases permits of limiters, pauses limiters and resumes them.

Redis decides, for all workers and all limiters of a permit at once (`_limiters.lua`, `limiter_*.lua`);
docs/limiters.md says what is counted.
"""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from sytq.broker.handover import Handover
from sytq.broker.keys import GROUP, Keys
from sytq.broker.limiter import Permit, check_limiter_name
from sytq.errors import Lost, RedisUnavailable, Waiting
from sytq.observability.outages import log_failure

if TYPE_CHECKING:
    from sytq.broker.connection import Redis  # built by the runtime, where Redis is needed at all

log = structlog.get_logger(__name__)

#: Bounds one script call.
_MAX_RECOUNTED = 50
#: A waiting task starts as soon as a permit is handed over to it; its due time is a fallback: the estimate times a
#: factor, plus seconds.
_FALLBACK = (1.2, 5.0)
_MAX_WAIT = 600.0


@dataclass(frozen=True, slots=True)
class Resumed:
    """What a resumption ended (paused, open, half_open, or "" for nothing), who began it and why, and how many tasks
    were waiting."""

    held: str
    by: str
    why: str
    waiting: int

    def __bool__(self) -> bool:
        return bool(self.held)


@dataclass(frozen=True, slots=True)
class TypePause:
    """The pause of a task type, by a person or a task; `person` is None where a process of 0.1 wrote it (until 0.3)."""

    by: str
    why: str
    person: bool | None


class Limiters:
    """Acquires and releases permits; a release hands them over to waiting tasks of the queues of `handover`."""

    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        liveness: float,
        handover: Handover | None = None,
        epoch: Callable[[], bytes | None] = lambda: None,
    ) -> None:
        self._redis = redis
        self._keys = keys
        self._names = limiter_keys(keys)
        self._liveness = liveness
        self.handover = handover or Handover(keys, (), {})
        self._epoch = epoch  # of the Redis that this worker knows
        self._held: dict[str, Permit] = {}
        self._suspended_until = 0.0

    def acquire_all(self, permits: Sequence[Permit]) -> list[Exception | None]:
        """Acquire permits in this order, each of all its limiters at once, in one round trip.

        Returns None for each, or what to raise: Waiting (no permit is free), Lost (another attempt has the task) or
        RedisUnavailable; none uses an attempt.
        """
        with _locked(permits):
            wanted = [permit for permit in permits if permit.limits and not permit.released]
            refusals = dict(zip(wanted, self._refusals(wanted), strict=True)) if wanted else {}
            return [refusals.get(permit) for permit in permits]

    def _refusals(self, permits: Sequence[Permit]) -> list[Exception | None]:
        if (left := self._suspended_until - time.monotonic()) > 0:
            waiting = Waiting(left, reason="Redis was emptied: waiting until what runs is known again")
            return [waiting] * len(permits)
        asked = time.monotonic()
        try:
            answers = self._acquire(permits)
        except RedisUnavailable as error:
            return [error] * len(permits)
        for permit in permits:
            permit.asked = asked
        return [self._refusal(*pair) for pair in zip(permits, answers, strict=True)]

    def _refusal(self, permit: Permit, answer: Any) -> Exception | None:
        if answer[0] == 3:
            return Lost(f"start {permit.token} of task {permit.task_id} no longer holds it")
        if answer[0] == 0:
            _, wait, name, reason, unavailable, stays = answer
            factor, margin = _FALLBACK
            after = min(max(wait, 0) / 1000 * factor + margin, _MAX_WAIT) * random.uniform(1, 1.1)  # noqa: S311
            waiting_for = f"waiting for {name.decode()}: {reason.decode()}"
            permit.refused_by = name.decode()
            permit.in_place_ms = permit.in_place_ms if stays else 0
            closed = bool(unavailable)
            return Waiting(after, reason=waiting_for, unavailable=closed, limiter=permit.refused_by, permit=permit)
        permit.acquired_ms = int(answer[1])
        self.hold(permit)
        return None

    def release_all(self, permits: Sequence[Permit]) -> None:
        """Release permits and count their outcomes, in one round trip; harmless for one that is not held.

        While Redis is unavailable no outcome is counted; the end of the attempt frees the permit.
        """
        with _locked(permits):
            args: list[Any] = []
            for permit in permits:
                permit.released = True
                if permit.acquired_ms is None:
                    if not permit.in_place_ms:
                        continue
                    permit.outcome = "unused"  # the attempt no longer waits in place
                args += [permit.task_id, permit.token, permit.id, permit.acquired_ms or 0, permit.outcome]
                args += [permit.reserved, permit.cost]
                args += [len(permit.limits), *permit.limits]
                permit.acquired_ms, permit.in_place_ms = None, 0
                self._held.pop(permit.id + permit.task_id, None)
            if not args:
                return
            keys, queues = self.handover.keys_and_args()
            try:
                changes = self._redis.call(
                    "limiter_release", [*self._names, *keys], [self.liveness_ms, GROUP, *queues, *args]
                )
            except RedisUnavailable as error:
                log_failure(log, "permits not released: Redis unavailable", error)
                return
        log_changes(changes)

    @property
    def granting(self) -> bytes:
        """What a fetch needs to know of the permits it may grant, as _entry.lua says."""
        return b"-" if self._suspended_until > time.monotonic() else self._epoch() or b""

    def hold(self, permit: Permit) -> None:
        """Keep the permit that a task was fetched with among those to enter again."""
        self._held[permit.id + permit.task_id] = permit

    def released(self, permit: Permit) -> None:
        """Forget a permit that an acknowledgement released."""
        permit.acquired_ms = None
        self._held.pop(permit.id + permit.task_id, None)

    def reregister(self) -> None:
        """Enter the held permits into an emptied Redis; acquire none until other workers have done the same."""
        self._suspended_until = time.monotonic() + self._liveness
        self.recount()

    def recount(self) -> list[str]:
        """Enter the held permits again where Redis has taken them back, whether or not the limits allow it.

        Returns the tasks that other attempts have by now. Raises RedisUnavailable.
        """
        held, lost = list(self._held.values()), []
        for start in range(0, len(held), _MAX_RECOUNTED):
            with _locked(held[start : start + _MAX_RECOUNTED]):
                permits = [one for one in held[start : start + _MAX_RECOUNTED] if one.acquired_ms is not None]
                answers = self._acquire(permits, force=True) if permits else []
                for permit, (acquired, *at) in zip(permits, answers, strict=True):
                    if acquired == 1:
                        permit.acquired_ms = int(at[0])
                    else:
                        lost.append(permit.task_id)
        return lost

    def _acquire(self, permits: Sequence[Permit], *, force: bool = False) -> Any:
        args: list[Any] = [self.liveness_ms, self._epoch() or b"", int(force)]
        for permit in permits:
            args += [permit.task_id, permit.token, permit.created, permit.reserved, permit.id, permit.in_place_ms]
            args += [int(permit.replaces), len(permit.limits)]
            for name, limits in permit.limits.items():
                args += [name, limits]
        answers = self._redis.call("limiter_acquire", self._names, args)
        if not answers:
            raise RedisUnavailable("Redis was emptied: what runs is not known yet")
        return answers

    def pause(
        self,
        name: str,
        by: str,
        why: str,
        *,
        seconds: float | None = None,
        person: bool = True,
        configuration: str = "",
        since_ms: int | None = None,
    ) -> bool:
        """Grant no permit of a limiter until `resume`, or for `seconds`; False when it was paused already.

        A task's pause (not a `person`'s) prolongs a task's earlier pause and leaves a person's unchanged. With a
        `configuration` it holds up the calls made with that alone, and ends when no worker has it any more. One
        that Redis has lost began at `since_ms`. Raises InvalidInput for an invalid name, and RedisUnavailable.
        """
        check_limiter_name(name)
        length = 0 if seconds is None else max(1, int(seconds * 1000))
        args = [self.liveness_ms, name, "pause", int(person), by[:64], why[:255], length, configuration]
        args.append("" if since_ms is None else since_ms)
        return bool(self._redis.call("limiter_pause", self._names, args))

    def resume(self, name: str, *, person: bool = True) -> Resumed:
        """End a limiter's pause; a person also closes its breaker, and a task leaves a person's pause unchanged."""
        check_limiter_name(name)
        args = [self.liveness_ms, name, "resume", int(person), "", "", 0, "", ""]
        held, by, why, waiting = self._redis.call("limiter_pause", self._names, args)
        return Resumed(held.decode(), by.decode(), why.decode(), waiting)

    def type_pauses(self) -> dict[str, TypePause]:
        """Return the pauses of task types, by type."""
        notes = self._redis.ask("HGETALL", self._keys.paused)
        found = {name.decode(): json.loads(note) for name, note in notes.items()}
        return {name: TypePause(one["by"], one["why"], one.get("person")) for name, one in found.items()}

    def announce(self, configurations: Collection[str]) -> None:
        """Say what this worker's calls are made with; each worker repeats it every few seconds."""
        if configurations:
            self._redis.call("limiter_configured", self._names, [self.liveness_ms, "announce", *configurations])

    def withdraw(self, configurations: Collection[str]) -> int:
        """End the pauses for these configurations, of all limiters, and return their number: calls try them again."""
        args = [self.liveness_ms, "withdraw", *configurations]
        return int(self._redis.call("limiter_configured", self._names, args)) if configurations else 0

    @property
    def liveness_ms(self) -> int:
        return int(self._liveness * 1000)


@contextlib.contextmanager
def _locked(permits: Iterable[Permit]) -> Iterator[None]:
    with contextlib.ExitStack() as locks:
        for permit in permits:
            locks.enter_context(permit.lock)
        yield


def log_changes(changes: Iterable[Sequence[bytes]]) -> None:
    """Log the circuit breakers (name, state) that a release has changed."""
    for name, state in changes:
        write = log.warning if state == b"open" else log.info
        write("circuit breaker changed", limiter=name.decode(), state=state.decode())


def limiter_keys(keys: Keys) -> list[str]:
    """Return the keys that every limiter script takes, in order."""
    return [keys.live, keys.workers, keys.bell, keys.epoch, *state_keys(keys)]


def state_keys(keys: Keys) -> list[str]:
    """Return the keys with the state of limiters, in the order of _limiter_keys.lua."""
    own = [keys.limiters, keys.limiter_settings, keys.permits, keys.wait_queues]
    return [*own, keys.waiting, keys.acquisitions, keys.limiters_due, keys.configured, keys.paused]

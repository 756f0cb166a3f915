"""Reads the present state from Redis, for people, metrics and answers; changes nothing.

All methods raise RedisUnavailable. No method's work grows with the number of tasks: Redis keeps the counts, and lists
are pages of `limit` entries with the next page's cursor. Docstrings name the round trips; Q is the number of queues.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sytq.broker import pages
from sytq.broker.keys import GROUP, RECORDER, Keys
from sytq.broker.limiter_states import LimiterState, read_all
from sytq.broker.pages import Delayed, InFlight, Page, Unreadable
from sytq.broker.state_index import Live
from sytq.config.sections import QueueLimits
from sytq.errors import InvalidInput, RedisUnavailable
from sytq.states import PRIORITIES, QUEUED, TERMINAL

if TYPE_CHECKING:
    from sytq.broker.connection import Redis  # built by the runtime, where Redis is needed at all


@dataclass(frozen=True, slots=True)
class Depth:
    """How many tasks of one queue and priority wait and run, and for how many seconds the first of them has waited."""

    queue: str
    priority: str
    waiting: int
    running: int
    oldest: float | None = None


@dataclass(frozen=True, slots=True)
class Suspects:
    """The tasks of a queue whose workers died twice, which wait to run alone; seconds since the first's first crash."""

    waiting: int
    oldest: float | None


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker and the seconds since its last heartbeat."""

    name: str
    age: float


@dataclass(frozen=True, slots=True)
class Unwritten:
    """Events that the ledger does not have yet, the age of the first in seconds, and how many were set aside."""

    count: int
    age: float
    set_aside: int


class Inspection:
    """Reads one Redis; the `queues` of the installed task types are shown also while empty, `limits` are theirs."""

    def __init__(self, redis: Redis, keys: Keys, queues: Iterable[str], limits: Mapping[str, QueueLimits]) -> None:
        self._redis = redis
        self._keys = keys
        self._queues = set(queues)
        self._limits = limits

    # -- tasks

    def live(self, ids: Sequence[str]) -> dict[str, Live]:
        """Return the state of each of `ids` that Redis knows. Two round trips, or four while some wait for a permit."""
        if not ids:
            return {}
        states = self._redis.ask("HMGET", self._keys.live, *ids)
        progress = self._redis.ask("HMGET", self._keys.progress, *ids)
        found = {
            task_id: Live.parse(state, shown)
            for task_id, state, shown in zip(ids, states, progress, strict=True)
            if state
        }
        waiting = [task_id for task_id, live in found.items() if live.waits]
        paused = set(self.paused()) if waiting else set()
        records = self._redis.ask("HMGET", self._keys.waiting, *waiting) if paused else []
        for task_id, record in zip(waiting, records, strict=False):
            name = found[task_id].type
            if record and name in paused and json.loads(record)["at"] == f"type:{name}":
                found[task_id] = replace(found[task_id], state=QUEUED, parked=True)
        return found

    def known(self, ids: Sequence[str]) -> set[str]:
        """Return which of `ids` Redis knows. One round trip."""
        states = self._redis.ask("HMGET", self._keys.live, *ids) if ids else []
        return {task_id for task_id, state in zip(ids, states, strict=True) if state}

    def types(self, ids: Sequence[str]) -> dict[str, str]:
        """Return the type of each of `ids` that Redis knows. One round trip."""
        states = self._redis.ask("HMGET", self._keys.live, *ids) if ids else []
        return {task_id: Live.parse(state).type for task_id, state in zip(ids, states, strict=True) if state}

    def kept_results(self) -> int:
        """Return how many results of steps wait in Redis for the database. One round trip."""
        return int(self._redis.ask("HLEN", self._keys.results))

    def over(self, ids: Sequence[str]) -> set[str]:
        """Return the `ids` that have ended, perhaps not yet in SQL; none while Redis is unavailable."""
        try:
            return {task_id for task_id, task in self.live(ids).items() if task.state in TERMINAL}
        except RedisUnavailable:
            return set()

    def cancels(self, ids: Sequence[str]) -> dict[str, str]:
        """Return who asked to cancel which of the running `ids`. One round trip."""
        asked = self._redis.ask("HMGET", self._keys.cancels, *ids) if ids else []
        return {task_id: by.decode() for task_id, by in zip(ids, asked, strict=True) if by}

    def waits_for(self, task_id: str) -> str | None:
        """Return the limiter in whose wait queue a retrying task is. One round trip."""
        found = self._redis.ask("HGET", self._keys.waiting, task_id)
        return None if found is None else str(json.loads(found)["at"])

    def running(self, *, queue: str | None = None, limit: int = 100, after: str | None = None) -> Page[InFlight]:
        """Return a page of the running tasks, by queue and priority. Raises InvalidInput for a malformed cursor.

        One round trip for each stream read (4 Q at most) and three more; work in proportion to `limit`.
        """
        places = [(name, priority) for name in self._asked(queue) for priority in PRIORITIES]
        where, behind = pages.cursor(after, re.compile(r"([^/]+)/(urgent|high|normal|low)/(\d+-\d+)"))
        found: list[InFlight] = []
        entries: list[str] = []
        for place in places:
            if where and (place[0], PRIORITIES.index(place[1])) < (where[0], PRIORITIES.index(where[1])):
                continue
            start = behind if place == where else "-"
            names = [self._keys.live, self._keys.stream(*place)]
            now, *items = self._redis.call("inflight", names, [GROUP, start, limit + 1 - len(found)])
            for entry, worker, idle, task_id, state in items:
                found.append(pages.in_flight(place, now, worker, idle, task_id, state))
                entries.append(f"{place[0]}/{place[1]}/{entry.decode()}")
            if len(found) > limit:
                break
        shown = found[:limit]
        ages = {info.name: info.age for info in self.workers()} if shown else {}
        asked = self.cancels([task.id for task in shown])
        items = [pages.completed(task, ages, asked) for task in shown]
        return Page(items, entries[limit - 1] if len(found) > limit else None)

    def delayed_tasks(self, *, queue: str | None = None, limit: int = 100, after: str | None = None) -> Page[Delayed]:
        """Return a page of the delayed tasks, by queue, the next due first. Raises InvalidInput for a malformed cursor.

        Two to four round trips for each queue read; work in proportion to `limit`.
        """
        where, behind = pages.cursor(after, re.compile(r"([^/]+)/(\d+)/(.+)"))
        found: list[Delayed] = []
        for name in self._asked(queue):
            if where and name < where[0]:
                continue
            key = self._keys.delayed(name)
            start = self._rank_behind(key, where[1], behind) if where and name == where[0] else 0
            most = limit + 1 - len(found)
            pairs = self._redis.ask("ZRANGE", key, start, start + most - 1, "WITHSCORES")
            due = {task_id.decode(): float(ms) / 1000 for task_id, ms in zip(pairs[::2], pairs[1::2], strict=True)}
            states = self._redis.ask("HMGET", self._keys.live, *due) if due else []
            for (task_id, moment), state in zip(due.items(), states, strict=True):
                if state is not None:  # else the task has left meanwhile
                    live = Live.parse(state)
                    found.append(
                        Delayed(task_id, live.type, name, live.priority, live.state, live.attempts, due=moment)
                    )
            if len(found) > limit:
                break
        shown = found[:limit]
        last = shown[-1] if len(found) > limit else None
        return Page(shown, f"{last.queue}/{round(last.due * 1000)}/{last.id}" if last else None)

    # -- queues

    def names(self) -> list[str]:
        """Return the queues of the installed types and of all tasks ever dispatched. One round trip."""
        return sorted(self._queues | {name.decode() for name in self._redis.ask("SMEMBERS", self._keys.queues)})

    def queues(self) -> list[Depth]:
        """Return every queue and priority with its depth. Q round trips and one."""
        depths = []
        for queue in self.names():
            answers = self._redis.call("depth", self._keys.streams(queue), [GROUP])
            for priority, (waiting, running, oldest) in zip(PRIORITIES, answers, strict=True):
                depths.append(Depth(queue, priority, waiting, running, oldest / 1000 if oldest >= 0 else None))
        return depths

    def backlog(self, queue: str) -> int:
        """Return how many tasks wait for a worker, their time or their type's resume. Three round trips."""
        depths = self._redis.call("depth", self._keys.streams(queue), [GROUP])
        delayed = self._redis.ask("ZCARD", self._keys.delayed(queue))
        return (
            sum(int(waiting) for waiting, *_ in depths)
            + int(delayed)
            + int(self._redis.ask("HLEN", self._keys.parked(queue)))
        )

    def paused(self) -> list[str]:
        """Return the names of the paused task types, sorted."""
        return sorted(name.decode() for name in self._redis.ask("HKEYS", self._keys.paused))

    def delayed(self) -> dict[str, int]:
        """Return how many tasks wait for their time, per queue. Q round trips and two, two more for a paused type."""
        parked = self._wait_for_types()
        counts = {queue: self._redis.ask("ZCARD", self._keys.delayed(queue)) for queue in self.names()}
        return {queue: max(0, count - parked[queue]) for queue, count in counts.items()}

    def parked(self) -> dict[str, int]:
        """Return how many tasks wait for their paused type, per queue. Q round trips and three or more."""
        parked = self._wait_for_types()
        suspects = self.suspects()  # their messages are beside those that workers of 0.1 set aside
        for queue in self.names():
            of_suspects = suspects.get(queue, Suspects(0, None)).waiting
            parked[queue] += max(0, self._redis.ask("HLEN", self._keys.parked(queue)) - of_suspects)
        return dict(parked)

    def _wait_for_types(self) -> Counter[str]:
        """How many tasks are in the wait queues of paused types, by the queue of the first of them."""
        found: Counter[str] = Counter()
        for type_name in self.paused():
            limiter = f"[type:{type_name}|", f"(type:{type_name}}}"
            first = self._redis.ask("ZRANGEBYLEX", self._keys.wait_queues, *limiter, "LIMIT", 0, 1)
            state = first and self._redis.ask("HGET", self._keys.live, first[0].rpartition(b"|")[2])
            if state:
                count = int(self._redis.ask("ZLEXCOUNT", self._keys.wait_queues, *limiter))
                found[Live.parse(state).queue] += count
        return found

    def suspects(self) -> dict[str, Suspects]:
        """Return the suspects that wait to run alone, per queue. Two round trips, and 2 Q while there are some."""
        names = self.names()
        if not self._redis.ask("EXISTS", *map(self._keys.suspects, names)):
            return dict.fromkeys(names, Suspects(0, None))
        now, found = self._redis.time(), {}
        for queue in names:
            key = self._keys.suspects(queue)
            first = self._redis.ask("ZRANGE", key, 0, 0, "WITHSCORES")
            age = max(0.0, now - float(first[1]) / 1000) if first else None
            found[queue] = Suspects(self._redis.ask("ZCARD", key), age)
        return found

    # -- limiters

    def limiters(self) -> list[LimiterState]:
        """Return the limiters used within about an hour, paused or waited for, by name.

        One round trip for some 100 limiters (there are seldom more than 2,000), three for a queue with limits.
        """
        return read_all(self._redis, self._keys, self._limits)

    def limiter(self, name: str) -> LimiterState | None:
        """Return one limiter, with the first tasks that hold or await a permit. Two round trips, or five."""
        return next(iter(read_all(self._redis, self._keys, self._limits, name)), None)

    # -- the whole

    def workers(self) -> list[WorkerInfo]:
        """Return the workers with a heartbeat within the last hour. Two round trips."""
        now = self._redis.time()
        beats = self._redis.ask("ZRANGE", self._keys.workers, 0, -1, "WITHSCORES")
        pairs = zip(beats[::2], beats[1::2], strict=True)
        return [WorkerInfo(name.decode(), max(0.0, now - float(score) / 1000)) for name, score in pairs]

    def totals(self) -> dict[tuple[str, str], int]:
        """Return counts since this Redis was first seen, by (type, outcome)."""
        stats = self._redis.ask("HGETALL", self._keys.stats)
        return {_split(name.decode()): int(count) for name, count in stats.items()}

    def unwritten(self) -> Unwritten:
        """Return the recorder's backlog. One round trip."""
        names = [self._keys.events, self._keys.deadletters]
        count, age, aside = self._redis.call("backlog", names, [RECORDER])
        return Unwritten(count, age / 1000, aside)

    def events(self, after: str, wait: float) -> list[tuple[str, dict[bytes, bytes]]]:
        """Return the events after entry `after`, waiting up to `wait` seconds for the first.

        Events stay for some seconds after they are in the ledger. One round trip; 500 events at most.
        """
        reply = self._redis.ask(
            *("XREAD", "COUNT", 500, "BLOCK", round(wait * 1000)), *("STREAMS", self._keys.events, after)
        )
        return [(entry.decode(), fields) for entry, fields in reply[0][1]] if reply else []

    def last_event(self) -> str:
        """Return the entry of the latest event. One round trip."""
        found = self._redis.ask("XREVRANGE", self._keys.events, "+", "-", "COUNT", 1)
        return found[0][0].decode() if found else "0-0"

    def unreadable(self, *, limit: int = 20, after: str | None = None) -> Page[Unreadable]:
        """Return a page of the dead letters, latest first. One round trip.

        Raises InvalidInput for a malformed cursor.
        """
        if after is not None and not re.fullmatch(r"\d+-\d+", after):
            raise pages.strange(after)
        start = f"({after}" if after else "+"
        found = self._redis.ask("XREVRANGE", self._keys.deadletters, start, "-", "COUNT", limit + 1)
        items = [pages.unreadable(entry.decode(), fields) for entry, fields in found[:limit]]
        return Page(items, items[-1].id if len(found) > limit else None)

    def epoch_age(self) -> float | None:
        """Return the seconds since this Redis was first seen, None before that."""
        epoch = self._redis.ask("GET", self._keys.epoch)
        return None if epoch is None else max(0.0, self._redis.time() - int(epoch) / 1000)

    def _asked(self, queue: str | None) -> list[str]:
        names = self.names()
        if queue is None:
            return names
        if queue not in names:
            raise InvalidInput("queue", f"'{queue[:64]}' is not a queue; valid: {', '.join(names)}")
        return [queue]

    def _rank_behind(self, key: str, score: str, member: str) -> int:
        """Return the rank behind a member, or of the first member with its time if it has left meanwhile."""
        rank = self._redis.ask("ZRANK", key, member)
        if rank is not None:
            return int(rank) + 1
        return int(self._redis.ask("ZCOUNT", key, "-inf", f"({score}"))


def _split(name: str) -> tuple[str, str]:
    type_name, _, outcome = name.rpartition(":")
    return type_name, outcome

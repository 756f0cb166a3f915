"""The scripts on one queue, called as workers, the recorder and the reconciler call them, and their effects.

It asserts nothing about the results: the tests do.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sytq.broker.connection import Redis
from sytq.broker.dispatcher import Dispatcher, Envelope
from sytq.broker.handover import Handover, QueueLimit
from sytq.broker.keys import GROUP, RECORDER, Keys
from sytq.broker.limiters import Limiters, limiter_keys, state_keys
from sytq.broker.operations import Operations
from sytq.states import PRIORITIES
from tests.broker import clock

LEASE_MS = 4000
#: The number of the first stream among the keys of fetch.lua.
FIRST = 27

#: One attempt as fetch.lua returns it: stream index, entry, id, message, attempts, max attempts, fencing token.
Item = list[Any]


@dataclass
class Seen:
    """Everything of the queue at one moment. Tasks by id, entries as text."""

    live: dict[str, list[str]]
    waiting: list[tuple[str, str, str]]  # (stream, entry, id) not yet fetched
    pending: list[tuple[str, str, str, str, int]]  # (stream, entry, id or "" when deleted, consumer, deliveries)
    lost: list[tuple[str, str, str]]  # fetched, and pending for no worker
    delayed: dict[str, int]
    bodies: dict[str, bytes]
    parked: dict[str, bytes]
    cancels: dict[str, bytes]
    suspects: set[str]
    crashes: dict[str, tuple[int, int, int]]  # of ordinary workers, of isolated processes with several tasks, alone


class Bench:
    """One queue and the calls that workers make on it; permits are handed over to tasks of all `queues`."""

    left = 0  # whether the last fetch left entries of dead workers

    def __init__(self, url: str, queue: str = "q", queues: Sequence[str] = ("q",)) -> None:
        self.queue = queue
        self.redis, self.keys = Redis(url), Keys("sytq")
        self.dispatcher = Dispatcher(self.redis, self.keys)
        self.streams = self.keys.streams(queue)
        self.limits: dict[str, QueueLimit] = {}  # what the workers' configuration has of the queues
        self.handover = Handover(self.keys, queues, self.limits)
        self.operations = Operations(self.redis, self.keys)
        self.limiters = Limiters(self.redis, self.keys, LEASE_MS / 1000)
        self.make_groups()

    def make_groups(self) -> None:
        for stream in self.streams:
            self.redis.make_group(stream, GROUP)
        self.redis.make_group(self.keys.events, RECORDER)

    def dispatch(
        self,
        task_id: str,
        priority: str = "normal",
        due_ms: int = 0,
        attempts: int = 0,
        max_attempts: int = 3,
        token: int = 0,
        created_ms: int = 1,
        limiters: tuple[str, ...] = (),
        payload: str = "{}",
    ) -> int:
        return self.dispatcher.dispatch(
            [
                Envelope(
                    *(task_id, "t", self.queue, priority, payload, created_ms, due_ms, attempts, max_attempts),
                    token=token,
                    limiters=limiters,
                )
            ]
        )

    def fetch(
        self,
        worker: str,
        slots: int = 10,
        limit: int = 0,
        sweep: bool | int = False,
        held: Iterable[tuple[int, str]] = (),
        max_crashes: int = 3,
        rate: int = 0,
        window_ms: int = 60_000,
        recorded: int = 0,
        permits: str | bytes = "",
        types: str = "",
    ) -> dict[str, Item]:
        keys, queue = self.keys, self.queue
        names = [keys.live, keys.events, keys.workers, keys.stats, keys.parked(queue), keys.rate(queue)]
        names += [keys.queue_bell(queue), keys.epoch, keys.cancels, keys.called(queue), keys.crashes]
        names += [
            keys.departed,
            keys.suspects(self.queue),
            keys.recorded,
            keys.delayed(self.queue),
            keys.bodies(self.queue),
            keys.bell,
        ]
        names += [*state_keys(keys), *self.streams]
        args = [GROUP, worker, slots, limit, rate, window_ms, LEASE_MS, max_crashes, recorded, int(sweep), permits]
        args += [types, *(f"{index}:{entry_or_id}" for index, entry_or_id in held)]
        found, self.left, *rest = self.redis.call("fetch", names, args)
        items = {item[2].decode(): item for item in rest} if found == 1 else {}
        assert found != 1 or len(items) == len(rest), "one fetch started a task twice"
        return items

    def isolate(self, process: str, most: int = 100, limit: int = 0, rate: int = 0) -> dict[str, Item]:
        """Start suspects in an isolated process; their stream index is that of `fetch`."""
        keys = self.keys
        names = [keys.live, keys.events, keys.workers, keys.epoch, keys.paused, keys.crashes]
        names += [keys.suspects(self.queue), keys.parked(self.queue), keys.rate(self.queue), *self.streams]
        found = self.redis.call("isolate", names, [GROUP, process, LEASE_MS, most, limit, rate, 60_000])
        return {item[2].decode(): [item[0] - 10 + FIRST, *item[1:]] for item in found}

    def ack(
        self,
        worker: str,
        item: Item,
        kind: str,
        delay_ms: int = 0,
        attempts: int | None = None,
        event: str = "{}",
        if_cancelled: str = "{}",
        permit_outcome: str = "ok",
        wanted: str = "",
    ) -> int:
        index, entry, task_id, message, used, _max_attempts, token, *granted = item
        keys = self.keys
        names = [keys.live, keys.events, keys.stats, keys.bell, keys.deadletters, keys.cancels, keys.epoch]
        of_queues, queues = self.handover.keys_and_args()
        names += [keys.crashes, keys.workers, *state_keys(keys), *of_queues]
        names += [
            self.streams[index - FIRST],
            keys.delayed(self.queue),
            keys.bodies(self.queue),
            keys.queue_bell(self.queue),
        ]
        used = used if attempts is None else attempts
        at, _awaited, cost, *limits = granted[0] if granted and granted[0] else (0, b"", b"")
        permits = b" ".join((permit_outcome.encode(), at, cost, cost, *limits[::2])) if limits else ""
        args = [
            GROUP,
            worker,
            LEASE_MS,
            *queues,
            1,
            task_id,
            "t",
            entry,
            token,
            kind,
            used,
            delay_ms,
            event,
            message,
            0,
        ]
        args += [if_cancelled, permits, wanted]
        done, *_changed = self.redis.call("ack", names, args)
        return int(done)

    def promote(self) -> list[Any]:
        keys = self.keys
        names = [keys.live, keys.delayed(self.queue), keys.bodies(self.queue), keys.bell, *self.streams]
        return list(self.redis.call("promote", names, [100]))

    def tend(self, most: int = 1000) -> list[Any]:
        of_queues, queues = self.handover.keys_and_args()
        return list(
            self.redis.call("limiter_tend", [*limiter_keys(self.keys), *of_queues], [LEASE_MS, most, GROUP, *queues])
        )

    def touch(self, item: Item, progress: str = "{}") -> int:
        names = [self.keys.live, self.keys.progress, self.keys.cancels]
        return int(self.redis.call("touch", names, [item[2], item[6], progress]))

    def index(self, priority: str) -> int:
        """The number by which fetch.lua calls the stream of a priority."""
        return FIRST + PRIORITIES.index(priority)

    # -- heartbeats

    def heartbeat(self, worker: str, leaving: int = 0, held: Iterable[str] = ()) -> list[bool]:
        """Return which of the held tasks are to be cancelled."""
        keys = self.keys
        names = [keys.workers, keys.epoch, keys.cancels, keys.cards, keys.departed, keys.crashes]
        _epoch, _now, asked = self.redis.call("heartbeat", names, [worker, leaving, LEASE_MS, "", *held])
        return [bool(by) for by in asked]

    # -- Redis is emptied

    def flush(self) -> None:
        """Empty Redis and create the groups of the queue, as consumers do. Later timestamps exceed all earlier ones."""
        lead = clock.lead_ms(self.redis)
        self.redis.ask("FLUSHALL")
        clock.advance_ms(self.redis, lead + 1)
        self.make_groups()

    def reregister(self, worker: str, item: Item) -> bytes | None:
        index, _entry, task_id, message, attempts, max_attempts, token, *_granted = item
        stream = self.streams[index - FIRST]
        args = [
            GROUP,
            worker,
            task_id,
            "t",
            self.queue,
            stream.rpartition(":")[2],
            attempts,
            max_attempts,
            token,
            message,
        ]
        entry: bytes | None = self.redis.call("reregister", [self.keys.live, stream, self.keys.queues], args)
        return entry

    # -- time

    def now_ms(self) -> int:
        return int(self.redis.time() * 1000)

    def advance(self, ms: int, silent: str = "") -> None:
        """Let time pass, in which all workers with a lease renew it but the `silent` one."""
        while ms > 0:
            step = min(ms, LEASE_MS // 4)  # of twice that without any heartbeat Redis thinks an outage
            alive = self.redis.ask("ZRANGEBYSCORE", self.keys.workers, self.now_ms() - LEASE_MS, "+inf")
            clock.advance_ms(self.redis, step)
            for worker in alive:
                if worker.decode() != silent:
                    self.heartbeat(worker.decode())
            ms -= step

    def stand_still(self, ms: int) -> None:
        """Let time pass without a heartbeat, as when Redis is unavailable."""
        clock.advance_ms(self.redis, ms)

    def expire_lease(self, worker: str) -> None:
        """Let the lease of a worker expire, while others renew theirs."""
        self.heartbeat("bystander")
        self.advance(LEASE_MS + 1, silent=worker)

    def epoch(self) -> int:
        """When this Redis was first seen, in ms; 0 when it was not yet."""
        return int(self.redis.ask("GET", self.keys.epoch) or 0)

    def advance_beyond(self, ms: int) -> None:
        """A fencing token may be a little ahead of the clock: let that time pass."""
        self.advance(ms - self.now_ms() + 1)

    # -- the recorder

    def read_events(self) -> list[dict[bytes, bytes]]:
        """Return the events since the last call, as written to SQL."""
        reply = self.redis.ask("XREADGROUP", "GROUP", RECORDER, "r", "STREAMS", self.keys.events, ">")
        events = reply[0][1] if reply else []
        if events:
            self.redis.ask("XACK", self.keys.events, RECORDER, *(entry for entry, _ in events))
        return [fields for _, fields in events]

    def forget(self, max_events: int = 100) -> int:
        names = [self.keys.events, self.keys.live, self.keys.progress, self.keys.crashes]
        return int(self.redis.call("forget", names, [RECORDER, "+", max_events]))

    # -- looking

    def live(self, task_id: str) -> list[str] | None:
        value = self.redis.ask("HGET", self.keys.live, task_id)
        return value.decode().split("|") if value else None

    def waiting(self) -> int:
        return sum(self.redis.ask("XLEN", stream) for stream in self.streams)

    def events(self) -> list[dict[bytes, bytes]]:
        return [fields for _, fields in self.events_after("-")]

    def events_after(self, start: str) -> list[tuple[str, dict[bytes, bytes]]]:
        found = self.redis.ask("XRANGE", self.keys.events, start, "+")
        return [(entry.decode(), fields) for entry, fields in found]

    def see(self) -> Seen:
        """Look at everything at once."""
        pipe = self.redis.client.pipeline(transaction=True)
        pipe.hgetall(self.keys.live)
        pipe.zrange(self.keys.delayed(self.queue), 0, -1, withscores=True)
        for key in (self.keys.bodies(self.queue), self.keys.parked(self.queue), self.keys.cancels, self.keys.crashes):
            pipe.hgetall(key)
        pipe.zrange(self.keys.suspects(self.queue), 0, -1)
        for stream in self.streams:
            pipe.xrange(stream)
            pipe.xpending_range(stream, GROUP, "-", "+", 10_000)
            pipe.xinfo_groups(stream)
        live, delayed, bodies, parked, cancels, crashes, suspects, *rest = pipe.execute()
        seen = Seen(
            {key.decode(): value.decode().split("|") for key, value in live.items()},
            *([], [], []),
            {member.decode(): int(score) for member, score in delayed},
            *({key.decode(): value for key, value in found.items()} for found in (bodies, parked, cancels)),
            {member.decode() for member in suspects},
            {
                key.decode(): (record["crashes"], record["level"], record["alone"])
                for key, value in crashes.items()
                if key != b"calm" and (record := json.loads(value))
            },
        )
        for stream, entries, pending, groups in zip(self.streams, *(rest[n::3] for n in range(3)), strict=True):
            ids = {entry.decode(): fields[b"id"].decode() for entry, fields in entries}
            taken = set()
            for one in pending:
                entry, consumer = one["message_id"].decode(), one["consumer"].decode()
                taken.add(entry)
                seen.pending.append((stream, entry, ids.get(entry, ""), consumer, one["times_delivered"]))
            for entry, task_id in ids.items():
                if entry not in taken:
                    new = _order(entry) > _order(groups[0]["last-delivered-id"].decode())
                    (seen.waiting if new else seen.lost).append((stream, entry, task_id))
        return seen


def _order(entry: str) -> tuple[int, int]:
    ms, _, number = entry.partition("-")
    return int(ms), int(number)

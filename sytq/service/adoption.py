"""Tasks that Redis knows and the ledger does not, after the ledger was set back or lost: their rows are made again."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from sytq.broker.connection import Redis
from sytq.broker.keys import Keys
from sytq.broker.state_index import Live
from sytq.ledger.database import insert_ignore, read, transact
from sytq.ledger.ledger import Ledger
from sytq.ledger.models import Task
from sytq.ledger.values import from_ms, iso
from sytq.states import RETRYING, SCHEDULED, TERMINAL
from sytq.tasktypes.registry import Registry

_PAGE = 500


@dataclass(frozen=True, slots=True)
class Message:
    """A task as Redis has it."""

    id: str
    live: Live
    fields: dict[str, Any]  # of the message; empty when it is gone or cannot be decoded
    due: dt.datetime | None

    def shown(self) -> dict[str, Any]:
        """As `sytq hold adopt --json` prints it."""
        return {
            **self.columns,
            "payload": self.payload,
            "created_at": iso(self.created_at),
            "scheduled_at": iso(self.due) if self.due else None,
            "request_id": self.fields.get("options", {}).get("request_id"),
        }

    @property
    def columns(self) -> dict[str, Any]:
        """What Redis knows of the task besides its message, by the names of its row's columns."""
        names = ("type", "queue", "priority", "state", "attempts")
        return {"id": self.id} | {name: getattr(self.live, name) for name in names}

    @property
    def payload(self) -> Any:
        return (self.fields.get("args") or [None])[0]

    @property
    def created_at(self) -> dt.datetime:
        return from_ms(int(self.fields.get("message_timestamp") or self.live.token))


class Adoption:
    """Every method raises DatabaseUnavailable and RedisUnavailable."""

    def __init__(self, ledger: Ledger, redis: Redis, keys: Keys, registry: Registry) -> None:
        self._ledger = ledger
        self._redis = redis
        self._keys = keys
        self._registry = registry

    def messages(self) -> Iterator[Message]:
        """Yield the unfinished tasks of Redis that have no row."""
        cursor: bytes | int = 0
        while True:
            cursor, found = self._redis.ask("HSCAN", self._keys.live, cursor, "COUNT", _PAGE)
            live = {task_id.decode(): Live.parse(text) for task_id, text in found.items()}
            open_ones = {task_id: one for task_id, one in live.items() if one.state not in TERMINAL}
            query = Task.select(Task.id).where(Task.id.in_(list(open_ones)))
            rows: list[Task] = read(self._ledger.database, partial(list, query)) if open_ones else []
            there = {row.id for row in rows}
            for task_id, one in open_ones.items():
                if task_id not in there:
                    yield self._message(task_id, one)
            if int(cursor) == 0:
                return

    def adopt(self) -> tuple[int, int]:
        """Insert the rows of tasks that only Redis knows; return their number, and of those that cannot be read.

        What a message lacks is lost: owner, parent, callback, metadata and ordering key.
        """
        adopted = lost = 0
        for message in self.messages():
            if "args" not in message.fields:
                lost += 1
                continue
            transact(self._ledger.database, partial(self._insert, message))
            adopted += 1
        return adopted, lost

    def _insert(self, message: Message) -> None:
        live, options = message.live, message.fields["options"]
        row = {
            **message.columns,
            "payload": json.dumps(message.payload),
            "version": options.get("version"),
            "token": live.token,
            "unique_key": self._unique_key(live.type, message.payload, options.get("version")),
            "request_id": options.get("request_id"),
            "traceparent": options.get("traceparent"),
            "created_at": message.created_at,
            "scheduled_at": message.due,
        }
        insert_ignore(self._ledger.database, "sytq_tasks", {name: [value] for name, value in row.items()})
        if row["unique_key"]:
            self._ledger.reserve({message.id: row["unique_key"]})

    def _unique_key(self, type_name: str, payload: object, version: int | None) -> str | None:
        try:
            declared = self._registry.get(type_name)
            return declared.unique_key(declared.parse(payload, version))
        except Exception:  # a type that is not installed, or its own `upgrade`
            return None

    def _message(self, task_id: str, live: Live) -> Message:
        keys, due = self._keys, None
        if live.state in (SCHEDULED, RETRYING):
            score = self._redis.ask("ZSCORE", keys.delayed(live.queue), task_id)
            due = from_ms(int(float(score))) if score is not None else None
            body = self._redis.ask("HGET", keys.bodies(live.queue), task_id)
        elif live.parked or live.suspect:
            body = self._redis.ask("HGET", keys.parked(live.queue), task_id)
        else:
            body = self._in_stream(task_id, live)
        try:
            fields = json.loads(body) if body else {}
        except ValueError:
            fields = {}
        return Message(task_id, live, fields if isinstance(fields, dict) else {}, due)

    def _in_stream(self, task_id: str, live: Live) -> bytes | None:
        entry = self._redis.ask("HGET", self._keys.live, task_id).decode().rpartition("|")[2]
        found = self._redis.ask("XRANGE", self._keys.stream(live.queue, live.priority), entry, entry) if entry else []
        return found[0][1].get(b"message") if found else None

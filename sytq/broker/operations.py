"""Changes of tasks that are in Redis: cancel, reschedule, revive, progress, results of steps.

Each change is one script or command; sytq.service.control writes the ledger.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sytq import clock
from sytq.broker.delivery import Delivery
from sytq.broker.keys import GROUP, Keys
from sytq.broker.state_index import Live

if TYPE_CHECKING:
    from sytq.broker.connection import Redis  # built by the runtime, where Redis is needed at all


_BATCH = 200


class Operations:
    """All methods raise RedisUnavailable."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    def cancel(self, task_id: str, by: str) -> str:
        """Cancel a task and return the result: cancelled, asked (it runs), ended or unknown."""
        keys = self._keys
        while True:
            found = self._redis.ask("HGET", keys.live, task_id)
            if found is None:
                return "unknown"
            live = Live.parse(found)
            event = {
                "state": "cancelled",
                "attempts": live.attempts,
                "finished": int(clock.now() * 1000),
                "error": f"cancelled by {by}",
            }
            names = [keys.live, keys.events, keys.stats, keys.cancels]
            names += [keys.stream(live.queue, live.priority), keys.delayed(live.queue), keys.bodies(live.queue)]
            names += [keys.parked(live.queue), keys.suspects(live.queue), keys.waiting]
            args = [GROUP, task_id, live.queue, live.priority, by, json.dumps(event)]
            answer = self._redis.call("cancel", names, args)
            if answer != b"moved":
                return str(answer.decode())

    def ask(self, task_id: str, by: str) -> None:
        """Ask for the cancellation of a running task that its worker has not registered yet in an emptied Redis."""
        self._redis.ask("HSETNX", self._keys.cancels, task_id, by)

    def reschedule(self, task_id: str, due_ms: int) -> bool | None:
        """Change the due time of a scheduled or retrying task (the past: now); False for a task in another state.

        None when Redis does not know the task.
        """
        keys = self._keys
        found = self._redis.ask("HGET", keys.live, task_id)
        if found is None:
            return None
        queue = Live.parse(found).queue
        names = [keys.live, keys.delayed(queue), keys.bell]
        return bool(self._redis.call("reschedule", names, [task_id, queue, due_ms]))

    def revive(self, ids: Sequence[str]) -> None:
        """Forget the ends of dead or cancelled tasks, so that they can be dispatched again."""
        names = [self._keys.live, self._keys.progress, self._keys.cancels, self._keys.crashes]
        for start in range(0, len(ids), _BATCH):
            self._redis.call("revive", names, list(ids[start : start + _BATCH]))

    def unpark(self) -> None:
        """Return the tasks to their streams that workers of 0.1 set aside and whose type is not paused; until 0.3."""
        for name in self._redis.ask("SMEMBERS", self._keys.queues):
            queue = name.decode()
            parked = self._keys.parked(queue)
            cursor: bytes | int = 0 if self._redis.ask("HLEN", parked) else b"0"
            while cursor != b"0":
                names = [self._keys.live, parked, self._keys.paused, *self._keys.streams(queue)]
                cursor, _ = self._redis.call("unpark", names, [cursor, _BATCH])

    def report_progress(self, delivery: Delivery, progress: str) -> bool:
        """Store progress (JSON text) and notice a cancellation at once; False when another attempt has the task."""
        keys = [self._keys.live, self._keys.progress, self._keys.cancels]
        asked = time.monotonic()
        answer = self._redis.call("touch", keys, [delivery.id, delivery.token, progress])
        if answer:
            delivery.held_at = asked
        if answer == 2 and delivery.cancelled_by is None:
            by = self._redis.ask("HGET", self._keys.cancels, delivery.id)
            delivery.cancelled_by = by.decode() if by else "somebody"
        return bool(answer)

    def confirm(self, delivery: Delivery) -> bool:
        """Ask whether the attempt still holds its task, and notice a cancellation."""
        return self.report_progress(delivery, "")

    def keep_result(self, task_id: str, token: int, step: str, result: str) -> bool:
        """Keep a step's result beside the task; False when a later attempt has the task or it has ended."""
        keys = [self._keys.live, self._keys.results, self._keys.epoch]
        return bool(self._redis.call("keep", keys, [task_id, token, f"{task_id} {step}", result]))

    def kept_result(self, task_id: str, step: str) -> str | None:
        found = self._redis.ask("HGET", self._keys.results, f"{task_id} {step}")
        return None if found is None else str(found.decode())

    def drop_result(self, task_id: str, step: str) -> None:
        """Drop a kept result that the database has."""
        self._redis.ask("HDEL", self._keys.results, f"{task_id} {step}")

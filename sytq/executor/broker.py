"""Dramatiq's broker interface on sytq's streams, for worker processes; submitting needs the dispatcher alone."""

from __future__ import annotations

import json
from typing import Any

import dramatiq
from dramatiq.broker import Consumer
from dramatiq.errors import QueueNotFound
from dramatiq.middleware import Middleware

from sytq import clock
from sytq.broker.connection import Redis
from sytq.broker.dispatcher import Dispatcher, Envelope
from sytq.broker.keys import Keys
from sytq.config import Settings
from sytq.executor.consumer import StreamConsumer
from sytq.executor.executor import Executor
from sytq.executor.hooks import Hooks
from sytq.states import DEFAULT_PRIORITY


class StreamsBroker(dramatiq.Broker):
    """No connection is opened and no thread runs before `executor.start`."""

    def __init__(
        self, redis: Redis, heartbeat_redis: Redis, task_redis: Redis, keys: Keys, settings: Settings, name: str = ""
    ) -> None:
        super().__init__(middleware=[])
        # The coroutine function that runs a delivery; the kind of slot that it needs; the payload's version.
        self.actor_options |= {"runner", "slot", "version"}
        #: Around every attempt, on the event loop; the hooks of other middleware are called where the function runs.
        self.loop_middleware: list[Middleware] = []
        hooks = Hooks(self, lambda: self.loop_middleware)
        self.executor = Executor(self, redis, heartbeat_redis, task_redis, keys, settings, hooks, name)
        self._redis = redis
        self._dispatcher = Dispatcher(redis, keys)

    def function_hooks(self) -> Hooks:
        """The hooks of middleware that others have added, which may need the thread that a function runs on."""
        return Hooks(self, lambda: [one for one in self.middleware if one not in self.loop_middleware])

    def declare_queue(self, queue_name: str) -> None:
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues[queue_name] = None
            self.emit_after("declare_queue", queue_name)

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 30000) -> Consumer:
        if queue_name not in self.queues:
            raise QueueNotFound(queue_name)  # type: ignore[no-untyped-call]
        return StreamConsumer(self.executor, queue_name, self.actors)

    def enqueue(self, message: dramatiq.Message[Any], *, delay: int | None = None) -> dramatiq.Message[Any]:
        """Dispatch a message without a row in the ledger (`actor.send`): it runs, but leaves no history."""
        due = int(clock.now() * 1000) + delay if delay else 0
        self.emit_before("enqueue", message, delay)
        self._dispatcher.dispatch(
            [
                Envelope(
                    id=message.message_id,
                    type=message.actor_name,
                    queue=message.queue_name,
                    priority=message.options.get("priority", DEFAULT_PRIORITY),
                    payload=json.dumps(message.args[0] if message.args else None),
                    created_ms=message.message_timestamp,
                    due_ms=due,
                )
            ]
        )
        self.emit_after("enqueue", message, delay)
        return message

    def close(self) -> None:
        self._redis.close()

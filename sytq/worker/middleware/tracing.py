"""Tracing: each attempt is a span, the parent of the spans of the plugin's calls.

Must run after the retry policy when an attempt ends: the span has the policy's outcome.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dramatiq import Broker, Worker
from dramatiq.broker import MessageProxy
from dramatiq.middleware import Middleware

from sytq.broker.delivery import Delivery, named
from sytq.broker.keys import GROUP
from sytq.errors import Waiting
from sytq.observability import tracing

if TYPE_CHECKING:
    from sytq.observability.tracing.spans import Run


class Tracing(Middleware):
    """A span for each attempt; `worker` is the name of this process."""

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._runs: dict[tuple[str, int], Run] = {}

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        tracing.stop()

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        assert isinstance(message, Delivery)
        said: dict[str, str | int] = {
            "messaging.message.id": message.id,
            "messaging.consumer.group.name": GROUP,
            "messaging.client.id": self._worker,
            "sytq.task.type": message.type,
            "sytq.task.attempt": message.attempts,
        }
        if message.request_id:
            said["sytq.request_id"] = message.request_id
        run = tracing.run(message.queue_name, message.started, message.traceparent, said)
        if run is not None:
            self._runs[message.id, message.token] = run
            # The run's children and calls are below this span.
            message.options["traceparent"] = run.traceparent

    def after_process_message(self, broker: Broker, message: MessageProxy, **ended: Any) -> None:
        assert isinstance(message, Delivery)
        run = self._runs.pop((message.id, message.token), None)
        if run is None:
            return
        outcome, error = message.outcome, message.exception
        failed = outcome is not None and outcome.kind in ("retry", "dead") and not isinstance(error, Waiting)
        kind = type(error).__qualname__ if error else "_OTHER"
        run.end(named(outcome) if outcome else None, kind if failed else None)

    after_skip_message = after_process_message  # without an outcome

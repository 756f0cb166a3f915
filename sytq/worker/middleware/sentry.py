"""Sentry for tasks: one event for each dead task, and the check-ins of schedules.

Earlier attempts, which ran in other processes, are breadcrumbs read from the ledger. Must not send payloads or results.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import sentry_sdk
import structlog
from dramatiq import Broker, Worker
from dramatiq.broker import MessageProxy
from dramatiq.middleware import Middleware
from sentry_sdk.types import Event
from sentry_sdk.utils import event_from_exception

from sytq import clock
from sytq.broker.delivery import Delivery, Outcome
from sytq.errors import DatabaseUnavailable
from sytq.ledger.ledger import Ledger
from sytq.observability import sentry
from sytq.tasktypes.registry import Registry
from sytq.worker.loops.scheduler import schedule_of

log = structlog.get_logger(__name__)

_BREADCRUMBS = 50
#: Reports waiting to be sent: when everything dies at once, the first reports are enough.
_MAX_WAITING = 200


class SentryReports(Middleware):
    """Must run after the retry policy when an attempt ends: it reports the policy's outcome."""

    def __init__(self, ledger: Ledger, registry: Registry) -> None:
        self._ledger = ledger
        self._registry = registry
        self._waiting = 0
        self._runs: dict[tuple[str, int], contextlib.ExitStack] = {}

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        self._sender = ThreadPoolExecutor(1, thread_name_prefix="sentry")

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        self._sender.shutdown()
        sentry_sdk.flush(2.0)

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        assert isinstance(message, Delivery)
        stack = self._runs[message.id, message.token] = contextlib.ExitStack()
        stack.enter_context(sentry_sdk.isolation_scope())

    def after_process_message(self, broker: Broker, message: MessageProxy, **ended: Any) -> None:
        assert isinstance(message, Delivery)
        outcome = message.outcome
        with self._runs.pop((message.id, message.token), contextlib.ExitStack()):
            if outcome is None:
                return
            self._check_in(message, outcome)
            error = message.exception
            if outcome.kind == "dead" and error is not None and self._waiting < _MAX_WAITING:
                self._waiting += 1
                event, _ = event_from_exception(error, client_options=sentry_sdk.get_client().options)
                tags = {"task_id": message.id, "type": message.type, "attempt": str(message.attempts)}
                tags |= {"queue": message.queue_name, "request_id": message.request_id or ""}
                event["tags"] = {name: value for name, value in tags.items() if value}
                event["transaction"] = message.type
                if message.traceparent:
                    _, trace_id, span_id, _ = message.traceparent.split("-")
                    event["contexts"] = {"trace": {"trace_id": trace_id, "span_id": span_id}}
                event["fingerprint"] = [message.type, outcome.fingerprint or type(error).__name__]
                self._sender.submit(self._send, message.id, message.token, event)

    after_skip_message = after_process_message  # without an outcome

    def _check_in(self, run: Delivery, outcome: Outcome) -> None:
        name = schedule_of(run.id, run.request_id)
        if name in self._registry.schedules and outcome.kind in ("done", "dead", "cancelled"):
            sentry.check_in(
                name,
                self._registry.schedules[name].schedule,
                run.id,
                "ok" if outcome.kind == "done" else "error",
                longest=self._registry.get(run.type).max_duration,
                seconds=max(0.0, clock.now() - run.created_ms / 1000),
            )

    def _send(self, task_id: str, token: int, event: Event) -> None:
        self._waiting -= 1
        try:
            attempts = self._ledger.attempts(task_id)[-_BREADCRUMBS:]
        except DatabaseUnavailable:
            attempts = []
        event["breadcrumbs"] = {
            "values": [
                {
                    "type": "error",
                    "category": "attempt",
                    "level": "warning",
                    "timestamp": at.replace(tzinfo=dt.UTC).isoformat(),
                    "message": f"attempt {one.attempt}: {_cause(one.error) or one.outcome}",
                }
                for one in attempts
                if one.token < token and (at := one.finished_at or one.started_at)
            ]
        }
        sentry_sdk.capture_event(event)


def _cause(error: str | None) -> str | None:
    """Return an attempt's error in sytq's words, or only the class of a quoted exception."""
    foreign = re.match(r"([A-Z]\w+): ", error or "")
    return foreign[1] if foreign else error

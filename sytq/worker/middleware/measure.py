"""Two histograms: how long tasks wait for a worker, and how long their attempts take, by type and outcome."""

from __future__ import annotations

from typing import Any

from dramatiq import Broker
from dramatiq.broker import MessageProxy
from dramatiq.middleware import Middleware

from sytq import clock
from sytq.broker.delivery import Delivery
from sytq.executor.acks import named
from sytq.observability.metrics import Histogram

RUN = Histogram("sytq_task_seconds", "How long one run of a task took, by what came of it.", ("type", "outcome"))
WAIT = Histogram("sytq_task_wait_seconds", "From being ready to run until the start.", ("queue", "priority"))


class Measure(Middleware):
    """Must run after the retry policy when an attempt ends: it counts the policy's outcome."""

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        assert isinstance(message, Delivery)
        # An entry's id begins with its time of insertion, by Redis' clock.
        entered = int(message.entry.partition(b"-")[0]) / 1000
        WAIT.observe(message.started - entered, message.queue_name, message.stream.rpartition(":")[2])

    def after_process_message(self, broker: Broker, message: MessageProxy, **ended: Any) -> None:
        assert isinstance(message, Delivery)
        if message.outcome is not None:
            RUN.observe(clock.now() - message.started, message.type, named(message.outcome))

"""Log fields of the running task in each of its log lines: id, type, attempt and request."""

from __future__ import annotations

from dramatiq import Broker
from dramatiq.broker import MessageProxy
from dramatiq.middleware import Middleware
from structlog.contextvars import bind_contextvars

from sytq.broker.delivery import Delivery


class Naming(Middleware):
    """Must run first at a start. An attempt is an asyncio task, with whose context the fields end."""

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        assert isinstance(message, Delivery)
        bind_contextvars(task_id=message.id, type=message.type, attempt=message.attempts)
        if message.request_id:
            bind_contextvars(request_id=message.request_id)

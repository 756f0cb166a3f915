"""Logging: one format for all records of the process, ours and every library's, on standard error.

Changes nothing until `configure` is called.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Collection
from functools import partial
from typing import Any, Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from sytq.config.masking import MASK, masked
from sytq.observability.log_stream import LogStream

#: At debug level these print SQL parameters, messages or headers: prompts, payloads and keys.
_NEVER_BELOW_INFO = ("aiohttp", "asyncio", "dramatiq", "peewee", "pymysql", "redis", "requests", "urllib3")
#: The fields whose text is shown; other fields show only numbers, so that a payload, header or URL logged in passing
#: stays out. `logger.fields` adds to them. A test checks that every field logged by sytq is here.
SHOWN = frozenset(
    {
        *("level", "msg", "time", "logger", "process", "exception", "stack"),
        *("task_id", "job_id", "request_id", "trace_id", "worker_id", "type", "queue", "attempt", "duration"),
        *("address", "at", "configure", "consumers", "entry", "error", "events", "hook", "host", "kind"),
        *("last_lines", "loop", "method", "path"),
        *("pending", "provider", "queues", "reason", "retry_in", "schedule", "source", "status", "step", "store"),
        *("stream", "stream_task", "key", "limiter", "row", "table", "thread", "tick", "token", "caller", "code"),
        *("model", "setting", "types", "worker"),
    }
)
#: Further fields of every line of this process, set by `identify`.
_identity: dict[str, str] = {}
#: Loggers with their own handlers that do not propagate.
_WITH_OWN_HANDLERS = ("gunicorn.error", "gunicorn.access")


def identify(**fields: str) -> None:
    """Add these fields to every later line of this process."""
    _identity.update(fields)


def configure(level: str, format: Literal["json", "console"] | str, process: str, fields: Collection[str] = ()) -> None:
    """Send all logging of this process to the present `sys.stderr`, from `level` (debug ... error) upwards.

    The text of `fields` is shown too. `process` names the process in every line (api, worker, dev). Call again after a
    fork, or when a library has replaced `sys.stderr` or the handlers: handlers are replaced, never added.
    """
    stream = sys.stderr if isinstance(sys.stderr, LogStream) else LogStream(sys.stderr)
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.contextvars.merge_contextvars, structlog.stdlib.ExtraAdder()],
        processors=[
            partial(_framed, process),
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.ExceptionRenderer(),
            partial(_redacted, SHOWN | set(fields)),
            _console(stream.isatty()) if format == "console" else _json(),
        ],
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    handler.addFilter(_without_payload)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _WITH_OWN_HANDLERS:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    for name in _NEVER_BELOW_INFO:
        logging.getLogger(name).setLevel(max(root.level, logging.INFO))
    logging.captureWarnings(True)


def _framed(process: str, _: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Add level, time, logger and process to a line."""
    record: logging.LogRecord = event["_record"]
    seconds, milliseconds = divmod(int(record.created * 1000), 1000)
    frame = {
        "level": record.levelname.lower(),
        "msg": event.pop("event", ""),
        "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{milliseconds:03d}Z",
        "logger": record.name,
        "process": process,
        **_identity,
    }
    if "task_id" in event and "job_id" not in event:
        frame["job_id"] = event["task_id"]  # contract D's word for it
    return {**frame, **{key: value for key, value in event.items() if key not in frame}}


def _json() -> Processor:
    return structlog.processors.JSONRenderer(ensure_ascii=False, default=str)


def _console(colors: bool) -> Processor:
    return structlog.dev.ConsoleRenderer(
        colors=colors,
        event_key="msg",
        timestamp_key="time",
        exception_formatter=structlog.dev.plain_traceback,  # the pretty formatters print local variables
        sort_keys=False,
    )


def _redacted(shown: Collection[str], _: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Show the text of the fields `shown`, with secrets masked, and only the numbers of other fields."""
    return {key: masked(key, value) if key in shown else _number(value) for key, value in event.items()}


def _number(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, float)) else MASK


def _without_payload(record: logging.LogRecord) -> bool:
    """Replace Dramatiq messages among the arguments, whose text has the payload, by type and id."""
    if isinstance(record.args, tuple) and any(hasattr(value, "message_id") for value in record.args):
        record.args = tuple(
            f"{getattr(value, 'actor_name', '?')} {value.message_id}" if hasattr(value, "message_id") else value
            for value in record.args
        )
    return True

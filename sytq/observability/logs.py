"""Logging: one format for all records of the process, ours and every library's, on standard error.

Changes nothing until `configure` is called.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, Literal, NoReturn

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from sytq.config.masking import MASK, mask_text, masked, may_hold_secret
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
_LEVELS = {name.lower(): level for name, level in logging.getLevelNamesMapping().items()} | {"exception": logging.ERROR}
_ENCODER = json.JSONEncoder(ensure_ascii=False, default=str)
#: The attributes of every record.
_BLANK = vars(logging.LogRecord("", 0, "", 0, "", (), None))
_with_exception = structlog.processors.ExceptionRenderer()
_with_extra = structlog.stdlib.ExtraAdder()


def identify(**fields: str) -> None:
    """Add these fields to every later line of this process."""
    _identity.update({name: masked(name, value) for name, value in fields.items()})


def together() -> AbstractContextManager[None]:
    """Write the lines of the block at its end, for loops that log."""
    streams = [getattr(handler, "stream", None) for handler in logging.getLogger().handlers]
    return next((stream.together() for stream in streams if isinstance(stream, LogStream)), nullcontext())


def configure(level: str, format: Literal["json", "console"] | str, process: str, fields: Collection[str] = ()) -> None:
    """Send all logging of this process to the present `sys.stderr`, from `level` (debug ... error) upwards.

    The text of `fields` is shown too. `process` names the process in every line (api, worker, dev). Call again after a
    fork, or when a library has replaced `sys.stderr` or the handlers: handlers are replaced, never added.
    """
    stream = sys.stderr if isinstance(sys.stderr, LogStream) else LogStream(sys.stderr)
    handler = logging.StreamHandler(stream)
    render = _console(stream.isatty()) if format == "console" else _json
    handler.setFormatter(_Formatter(process, SHOWN | set(fields), render))
    handler.addFilter(_without_payload)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.processors.StackInfoRenderer(),
            _hand_over,
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


def _hand_over(logger: logging.Logger, method: str, event: EventDict) -> NoReturn:
    """Give a line to the handlers. The logger's own methods would look for the caller of each line first."""
    created, level = time.time(), _LEVELS[method]  # noqa: TID251 (as the records of libraries)
    record = logging.LogRecord.__new__(logging.LogRecord)  # its constructor takes apart the path of a source file
    vars(record).update(_BLANK, name=logger.name, msg=event, levelno=level, levelname=logging.getLevelName(level))
    vars(record).update(created=created, msecs=created % 1 * 1000, is_event=True)
    logger.handle(record)
    raise structlog.DropEvent


class _Formatter(logging.Formatter):
    """Renders records: their message is the line's fields, or a library's text."""

    def __init__(self, process: str, shown: Collection[str], render: Processor) -> None:
        super().__init__()
        self._process = process
        self._shown = shown
        self._render = render

    def format(self, record: logging.LogRecord) -> str:
        event: Any = record.msg if hasattr(record, "is_event") else _of_library(record)
        if "exc_info" in event:
            event = _with_exception(None, "", dict(event))  # other handlers take the record too
        # One look at the texts of a line together, as nearly all lines hold no secret.
        is_clean = not may_hold_secret("\n".join([value for value in event.values() if type(value) is str]))
        seconds, milliseconds = divmod(int(record.created * 1000), 1000)
        said = {
            "level": record.levelname.lower(),
            "msg": masked("msg", event.get("event", ""), is_clean=is_clean),
            "time": f"{_second(seconds)}.{milliseconds:03d}Z",
            "logger": _name(record.name),
            "process": self._process,
            **_identity,
        }
        if "task_id" in event and "job_id" not in event:
            said["job_id"] = masked("job_id", event["task_id"], is_clean=is_clean)  # contract D's word for it
        for key, value in event.items():
            if key not in said and key != "event":
                # The text of the fields shown, with secrets masked, and only the numbers of others.
                said[key] = masked(key, value, is_clean=is_clean) if key in self._shown else _number(value)
        return str(self._render(None, "", said))


def _of_library(record: logging.LogRecord) -> EventDict:
    event: EventDict = {"event": record.getMessage(), "_record": record}
    if record.exc_info:
        event["exc_info"] = record.exc_info
    if record.stack_info:
        event["stack_info"] = record.stack_info
    event = _with_extra(None, "", structlog.contextvars.merge_contextvars(None, "", event))  # type: ignore[arg-type]
    del event["_record"]
    return event


@lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


@lru_cache(maxsize=1000)
def _name(logger: str) -> str:
    return mask_text(logger)


def _json(_: WrappedLogger, __: str, line: EventDict) -> str:
    return _ENCODER.encode(line)


def _console(colors: bool) -> Processor:
    return structlog.dev.ConsoleRenderer(
        colors=colors,
        event_key="msg",
        timestamp_key="time",
        exception_formatter=structlog.dev.plain_traceback,  # the pretty formatters print local variables
        sort_keys=False,
    )


def _number(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, float)) else MASK


def _without_payload(record: logging.LogRecord) -> bool:
    """Replace Dramatiq messages among the arguments, whose text has the payload, by type and id."""
    if record.args and isinstance(record.args, tuple) and any(hasattr(value, "message_id") for value in record.args):
        record.args = tuple(
            f"{getattr(value, 'actor_name', '?')} {value.message_id}" if hasattr(value, "message_id") else value
            for value in record.args
        )
    return True

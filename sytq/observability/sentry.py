"""Sentry: the SDK's settings, the scrubbing of events, and crashes of sytq itself. Ends of tasks are reported by
`sytq.worker.middleware.sentry`. Without `sentry.dsn` nothing is sent, and the SDK is not imported.

An exception's text may quote a payload, a prompt or a key, so only texts of our own classes are sent; of others the
class, the place in the code and the task's id, which `sytq show` and the log complete.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Mapping
from typing import Any, Literal

from structlog.contextvars import get_contextvars

from sytq.config import Settings
from sytq.config.masking import masked
from sytq.schedule import Schedule

_WITHHELD = "(withheld: the text of an exception may quote a payload)"
#: Exceptions with texts made for people: a reason, an address, a limit.
_OWN_WORDS = "sytq.errors"
#: The allow-list of an event's fields, so that no version of the SDK adds unknown ones.
_KEPT = frozenset(
    {
        *("event_id", "type", "timestamp", "platform", "sdk", "release", "environment"),
        *("server_name", "level", "logger", "message", "exception", "breadcrumbs", "contexts", "fingerprint"),
        *("tags", "transaction", "status"),
        *("check_in_id", "monitor_slug", "monitor_config", "duration"),
    }
)
_CONTEXTS = frozenset({"trace", "runtime"})
_FRAME = frozenset(
    {
        *("abs_path", "filename", "function", "module", "lineno", "in_app"),
        *("pre_context", "context_line", "post_context"),  # source code
    }
)
#: Loggers whose errors are crashes of sytq. Tasks report their own end, and task types' logs are their own.
_LOGGERS = ("sytq", "dramatiq", "gunicorn.error")
#: Minutes that a monitor waits at most for an end: four weeks.
_MOST_RUNTIME = 40_320
CheckIn = Literal["in_progress", "ok", "error"]
_NOT_CRASHES = ("sytq.task.", "sytq.worker.middleware.retry")

_started = False


def start(settings: Settings, process: str, version: str) -> bool:
    """Begin to report from this process (api or worker), after a fork; False without a DSN."""
    global _started
    if settings.sentry.dsn is None:
        return False
    import sentry_sdk
    from sentry_sdk.integrations.atexit import AtexitIntegration
    from sentry_sdk.integrations.dedupe import DedupeIntegration
    from sentry_sdk.integrations.excepthook import ExcepthookIntegration
    from sentry_sdk.integrations.threading import ThreadingIntegration

    sentry_sdk.init(
        dsn=settings.sentry.dsn.get_secret_value(),
        release=f"sytq@{version}",
        environment=settings.sentry.environment or settings.app.mode,
        # The other integrations send arguments, SQL, headers or every attempt of a task.
        default_integrations=False,
        auto_enabling_integrations=False,
        integrations=[
            AtexitIntegration(callback=lambda pending, timeout: None),
            DedupeIntegration(),
            ExcepthookIntegration(),
            ThreadingIntegration(propagate_scope=False),
        ],
        send_default_pii=False,
        include_local_variables=False,
        max_request_body_size="never",
        auto_session_tracking=False,
        send_client_reports=False,
        propagate_traces=False,
        before_send=_scrub,
        shutdown_timeout=2,
    )
    sentry_sdk.get_global_scope().set_tag("process", process)
    crashes = _Crashes(logging.ERROR)
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler for handler in logger.handlers if not isinstance(handler, _Crashes)]
        logger.addHandler(crashes)
    _started = True
    return True


def check_in(
    name: str, schedule: Schedule, task_id: str, status: CheckIn, *, longest: float, seconds: float | None = None
) -> None:
    """Report the state of a tick's task to its schedule's monitor, and at the end the seconds it took.

    The first tick creates the monitor; an end is missed after `longest` seconds.
    """
    if not _started:
        return
    from sentry_sdk.crons import capture_checkin

    runtime = min(max(1, math.ceil(longest / 60)), _MOST_RUNTIME)
    config: Any = {"timezone": schedule.timezone, "checkin_margin": 5, "max_runtime": runtime}
    if schedule.cron is not None and len(schedule.cron.split()) == 5:
        config["schedule"] = {"type": "crontab", "value": schedule.cron}
    elif schedule.every is not None and float(schedule.every) >= 60:
        config["schedule"] = {"type": "interval", "value": round(float(schedule.every) / 60), "unit": "minute"}
    else:
        return  # monitors have no interval below a minute
    capture_checkin(
        monitor_slug=f"sytq-{name}",
        check_in_id=task_id.replace("-", ""),
        status=status,
        duration=seconds,
        monitor_config=config,
    )


class _Crashes(logging.Handler):
    """Reports records with a traceback, and critical ones, as crashes of sytq."""

    def emit(self, record: logging.LogRecord) -> None:
        import sentry_sdk

        if record.name.startswith(_NOT_CRASHES):
            return
        fields = record.msg if isinstance(record.msg, Mapping) else {"event": record.msg}
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else fields.get("exc_info")
        if error is True:
            error = sys.exc_info()[1]
        if not (isinstance(error, BaseException) or record.levelno >= logging.CRITICAL):
            return
        with sentry_sdk.new_scope() as scope:
            scope.set_tag("logger", record.name)
            for name in ("task_id", "type", "loop", "thread", "kind", "route"):
                if fields.get(name):
                    scope.set_tag(name, str(fields[name]))
            for name in ("request_id", "trace_id"):
                if said := get_contextvars().get(name):
                    scope.set_tag(name, said)
            words = str(fields.get("event"))  # constant in sytq: variable parts are in the fields
            if isinstance(error, BaseException):
                scope.fingerprint = [record.name, words, type(error).__name__]
                sentry_sdk.capture_exception(error)
            else:
                scope.fingerprint = [record.name, words]
                sentry_sdk.capture_message(words, level="fatal")
        if record.levelno >= logging.CRITICAL:
            sentry_sdk.flush(1.0)  # the process is about to end


def _scrub(event: Any, hint: dict[str, Any]) -> Any:
    event = {key: value for key, value in event.items() if key in _KEPT}
    event["contexts"] = {key: value for key, value in event.get("contexts", {}).items() if key in _CONTEXTS}
    for error in event.get("exception", {}).get("values", []):
        if error.get("module") != _OWN_WORDS:
            error["value"] = _WITHHELD
        for frame in error.get("stacktrace", {}).get("frames", []):
            for key in [key for key in frame if key not in _FRAME]:
                del frame[key]
    return masked("", event)

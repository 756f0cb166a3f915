"""The retry policy decides what follows from an attempt: an `Outcome`, which the acknowledgement script carries out.

Dramatiq's own `Retries`, which enqueues and then acknowledges, is not used: a fault between the two loses the task.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import logging
import re
from typing import Any

import structlog
from dramatiq import Broker
from dramatiq.broker import MessageProxy
from dramatiq.middleware import Middleware
from dramatiq.middleware.time_limit import TimeLimitExceeded
from peewee import PeeweeException
from pydantic import ValidationError

from sytq import clock
from sytq.broker.delivery import Delivery, Outcome, cancellation
from sytq.config.sections import TaskLines
from sytq.durations import parse_duration
from sytq.errors import (
    Cancelled,
    DatabaseUnavailable,
    Fail,
    InvalidInput,
    Lost,
    RedisUnavailable,
    Retry,
    TimedOut,
    Waiting,
)
from sytq.observability.outages import log_failure
from sytq.tasktypes.payload import encode
from sytq.tasktypes.registry import Registry
from sytq.tasktypes.tasktype import TaskType

log = structlog.get_logger(__name__)
_PLAIN = logging.getLogger(__name__)  # structlog's own takes longer to say whether a level is logged

#: Seconds until the next attempt after Redis or the database was unavailable.
_STORE_UNAVAILABLE = 2.0
#: Bytes. Results travel through Redis; larger data belongs in a table of the task type.
_MAX_RESULT = 256 << 10
_MAX_ERROR = 1000


class RetryPolicy(Middleware):
    """Sets the outcome of every delivery, and writes the lines of the log that `logger.tasks` says."""

    def __init__(self, registry: Registry, logged: TaskLines) -> None:
        self._registry = registry
        self._logged = logged

    def after_process_message(self, broker: Broker, message: MessageProxy, **ended: Any) -> None:
        assert isinstance(message, Delivery)
        # A callback may carry the name of its role, which is an actor's second name.
        declared = self._registry.get(broker.actors[message.type].actor_name)
        error = message.exception
        try:
            outcome = decide(declared, message, error)
        except Exception as problem:
            # Such as Retry(after="soon"): another attempt would fail again.
            log.exception("outcome not decided", task_id=message.id, type=message.type)
            outcome = Outcome("dead", error=f"{describe(error) if error else 'done'}; then {describe(problem)}")
        message.outcome = outcome
        if outcome.kind == "dead":
            message.fail()
        silent = error is None and (self._logged == "failed" or not _PLAIN.isEnabledFor(logging.INFO))
        if self._logged != "none" and not silent:
            self._write_line(message, outcome, error)

    def _write_line(self, message: Delivery, outcome: Outcome, error: BaseException | None) -> None:
        """Log the end of an attempt. A task that is to run again needs nobody: warnings are of faults in its code."""
        duration = round(clock.now() - message.started, 3)
        line = log.bind(
            task_id=message.id, type=message.type, attempt=message.attempts, duration=duration, **message.origin
        )
        if error is None:
            line.info("task succeeded")
        elif outcome.kind == "dead":
            line.error("task is dead", error=outcome.error, exc_info=_unexpected(error))
        elif isinstance(error, RedisUnavailable | DatabaseUnavailable):
            log_failure(line, "task waits until it can go on", error)
        elif isinstance(error, Waiting) or outcome.kind == "return":
            if self._logged == "attempts":
                line.info("task waits", reason=outcome.error)
        elif outcome.kind == "retry":
            unexpected = None if message.lost else _unexpected(error)  # a lost attempt was cancelled by us
            write = line.info if unexpected is None else line.warning
            write("task failed", error=outcome.error, retry_in=round(outcome.delay, 1), exc_info=unexpected)
        else:
            line.info(f"task {outcome.kind}", error=outcome.error)


def decide(declared: TaskType, run: Delivery, error: BaseException | None) -> Outcome:
    """Return the outcome of a run that raised `error` (None: it returned `run.result`)."""
    if error is None:
        return _done(declared, run)
    text = describe(error)
    mark = fingerprint(declared.name, error)
    if isinstance(error, Cancelled):
        return Outcome("cancelled", error=text)
    if isinstance(error, asyncio.CancelledError) and run.cancelled_by:
        return Outcome("cancelled", error=cancellation(run))
    if isinstance(error, asyncio.CancelledError) and run.lost:
        said = f"attempt {run.token} of task {run.id} no longer holds it"
        return Outcome("retry", delay=5.0, consumes_attempt=False, error=said)
    if isinstance(error, asyncio.CancelledError) and run.returned:
        return Outcome("return", consumes_attempt=False, error=run.returned)
    if isinstance(error, Lost):
        # Redis refuses this outcome where another start holds the task. Where the row has ended already (Redis lost its
        # last second), it ends the copy in Redis, and the row stays as it is.
        return Outcome("cancelled" if error.ended else "retry", delay=5.0, consumes_attempt=False, error=text)
    if isinstance(error, Fail | InvalidInput):
        return Outcome("dead", error=text, fingerprint=mark)
    age = clock.now() - run.created_ms / 1000
    policy = declared.policy(run.payload, run.version)
    if run.max_attempts:  # set by the submission
        policy = dataclasses.replace(policy, max_attempts=run.max_attempts)
    consumes_attempt = not isinstance(error, DatabaseUnavailable | RedisUnavailable)
    delay = policy.delay(run.attempts) if consumes_attempt else _STORE_UNAVAILABLE
    if consumes_attempt and "retry_delay" in run.options:
        delay = run.options["retry_delay"]
    if isinstance(error, Retry):
        consumes_attempt = error.consumes_attempt
        if error.after is not None:
            delay = parse_duration(error.after)
    if policy.max_age is not None:
        delay = min(delay, max(0.0, float(policy.max_age) - age))  # the last attempt is at `max_age`, not later
    ended = policy.ended(run.attempts if consumes_attempt else 0, age)
    if ended:
        return Outcome("dead", error=f"{text} ({ended})"[:_MAX_ERROR], fingerprint=mark)
    permit = error.permit if isinstance(error, Retry) else None
    return Outcome("retry", delay=delay, consumes_attempt=consumes_attempt, error=text, fingerprint=mark, permit=permit)


def describe(error: BaseException) -> str:
    """One line about an error, for the ledger and the log."""
    if isinstance(error, TimeLimitExceeded):
        return "timed out"
    if isinstance(error, ValidationError):  # its own text quotes the input
        text = "; ".join(
            f"{'.'.join(map(str, part['loc']))}: {part['msg']}" for part in error.errors(include_input=False)
        )
    elif isinstance(error, PeeweeException):  # a server's text quotes column values
        text = next((f"error {part}" for part in error.args if isinstance(part, int)), "refused by the database")
    else:
        text = " ".join(str(error).encode(errors="replace").decode().split())
    named = isinstance(error, Retry | Fail | TimedOut | Cancelled | Lost)
    return (text if named and text else f"{type(error).__name__}: {text}")[:_MAX_ERROR]


def fingerprint(type_name: str, error: BaseException) -> str:
    """Return a text that errors of one cause share: the type, the error's class, its text without numbers."""
    words = re.sub(r"\d+", "#", str(error))[:200]
    return hashlib.sha256(f"{type_name}|{type(error).__name__}|{words}".encode(errors="replace")).hexdigest()[:16]


def _done(declared: TaskType, run: Delivery) -> Outcome:
    try:
        result = None if run.result is None else encode(run.result)
    except (TypeError, ValueError) as error:
        # The work is done; another attempt would only repeat it.
        log.error("result is not JSON", task_id=run.id, type=declared.name, error=str(error))
        return Outcome("done", result=encode({"omitted": f"the result is not JSON: {error}"}))
    if result is not None and len(result) > _MAX_RESULT:
        return Outcome("done", result=encode({"omitted": f"the result has {len(result)} bytes; at most {_MAX_RESULT}"}))
    return Outcome("done", result=result)


def _unexpected(error: BaseException) -> BaseException | None:
    """Return the error if its traceback tells more than its one line."""
    expected = Retry | Fail | Cancelled | Lost | TimedOut | InvalidInput | DatabaseUnavailable | RedisUnavailable
    expected |= ValidationError | PeeweeException  # a traceback ends with their text, which quotes values
    return None if isinstance(error, expected | TimeoutError | OSError) else error

"""The outcome of an attempt."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import dramatiq
import pytest
from dramatiq import Message
from dramatiq.middleware.time_limit import TimeLimitExceeded
from hypothesis import given
from hypothesis import strategies as st
from peewee import IntegrityError
from pydantic import BaseModel, ValidationError
from structlog.testing import capture_logs

from sytq import Backoff, Cancelled, Fail, Lost, Retry, TaskType, task
from sytq.broker.connection import Redis
from sytq.broker.delivery import Delivery
from sytq.broker.keys import Keys
from sytq.config import load
from sytq.errors import DatabaseUnavailable, InvalidInput, RedisUnavailable, TimedOut
from sytq.executor.broker import StreamsBroker
from sytq.tasktypes.registry import Registry
from sytq.worker.middleware.retry import RetryPolicy, decide, describe, fingerprint


class Nothing(BaseModel):
    pass


def type_with(**policy: Any) -> TaskType:
    backoff = Backoff(**{"first": "2s", "factor": 2, "max": "1m", "max_attempts": 3, "jitter": 0} | policy)
    return TaskType("t", payload=Nothing, function=lambda: None, retry=backoff, timeout=10.0, queue="q")


def run(attempts: int = 1, age: float = 0.0, max_attempts: int = 0) -> Delivery:
    created = int((time.time() - age) * 1000)
    message: Message[Any] = Message("q", "t", ({},), {}, {}, "id", created)
    return Delivery(message, stream="s", entry=b"1-1", body=b"", attempts=attempts, max_attempts=max_attempts, token=1)


@pytest.mark.parametrize(
    ("error", "kind", "delay", "counts"),
    [
        (ValueError("x"), "retry", 2, True),
        (TimeLimitExceeded(), "retry", 2, True),
        (TimedOut("timed out after 10 s"), "retry", 2, True),
        (Retry(), "retry", 2, True),
        (Retry(after="7s"), "retry", 7, True),
        (Retry(after=0.5, consumes_attempt=False), "retry", 0.5, False),
        (DatabaseUnavailable("away"), "retry", 2, False),
        (RedisUnavailable("away"), "retry", 2, False),
        (Fail("never"), "dead", 0, True),
        (InvalidInput("url", "is missing"), "dead", 0, True),
        (Cancelled("by hand"), "cancelled", 0, True),
        (asyncio.CancelledError(), "retry", 2, True),  # of an awaited future: the task itself was not cancelled
        (Lost("another holds it"), "retry", 5, False),
        (Lost("it has ended", ended=True), "cancelled", 5, False),
    ],
)
def test_each_error_of_an_attempt_has_one_outcome(error: BaseException, kind: str, delay: float, counts: bool) -> None:
    outcome = decide(type_with(), run(), error)
    assert (outcome.kind, outcome.delay, outcome.consumes_attempt) == (kind, delay, counts)
    assert outcome.error


def test_attempt_cancelled_by_shutdown_is_returned() -> None:
    stopped = run()
    stopped.returned = "the worker is stopping"
    outcome = decide(type_with(), stopped, asyncio.CancelledError())
    assert (outcome.kind, outcome.consumes_attempt) == ("return", False)


def test_max_attempts_of_a_task_override_its_type() -> None:
    assert decide(type_with(), run(attempts=3, max_attempts=5), ValueError()).kind == "retry"
    assert decide(type_with(max_attempts=9), run(attempts=5, max_attempts=5), ValueError()).kind == "dead"


def test_retry_accepts_the_deprecated_counts_and_warns() -> None:
    with pytest.warns(DeprecationWarning, match="consumes_attempt"):
        error = Retry(after=1, counts=False)
    assert not error.consumes_attempt


def test_invalid_retry_delay_ends_the_task() -> None:
    settings, redis = load(environ={}), Redis("redis://x")
    registry = Registry(settings)
    registry.add(task("t", payload=Nothing, retry=Backoff(max_attempts=3))(lambda: None))
    confused = run()
    confused.stuff_exception(Retry(after="soon"))
    broker = StreamsBroker(redis, redis, redis, Keys("sytq"), settings)
    dramatiq.actor(lambda: None, actor_name="t", queue_name="q", broker=broker)
    RetryPolicy(registry, "finished").after_process_message(broker, confused)
    assert confused.outcome is not None
    assert confused.outcome.kind == "dead"


def test_attempt_that_was_cancelled_as_another_has_the_task_is_no_fault() -> None:
    lost = run()
    lost.lost = True
    lost.stuff_exception(asyncio.CancelledError())
    with capture_logs() as lines:
        policy = RetryPolicy(Registry(load(environ={})), "finished")
        policy._write_line(lost, decide(type_with(), lost, lost.exception), lost.exception)
    (line,) = lines
    assert (line["log_level"], line["exc_info"]) == ("info", None)


def test_errors_quote_no_input() -> None:
    class Strict(BaseModel):
        n: int

    with pytest.raises(ValidationError) as invalid:
        Strict(n="my secret")  # type: ignore[arg-type]
    assert (
        describe(invalid.value)
        == "ValidationError: n: Input should be a valid integer, unable to parse string as an integer"
    )
    assert "my secret" not in describe(IntegrityError(1062, "Duplicate entry 'my secret' for key 'PRIMARY'"))
    assert describe(ValueError("half \ud83d")).encode()


def test_attempts_end_a_task_but_waiting_does_not() -> None:
    assert decide(type_with(), run(attempts=2), ValueError()).kind == "retry"
    assert decide(type_with(), run(attempts=3), ValueError("x")).error == "ValueError: x (failed after 3 attempts)"
    assert decide(type_with(), run(attempts=3), Retry(consumes_attempt=False)).kind == "retry"


def test_max_age_ends_a_task_after_a_last_attempt() -> None:
    day = type_with(first="10s", factor=1, max_attempts=None, max_age="24h")
    assert decide(day, run(attempts=8000, age=86300), ValueError()).delay == 10
    assert 0 < decide(day, run(attempts=8000, age=86396), ValueError()).delay <= 4
    assert decide(day, run(attempts=8000, age=86401), ValueError()).kind == "dead"
    assert decide(day, run(age=86401), Retry(consumes_attempt=False)).kind == "dead"
    assert decide(day, run(age=86000), Retry(after="24h")).delay <= 400


def test_invalid_results_do_not_repeat_the_task() -> None:
    for result, words in ((object(), "not JSON"), (float("nan"), "not JSON"), ("x" * 2_000_000, "at most")):
        delivery = run()
        delivery.result = result
        outcome = decide(type_with(), delivery, None)
        assert outcome.kind == "done"
        assert words in (outcome.result or "")


def test_fingerprints_group_by_cause() -> None:
    same = {fingerprint("t", ValueError(f"row {n} is bad")) for n in range(5)}
    assert len(same) == 1
    assert fingerprint("t", TypeError("row 1 is bad")) not in same


@given(
    first=st.floats(0, 1e6), factor=st.floats(1, 1e3), maximum=st.floats(0, 1e6), jitter=st.floats(0, 1),
    attempts=st.integers(0, 10**9),
)  # fmt: skip
def test_delays_are_never_negative_and_never_above_the_maximum(
    first: float, factor: float, maximum: float, jitter: float, attempts: int
) -> None:
    backoff = Backoff(first=first, factor=factor, max=maximum, max_attempts=1, jitter=jitter)
    assert 0 <= backoff.delay(attempts) <= maximum


def test_unbounded_retry_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="never ends"):
        Backoff(max_attempts=None, max_age=None)

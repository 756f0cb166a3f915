"""The attempts of a webhook over its whole life, on the clock of the retry policy."""

from __future__ import annotations

from typing import Any

import pytest

from sytq import Retry, clock
from sytq.broker.delivery import Outcome
from sytq.errors import InvalidInput
from sytq.tasktypes.registry import Registry
from sytq.tasktypes.tasktype import TaskType
from sytq.worker.middleware import retry
from tests.plugins.deliveries import settings, started

URL = "https://example.com/"
DAY = 86_400.0
CREATED = 1_800_000_000.0


def declared(name: str = "webhook", **given: object) -> TaskType:
    return Registry.load(settings(**given)).get(name)


class Life:
    """Attempts that all fail, each as soon as it is due and `lasting` seconds long."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        task_type: TaskType,
        payload: dict[str, Any] | None = None,
        *,
        lasting: float = 0.0,
        after: float | None = None,
        consumes_attempt: bool = True,
    ) -> None:
        now = CREATED
        monkeypatch.setattr(clock, "now", lambda: now)
        self.attempts: list[float] = []
        self.delays: list[float] = []
        self.end: Outcome | None = None
        payload = {"url": URL} | (payload or {})
        while self.end is None:
            run = started(payload, attempts=len(self.attempts) + 1 if consumes_attempt else 1, type_name=task_type.name)
            run._message = run._message.copy(message_timestamp=int(CREATED * 1000))
            run.max_attempts = task_type.policy(payload).max_attempts or 0
            self.attempts.append(now - CREATED)
            now += lasting
            outcome = retry.decide(
                task_type,
                run,
                Retry(after=after, consumes_attempt=consumes_attempt, reason="HTTP 500 from example.com"),
            )
            if outcome.kind == "retry":
                self.delays.append(outcome.delay)
                now += outcome.delay
            else:
                self.end = outcome


def test_contract_e_retries_every_ten_seconds_for_one_day(monkeypatch: pytest.MonkeyPatch) -> None:
    life = Life(monkeypatch, declared())
    assert len(life.attempts) == 8641
    assert set(life.delays) == {10.0}
    assert life.attempts[-1] == DAY
    assert life.end == Outcome(
        "dead",
        error="HTTP 500 from example.com (failed for longer than 86400 s (8641 attempts))",
        fingerprint=life.end.fingerprint,
    )


def test_last_attempt_is_at_the_end_of_the_day_with_slow_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    life = Life(monkeypatch, declared(), lasting=33.0)
    assert DAY - 43 < life.attempts[-1] <= DAY
    assert len(life.attempts) == 2010


def test_old_environment_variable_sets_the_retry_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    life = Life(monkeypatch, declared(worker__retry_interval="60s"))
    assert set(life.delays) == {60.0} and len(life.attempts) == 1441


def test_callbacks_retry_with_exponential_backoff_and_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    task_type = declared("callback")
    lives = [Life(monkeypatch, task_type) for _ in range(5)]
    for life in lives:
        full = [min(5.0 * 2**n, 3600.0) for n in range(len(life.delays))]
        assert all(0.8 * longest <= delay <= longest for delay, longest in zip(life.delays[:-1], full, strict=False))
        assert 33 <= len(life.attempts) <= 42 and life.attempts[-1] == pytest.approx(DAY, abs=0.01)
    assert len({life.delays[0] for life in lives}) > 1


def test_retry_after_is_honoured_up_to_max_age(monkeypatch: pytest.MonkeyPatch) -> None:
    life = Life(monkeypatch, declared(), after=50_000.0)
    assert life.attempts == [0.0, 50_000.0, DAY] and life.delays == [50_000.0, 36_400.0]


def test_retries_that_consume_no_attempt_end_at_max_age(monkeypatch: pytest.MonkeyPatch) -> None:
    life = Life(monkeypatch, declared(), {"retry": {"max_attempts": 3}}, consumes_attempt=False)
    assert life.attempts[-1] == DAY and "longer than 86400 s" in (life.end.error or "" if life.end else "")


@pytest.mark.parametrize(
    ("own", "attempts", "end"),
    [
        ({"max_attempts": 3}, [0, 10, 20], "failed after 3 attempts"),
        ({"first": "1m", "max_age": "2m"}, [0, 60, 120], "longer than 120 s"),
        ({"first": 2, "factor": 3, "max": "10s", "max_attempts": 4}, [0, 2, 8, 18], "failed after 4 attempts"),
        ({"first": "1h", "factor": 2, "max": "24h", "max_age": "7d"}, None, None),
    ],
)
def test_payload_can_set_its_own_retry_policy(
    monkeypatch: pytest.MonkeyPatch, own: dict[str, Any], attempts: list[float] | None, end: str | None
) -> None:
    if own.get("max_age") == "7d":  # not a supported duration; 168h is
        with pytest.raises(InvalidInput, match=r"retry\.max_age"):
            declared().parse({"url": URL, "retry": own})
        own = own | {"max_age": "168h"}
        assert Life(monkeypatch, declared(), {"retry": own}).attempts[-1] == 7 * DAY
        return
    life = Life(monkeypatch, declared(), {"retry": own})
    assert life.attempts == attempts and life.end and end in (life.end.error or "")


@pytest.mark.parametrize(
    ("own", "named"),
    [
        ({"first": 0}, "retry.first"),
        ({"first": "25h"}, "retry.first"),
        ({"max": "500ms"}, "retry.max"),
        ({"factor": 0.5}, "retry.factor"),
        ({"factor": 11}, "retry.factor"),
        ({"jitter": 1.1}, "retry.jitter"),
        ({"max_attempts": 0}, "retry.max_attempts"),
        ({"max_attempts": 10_001}, "retry.max_attempts"),
        ({"max_age": "169h"}, "retry.max_age"),
        ({"max_ages": "1h"}, "retry.max_ages"),
        ("10s", "retry"),
    ],
)
def test_retry_policy_out_of_bounds_is_refused_naming_the_field(own: object, named: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        declared().parse({"url": URL, "retry": own})
    assert refused.value.field == named

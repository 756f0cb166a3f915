"""What an attempt waited for is recorded with it, where it waited noticeably."""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sytq import Limiter, Waiting
from sytq.broker.delivery import Delivery, Outcome
from sytq.broker.limiters import Limiters
from sytq.broker.waits import WAITS, Waits
from sytq.executor.acks import end_event
from sytq.runtime import Runtime
from tests.crowd import Crowd
from tests.installation import TRIALS
from tests.plugins.running import attempt, delivery_of, runtime_of

A, B = Limiter("provider:a"), Limiter("provider:b")


@pytest.fixture
def runtime(tmp_path: Path, redis_url: str) -> Iterator[Runtime]:
    with runtime_of(f"sqlite:///{tmp_path / 'sytq.db'}", redis_url, PLUGINS__PATHS=f'["{TRIALS}"]') as made:
        yield made


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    made = Crowd(seconds=0)
    yield made
    made.close()


def started(runtime: Runtime, type_name: str, crowd: Crowd) -> Delivery:
    payload = {"port": crowd.port}
    return delivery_of(runtime.registry.get(type_name), payload, "t", dt.datetime.now(dt.UTC), attempts=1, token=1)


def recorded(delivery: Delivery, kind: Any = "done") -> Any:
    """What the event of the attempt's end has."""
    return json.loads(end_event(delivery, Outcome(kind), 1, "w")).get("detail", {}).get(WAITS)


@pytest.mark.parametrize("type_name", ["called", "called-plain"])
def test_permit_that_took_long_is_recorded_with_its_limiters(
    runtime: Runtime, crowd: Crowd, type_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery, real = started(runtime, type_name, crowd), Limiters.acquire_all

    def slow(*args: Any) -> Any:
        time.sleep(0.08)
        return real(*args)

    monkeypatch.setattr(Limiters, "acquire_all", slow)
    assert attempt(runtime, delivery) == "ok"
    (permit,) = recorded(delivery)["permits"]
    assert permit["limiters"] == ["provider:crowd", "model:crowd/one"]
    assert permit["ms"] >= 80


@pytest.mark.parametrize("type_name", ["called", "called-plain"])
def test_refused_attempt_is_recorded_with_the_limiter(runtime: Runtime, crowd: Crowd, type_name: str) -> None:
    runtime.limiters.pause("provider:crowd", "a test", "no credit")
    delivery = started(runtime, type_name, crowd)
    with pytest.raises(Waiting) as caught:
        attempt(runtime, delivery)
    assert caught.value.limiter == "provider:crowd"
    assert recorded(delivery, "retry") == {"then": {"limiter": "provider:crowd"}}
    assert recorded(delivery, "dead") is None  # it waits for nothing


def test_permit_after_a_refusal_leaves_no_wait() -> None:
    waits = Waits(0, b"")
    waits.refused(limiter="provider:a")
    waits.granted([B.name], 10, 3)
    assert waits.recorded(0, runs_again=True) == {}


def test_waits_of_many_permits_are_bounded() -> None:
    waits = Waits(0, b"")
    for n in range(1000):
        waits.granted([A.name, B.name], n, 100)
    assert len(waits.recorded(0, runs_again=False)[WAITS]["permits"]) == 20


@pytest.mark.parametrize(
    ("entry", "known"),
    [(b"60000-0", True), (b"10500-0", False), (b"90000-0", False), (b"7-7", False), (b"", False), (b"x-1", False)],
)
def test_entry_into_the_queue_is_recorded_where_it_came_later(entry: bytes, known: bool) -> None:
    found = Waits(10_000, entry).recorded(70_000, runs_again=False)
    assert found == ({WAITS: {"queued_ms": 60_000}} if known else {})

"""The suspects' loop: when no isolated process can be started, and when one finds nothing to do."""

from __future__ import annotations

import io
import subprocess
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sytq.broker.connection import Redis
from sytq.broker.keys import Keys
from sytq.executor.executor import Executor
from sytq.executor.slots import Slots
from sytq.exit_status import NONE_FOUND
from sytq.worker.loops.suspects import SuspectLoop

SLOTS = 2


@pytest.fixture
def slots() -> Slots:
    return Slots(SLOTS)


@pytest.fixture
def loop(redis_url: str, slots: Slots) -> Iterator[SuspectLoop]:
    redis, keys = Redis(redis_url), Keys("suspects-loop")
    redis.ask("ZADD", keys.suspects("q"), 1, "a")
    executor = SimpleNamespace(name="w", slots=slots, stopping=threading.Event(), may_start=lambda: True)
    queues = ["q"]
    yield SuspectLoop(redis, keys, cast(Executor, executor), lambda: queues, group=(), bounded=True, shutdown_timeout=1)
    redis.ask("DEL", keys.suspects("q"), keys.departed, keys.lease("suspects"))


def test_slot_is_released_when_no_process_can_be_started(
    loop: SuspectLoop, slots: Slots, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: Any) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    for _ in range(3):
        loop.step()
    assert slots.acquire((), SLOTS, timeout=0) == SLOTS


def test_process_that_found_no_suspect_is_not_started_again_at_once(
    loop: SuspectLoop, slots: Slots, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []

    def start(*command: object, **__: Any) -> SimpleNamespace:
        started.append(command)
        return SimpleNamespace(stderr=io.StringIO(), returncode=NONE_FOUND, poll=lambda: NONE_FOUND)

    monkeypatch.setattr(subprocess, "Popen", start)
    for _ in range(5):
        loop.step()
    assert len(started) == 1
    assert slots.acquire((), SLOTS, timeout=0) == SLOTS

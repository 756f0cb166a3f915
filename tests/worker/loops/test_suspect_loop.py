"""The suspects' loop, and what becomes of its worker when no process can be started."""

from __future__ import annotations

import subprocess
import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sytq.broker.connection import Redis
from sytq.broker.keys import Keys
from sytq.executor.executor import Executor
from sytq.executor.slots import Slots
from sytq.worker.loops.suspects import SuspectLoop


def test_slot_is_released_when_no_process_can_be_started(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: Any) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    redis, keys = Redis(redis_url), Keys("suspects-loop")
    redis.ask("ZADD", keys.suspects("q"), 1, "a")
    slots = Slots(2)
    executor = SimpleNamespace(name="w", slots=slots, stopping=threading.Event(), may_start=lambda: True)
    loop = SuspectLoop(
        *(redis, keys, cast(Executor, executor), lambda: ["q"]), group=(), bounded=True, shutdown_timeout=1
    )
    for _ in range(3):
        loop.work()
    assert slots.acquire((), 2, timeout=0) == 2
    redis.ask("DEL", keys.suspects("q"))

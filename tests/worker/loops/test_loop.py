"""A background loop: its pace, and its signs of life to the watchdog."""

from __future__ import annotations

import pytest

from sytq.executor import watchdog
from sytq.worker.loops import loop
from sytq.worker.loops.loop import Loop
from tests.servers import poll


def test_loop_with_a_long_pause_makes_turns_and_no_further_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_TURN", 0.01)
    steps: list[int] = []

    class Rare(Loop):
        def step(self) -> float:
            steps.append(1)
            return 3600.0

    rare = Rare("rare")
    rare.start()
    poll(lambda: watchdog._turns.get(rare, 0) > 5)
    rare.end()
    rare.join(60)
    assert steps == [1]


def test_loop_steps_again_after_its_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_TURN", 0.01)
    steps: list[int] = []

    class Often(Loop):
        def step(self) -> float:
            steps.append(1)
            return 0.03

    often = Often("often")
    often.start()
    poll(lambda: len(steps) > 3)
    often.end()
    often.join(60)

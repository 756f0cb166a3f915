"""Webhooks and valuations under real limits: what their host and their provider see of three workers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sytq_plugins.llm.row import ValuationRecord

from tests.installation import Installation
from tests.processes import Process
from tests.provider import Scene, ScriptedProvider, Stage, answers, says
from tests.servers import poll

pytestmark = pytest.mark.faults


def takes(seconds: float, scene: Scene) -> Scene:
    """`scene` after `seconds`; a caller that is gone ends the call."""

    async def waits(stage: Stage) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await stage.until_gone()
            raise ConnectionResetError
        await scene(stage)

    return waits


class FarSide:
    """A host and a provider, and an installation that submits to both."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.host, self.provider = ScriptedProvider(), ScriptedProvider()
        self.host.play(takes(0.2, says("", "text/plain")))
        self.provider.play(takes(0.3, answers()))
        self.tasks: list[str] = []
        self.installation = Installation(
            folder,
            f"sqlite:///{folder / 'sytq.db'}",
            redis_url,
            SYTQ_OUTBOUND__ALLOW_NETWORKS='["127.0.0.0/8"]',
            SYTQ_PROVIDERS__SCRIPTED__BASE_URL=self.provider.base_url,
            SYTQ_PROVIDERS__SCRIPTED__API_KEY="sk-scripted",
            SYTQ_PROVIDERS__SCRIPTED__MODEL="valuer-1",
        )

    def close(self) -> None:
        self.installation.close()
        self.host.close()
        self.provider.close()

    def worker(self, host: int, provider: int) -> Process:
        """Start a worker that is configured with these limits."""
        limits = json.dumps({"running": provider, "adaptive": False})
        return self.installation.start_worker(
            SYTQ_WEBHOOK__HOST__RUNNING=str(host), SYTQ_PROVIDERS__SCRIPTED__LIMITS=limits
        )

    def submit(self, webhooks: int, valuations: int) -> None:
        submitter = self.installation.runtime.submitter
        root = self.host.base_url.removesuffix("v1")
        first = len(self.tasks) + 1
        numbers, ids = range(first, first + webhooks), range(first, first + valuations)
        rows = [{"id": number, "status": "pending", "user_message": str(number)} for number in ids]
        tasks = [submitter.prepare("webhook", {"url": f"{root}{number}"}) for number in numbers]
        tasks += [submitter.prepare("llm", {"table_name": "valuation_records", "id": row["id"]}) for row in rows]
        submitter.submit(tasks, also=ValuationRecord.insert_many(rows).execute)
        self.tasks += [task.id for task in tasks]

    def wait_calls(self, more: int) -> None:
        """Wait until both have got some more calls."""
        begun = len(self.host.calls), len(self.provider.calls)
        poll(lambda: len(self.host.calls) >= begun[0] + more, message="calls of the host go on")
        poll(lambda: len(self.provider.calls) >= begun[1] + more, message="calls of the provider go on")

    def wait_all(self) -> None:
        for task in self.tasks:
            assert self.installation.wait_state(task, "succeeded", "dead").state == "succeeded"

    def forget_peaks(self) -> None:
        for side in (self.host, self.provider):
            side.peak = side.running

    @property
    def peaks(self) -> tuple[int, int]:
        return self.host.peak, self.provider.peak

    def repeated(self) -> int:
        """The number of calls beyond one for each task."""
        paths = Counter(call.path for call in self.host.calls)
        prompts = Counter(str(call.body["messages"][-1]["content"]) for call in self.provider.calls)
        assert len(paths) + len(prompts) == len(self.tasks)
        return paths.total() + prompts.total() - len(self.tasks)


@pytest.fixture
def far(tmp_path: Path, redis_url: str) -> Iterator[FarSide]:
    made = FarSide(tmp_path, redis_url)
    yield made
    made.close()


def test_limits_of_host_and_provider_hold_while_workers_are_killed(far: FarSide) -> None:
    workers = [far.worker(host=4, provider=3) for _ in range(3)]
    far.submit(webhooks=60, valuations=30)
    for victim in workers[:2]:
        far.wait_calls(6)
        victim.kill()
        far.worker(host=4, provider=3)
    far.wait_all()
    assert far.peaks == (4, 3)
    assert far.repeated() <= 2 * (4 + 3)


def test_lower_limits_of_host_and_provider_hold_once_all_workers_have_them(far: FarSide) -> None:
    workers = [far.worker(host=6, provider=4) for _ in range(3)]
    far.submit(webhooks=60, valuations=30)
    poll(lambda: far.peaks == (6, 4), message="both are at their limits")
    for old in workers:
        far.worker(host=2, provider=1)
        assert old.terminate() == 0
    assert far.peaks == (6, 4), "never above the higher of two limits"
    far.forget_peaks()
    far.submit(webhooks=12, valuations=6)
    far.wait_all()
    assert far.peaks == (2, 1)

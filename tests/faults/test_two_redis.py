"""P4: one Redis serves one ledger. A worker that is configured otherwise calls nobody and says why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sytq_plugins.llm.row import ValuationRecord

from sytq.ledger.database import open_database
from tests.installation import Installation
from tests.processes import Process
from tests.provider import ScriptedProvider
from tests.servers import poll
from tests.tables import make_tables

pytestmark = pytest.mark.faults
ROWS = 20
Make = Callable[..., Installation]


def logged(worker: Process, event: str) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in worker.text().splitlines() if line.startswith("{"))
    return [line for line in lines if line["msg"] == event]


def refusal(worker: Process) -> str:
    """What the worker said once, at CRITICAL, of why it does not consume."""
    poll(lambda: logged(worker, "worker does not consume"), message=worker.text)
    (line,) = logged(worker, "worker does not consume")
    assert line["level"] == "critical" and worker.alive
    return str(line["error"])


@pytest.fixture
def desk(make_installation: Make, provider: ScriptedProvider) -> Installation:
    return make_installation(
        SYTQ_PROVIDERS__SCRIPTED__BASE_URL=provider.base_url,
        SYTQ_PROVIDERS__SCRIPTED__API_KEY="sk-scripted",
        SYTQ_PROVIDERS__SCRIPTED__MODEL="valuer-1",
        SYTQ_OUTBOUND__ALLOW_NETWORKS='["127.0.0.0/8"]',
        SYTQ_PLUGINS__PATHS=None,
    )


def valuate(desk: Installation) -> list[str]:
    def insert() -> None:
        for number in range(1, ROWS + 1):
            ValuationRecord.insert(id=number, status="pending", user_message="What is it worth?").execute()

    payloads = ({"table_name": "valuation_records", "id": number} for number in range(1, ROWS + 1))
    tasks = [desk.runtime.submitter.prepare("llm", payload) for payload in payloads]
    desk.runtime.submitter.submit(tasks, also=insert)
    return [task.id for task in tasks]


@pytest.mark.parametrize("setting", ["database number", "prefix"])
def test_p4_worker_of_a_second_redis_pays_for_nothing(
    desk: Installation, provider: ScriptedProvider, setting: str
) -> None:
    url = desk.environ["SYTQ_REDIS__URL"]
    other = {
        "database number": {"SYTQ_REDIS__URL": f"{url.removesuffix('/0')}/7"},
        "prefix": {"SYTQ_REDIS__PREFIX": "elsewhere"},
    }[setting]
    desk.start_worker()
    stray = desk.start_worker(**other)
    tasks = valuate(desk)
    for task in tasks:
        desk.wait_state(task, "succeeded")
    said = refusal(stray)
    assert len(provider.calls) == ROWS
    first, second = desk.runtime.redis_half.place, other.get("SYTQ_REDIS__PREFIX", "/7, ")
    assert first in said and second in said and desk.runtime.ledger_half.place in said
    assert "set redis.url (and redis.prefix) to the same Redis everywhere" in said


def test_p4_worker_of_another_ledger_disturbs_no_task(
    desk: Installation, tmp_path: Path, provider: ScriptedProvider
) -> None:
    desk.start_worker()
    elsewhere = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    make_tables(open_database(elsewhere))
    stray = desk.start_worker(SYTQ_DATABASE__URL=elsewhere)
    for task in valuate(desk):
        assert desk.wait_state(task, "succeeded").attempts == 1
    assert "elsewhere.db" in refusal(stray) and len(provider.calls) == ROWS

"""Budgets while workers run."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.installation import Installation
from tests.provider import ScriptedProvider
from tests.servers import poll

pytestmark = pytest.mark.faults


def test_worker_reload_applies_a_new_budget_and_keeps_the_spend(
    tmp_path: Path, database_url: str, redis_url: str
) -> None:
    provider, file = ScriptedProvider(), tmp_path / "sytq.yaml"

    def configure(budget: str) -> None:
        file.write_text(
            f"providers: {{scripted: {{base_url: {provider.base_url}, model: valuer-1, max_tokens: 100,"
            f" budget: {budget},"
            " models: {valuer-1: {prices: [{input: 1, output: 2}]}}}}\n"
        )

    configure("0.00001")
    on = Installation(tmp_path, database_url, redis_url, SYTQ_CONFIG=str(file))
    try:
        # Dramatiq begins anew as "python".
        worker = on.start_worker(PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        with on.runtime.database.connection_context():
            on.runtime.database.execute_sql(
                "INSERT INTO valuation_records (id, status, user_message) VALUES (1, 'x', 'What is it worth?')"
            )
        task = on.runtime.submitter.prepare("llm", {"table_name": "valuation_records", "id": 1})
        on.runtime.submitter.submit([task])
        row = on.wait_state(task.id, "retrying")
        assert "the budget of provider scripted" in str(row.error)
        configure("0.01")
        worker.signal_master(signal.SIGHUP)
        poll(lambda: worker.text().count("worker started") == 2, message="the workers begin anew")
        assert on.wait_state(task.id, "succeeded", timeout=60).attempts == 1
        assert len(provider.calls) == 1
    finally:
        on.close()
        provider.close()

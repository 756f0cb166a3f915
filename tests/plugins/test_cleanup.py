"""Retention: finished tasks past their age are deleted with all their records, and nothing else is."""

from __future__ import annotations

import datetime as dt
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from sytq_plugins.cleanup import Cleanup
from sytq_plugins.llm.spend import BudgetRow, SpendRow
from sytq_plugins.webhook.hosts import FailingHost

from sytq.ledger import dependencies
from sytq.ledger.database import transact
from sytq.ledger.models import Attempt, AuditEntry, Idempotency, Step, Task
from sytq.ledger.values import utcnow
from sytq.runtime import Runtime
from sytq.states import STATES, TERMINAL
from tests.installation import Installation
from tests.plugins.running import Run, runtime_of
from tests.servers import poll

NOTHING = {"dry_run": False, "tasks": 0, "audit": 0, "spend": 0, "hosts": 0, "files": 0}


@pytest.fixture
def runtime(database_url: str) -> Iterator[Runtime]:
    with runtime_of(database_url, "redis://127.0.0.1:1/0", QUEUE__RETENTION="1h") as made:
        yield made


def add(runtime: Runtime, name: str, state: str, hours: float, type_name: str = "llm") -> None:
    """A task with an attempt and a step that ended `hours` ago."""
    now = utcnow()
    ended = now - dt.timedelta(hours=hours)
    with runtime.database.connection_context():
        Task.create(
            id=name, type=type_name, state=state, payload="{}", created_at=now - dt.timedelta(days=9), finished_at=ended
        )
        Attempt.create(task_id=name, token=1, attempt=1, outcome="x")
        Step.create(task_id=name, name="s", token=1, state="done", started_at=now)


def add_many(runtime: Runtime, total: int, ended: dt.datetime) -> None:
    """Tasks of the type x that succeeded at this moment."""
    common = {"type": "x", "state": "succeeded", "payload": "{}", "created_at": ended, "finished_at": ended}
    rows = [common | {"id": f"t{number}"} for number in range(total)]
    with runtime.database.connection_context(), runtime.database.atomic():
        for start in range(0, total, 500):
            Task.insert_many(rows[start : start + 500]).execute()


def clean(runtime: Runtime, **payload: Any) -> Any:
    run = Run(runtime, "cleanup", payload)
    result = run.start()
    with runtime.database.connection_context():
        Task.delete().where(Task.id == run.id).execute()
    return result


def left(runtime: Runtime, but: str = "") -> set[str]:
    """The tasks that are left except `but`, the same in all three tables."""
    with runtime.database.connection_context():
        tasks = {row.id for row in Task.select(Task.id).where(Task.id != but)}
        assert tasks == {row.task_id for row in Attempt.select()} == {row.task_id for row in Step.select()}
    return tasks


def test_finished_tasks_past_retention_are_deleted_with_their_records(runtime: Runtime) -> None:
    for state in TERMINAL:
        add(runtime, f"old-{state}", state, 1.1)
        add(runtime, f"new-{state}", state, 0.9)
    assert clean(runtime) == NOTHING | {"tasks": 3}
    assert left(runtime) == {f"new-{state}" for state in TERMINAL}


def test_unfinished_tasks_are_kept_at_any_age(runtime: Runtime) -> None:
    unfinished = [state for state in STATES if state not in TERMINAL]
    for state in unfinished:
        add(runtime, state, state, 5)  # finished_at alone, as another program may write it, is no end
    assert clean(runtime, older_than="0s") == NOTHING
    assert left(runtime) == set(unfinished)


def test_older_than_in_the_payload_replaces_the_retention(runtime: Runtime) -> None:
    add(runtime, "hour", "succeeded", 1)
    add(runtime, "day", "succeeded", 24)
    assert clean(runtime, older_than="12h") == NOTHING | {"tasks": 1}
    assert left(runtime) == {"hour"}


def test_a_dry_run_counts_and_deletes_nothing(runtime: Runtime) -> None:
    add(runtime, "old", "dead", 2)
    assert clean(runtime, dry_run=True) == NOTHING | {"dry_run": True, "tasks": 1}
    assert left(runtime) == {"old"}


def test_task_that_gains_a_dependent_during_cleanup_is_kept(runtime: Runtime) -> None:
    add(runtime, "outer", "succeeded", 0.5)
    add(runtime, "inner", "succeeded", 2)
    with runtime.database.connection_context():
        dependencies.extend(runtime.database, "outer", "inner")
    last = runtime.submitter.prepare("default", {}, after=["outer"])
    thread = threading.Thread(target=clean, args=(runtime,))

    def wait() -> None:
        runtime.ledger.accept([last])
        thread.start()
        thread.join(1)  # cleanup waits for the end of this transaction

    transact(runtime.database, wait)
    thread.join()
    assert left(runtime, but=last.id) == {"outer", "inner"}


def test_one_cleanup_deletes_more_than_one_batch(runtime: Runtime) -> None:
    add_many(runtime, 1201, utcnow() - dt.timedelta(hours=2))
    assert clean(runtime) == NOTHING | {"tasks": 1201}
    assert left(runtime) == set()


def test_retention_can_be_set_per_state_and_type(database_url: str) -> None:
    own = {"states": {"dead": "100h"}, "types": {"llm": "200h", "report": "10m"}}
    with runtime_of(
        database_url, "redis://127.0.0.1:1/0", QUEUE__RETENTION="1h", TYPES__CLEANUP=json.dumps(own)
    ) as runtime:
        for type_name, state, hours in [
            ("email", "succeeded", 0.5), ("email", "succeeded", 2), ("email", "cancelled", 2),
            ("email", "dead", 99), ("email", "dead", 101),
            ("llm", "succeeded", 150), ("llm", "dead", 150), ("llm", "dead", 201),
            ("report", "succeeded", 0.1), ("report", "dead", 0.5),
        ]:  # fmt: skip
            add(runtime, f"{type_name}-{state}-{hours:g}", state, hours, type_name)
        going = {"email-succeeded-2", "email-cancelled-2", "email-dead-101", "llm-dead-201", "report-dead-0.5"}
        before = left(runtime)
        assert clean(runtime, dry_run=True)["tasks"] == clean(runtime)["tasks"] == len(going)
        assert before - left(runtime) == going
        assert clean(runtime) == NOTHING  # once more changes nothing
        # An age in the payload holds for all states and types.
        assert clean(runtime, older_than="90h")["tasks"] == 3


def test_audit_and_spend_have_their_own_retention(runtime: Runtime) -> None:
    now = utcnow()
    ages = [now - dt.timedelta(days=days) for days in (0, 364, 366, 700) * 300]
    call = {"token": 1, "step": "s", "type": "llm", "provider": "p", "model": "m", "outcome": "ok", "reserved": 0}
    with runtime.database.connection_context(), runtime.database.atomic():
        for number, at in enumerate(ages):
            AuditEntry.create(at=at, who="x", what="y", about="z")
            SpendRow.create(task_id=f"t{number // 8}", number=number % 8, day=str(at.date()), began_at=at, **call)
    assert clean(runtime, dry_run=True) == NOTHING | {"dry_run": True, "audit": 600, "spend": 600}
    assert clean(runtime) == NOTHING | {"audit": 600, "spend": 600}
    assert clean(runtime) == NOTHING


def test_budget_days_are_deleted_with_their_spend(runtime: Runtime) -> None:
    today = utcnow().date()
    with runtime.database.connection_context():
        for days in (0, 364, 366, 700):
            for subject in ("provider:p", "owner:ann", "owner:ben"):
                BudgetRow.create(day=str(today - dt.timedelta(days=days)), subject=subject, used=7)
    assert clean(runtime, dry_run=True) == NOTHING | {"dry_run": True, "spend": 6}
    assert clean(runtime) == NOTHING | {"spend": 6}
    with runtime.database.connection_context():
        assert {row.day for row in BudgetRow.select()} == {str(today), str(today - dt.timedelta(days=364))}


@pytest.mark.parametrize(("disable_after", "kept"), [(None, 29), ("240h", 39)])
def test_failing_hosts_are_deleted_after_their_retention(
    database_url: str, disable_after: str | None, kept: int
) -> None:
    settings = {"WEBHOOK__DISABLE_AFTER": disable_after} if disable_after else {}
    with runtime_of(database_url, "redis://127.0.0.1:1/0", **settings) as runtime:
        with runtime.database.connection_context():
            for days in (1, 29, 31, 39, 41):
                FailingHost.create(host=f"host:h{days}:443", since=utcnow() - dt.timedelta(days=days))
        gone = len([days for days in (1, 29, 31, 39, 41) if days > kept])
        assert clean(runtime, dry_run=True) == NOTHING | {"dry_run": True, "hosts": gone}
        assert clean(runtime) == NOTHING | {"hosts": gone}
        with runtime.database.connection_context():
            assert FailingHost.select().order_by(FailingHost.since).get().host == f"host:h{kept}:443"


def test_old_files_written_by_sytq_are_deleted(database_url: str, tmp_path: Path) -> None:
    folder = tmp_path / "reports"
    folder.mkdir()
    for name in ("report-1.csv", "backup-1.jsonl.gz", "notes.txt", "report-new.html"):
        (folder / name).touch()
        if name != "report-new.html":
            os.utime(folder / name, (0, 0))
    (folder / "report-link").symlink_to(folder / "notes.txt")
    own = json.dumps({"files": {str(folder): "24h", str(tmp_path / "nosuch"): "1h"}})
    with runtime_of(database_url, "redis://127.0.0.1:1/0", TYPES__CLEANUP=own) as runtime:
        assert clean(runtime, dry_run=True)["files"] == 2
        assert len(list(folder.iterdir())) == 5
        assert clean(runtime)["files"] == 2
    assert {file.name for file in folder.iterdir()} == {"notes.txt", "report-new.html", "report-link"}


@pytest.mark.faults
def test_cleanup_of_a_killed_worker_is_finished_by_another_worker(installation: Installation) -> None:
    runtime, total = installation.runtime, 20_000
    add_many(runtime, total, utcnow() - dt.timedelta(days=2))

    def old() -> int:
        with runtime.database.connection_context():
            return int(Task.select().where(Task.type == "x").count())

    worker = installation.start_worker()
    task = runtime.submitter.prepare("cleanup", {})
    runtime.submitter.submit([task])
    poll(lambda: old() < total, message="the first batch is deleted")
    worker.kill()
    installation.start_worker()
    installation.wait_state(task.id, "succeeded", timeout=60)
    assert old() == 0


@pytest.mark.parametrize("payload", [{"older_than": "-1s"}, {"older_than": "soon"}, {"dry_run": 7}, {"x": 1}])
def test_invalid_payload_is_refused(payload: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Cleanup.model_validate(payload)


def test_idempotency_keys_older_than_a_day_are_deleted(runtime: Runtime) -> None:
    now = utcnow()
    with runtime.database.connection_context(), runtime.database.atomic():
        for number in range(1100):
            at = now - dt.timedelta(hours=23 if number < 3 else 25, seconds=number % 7)
            Idempotency.create(owner="", idempotency_key=str(number), fingerprint="f", answer="[]", created_at=at)
    clean(runtime)
    with runtime.database.connection_context():
        left = sorted(row.idempotency_key for row in Idempotency.select())
    assert left == ["0", "1", "2"]

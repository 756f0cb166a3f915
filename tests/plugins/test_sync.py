"""Rows without an unfinished task are found and repaired; rows in progress are unchanged. On both engines."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sytq_plugins.llm.row import ValuationRecord

from sytq import Fail
from sytq.ledger.models import Step, Task
from sytq.ledger.values import utcnow
from sytq.runtime import Runtime
from tests.installation import Installation
from tests.plugins.running import Run, runtime_of
from tests.servers import MySQLServer, poll

REDIS = "redis://127.0.0.1:1/0"


@pytest.fixture
def runtime(database_url: str) -> Iterator[Runtime]:
    with runtime_of(database_url, REDIS, LLM__STATUS_LABELS="zh") as made:
        yield made


def add_row(runtime: Runtime, id: int, status: str | None, minutes: float = 60, **columns: Any) -> None:
    changed = (utcnow() - dt.timedelta(minutes=minutes)).replace(microsecond=0)
    with runtime.database.connection_context():
        ValuationRecord.create(id=id, status=status, created_at=changed, **({"updated_at": changed} | columns))


def add_stuck_rows(runtime: Runtime, ids: range, status: str) -> None:
    changed = utcnow() - dt.timedelta(hours=1)
    rows = [{"id": id, "status": status, "created_at": changed, "updated_at": changed} for id in ids]
    with runtime.database.connection_context():
        ValuationRecord.insert_many(rows).execute()


def add_task(runtime: Runtime, row: int, state: str, minutes: float = 30, **columns: Any) -> str:
    ended = utcnow() - dt.timedelta(minutes=minutes)
    task_id = f"task-{row}-{state}-{minutes:g}"
    payload = columns.pop("payload", json.dumps({"id": row, "table_name": "valuation_records"}, indent=2))
    finished = ended if state in ("succeeded", "dead", "cancelled") else None
    with runtime.database.connection_context():
        Task.create(
            **({"id": task_id, "type": "llm", "state": state, "payload": payload} | columns),
            created_at=ended,
            finished_at=finished,
        )
    return task_id


def add_answer(runtime: Runtime, task_id: str, *contents: str) -> None:
    now = utcnow()
    with runtime.database.connection_context():
        for number, content in enumerate(contents):
            Step.create(
                task_id=task_id, name=f"node-{number}", token=1, state="done", started_at=now,
                value=json.dumps({"content": content}),
            )  # fmt: skip


def row(runtime: Runtime, id: int) -> ValuationRecord:
    with runtime.database.connection_context():
        found: ValuationRecord = ValuationRecord.get_by_id(id)
    return found


def tasks(runtime: Runtime) -> dict[int, str]:
    """The unfinished llm tasks: row -> task id."""
    with runtime.database.connection_context():
        rows = list(Task.select().where(Task.type == "llm", Task.state == "queued"))
    return {json.loads(one.payload)["id"]: one.id for one in rows}


def sync(runtime: Runtime, **payload: Any) -> Any:
    return Run(runtime, "sync", payload).start()["tables"]["valuation_records"]


def test_rows_without_a_task_are_submitted_once(runtime: Runtime) -> None:
    for id, status in ((1, "处理中"), (2, "待处理"), (-3, "处理中")):
        add_row(runtime, id, status)
    add_row(runtime, 4, "处理中", updated_at=None)
    found = sync(runtime, dry_run=True)
    assert found == {"resubmitted": 4, "rows": {"resubmitted": [-3, 1, 2, 4]}}
    assert tasks(runtime) == {}
    assert sync(runtime) == found
    submitted = tasks(runtime)
    assert submitted.keys() == {-3, 1, 2, 4}
    assert (row(runtime, 1).status, row(runtime, 1).progress_info) == ("待处理", "submitted again: it had no task")
    # The rows have tasks now, and nothing is submitted twice.
    with runtime.database.connection_context():
        ValuationRecord.update(updated_at=utcnow() - dt.timedelta(hours=1)).execute()
    assert sync(runtime) == {"rows": {}}
    assert tasks(runtime) == submitted


def test_rows_in_progress_finished_or_recent_are_unchanged(runtime: Runtime) -> None:
    states = ("queued", "scheduled", "running", "retrying")
    for id, state in enumerate(states, start=1):
        add_row(runtime, id, "处理中")
        add_task(runtime, id, state, minutes=50)
        add_task(runtime, id, "dead", minutes=40)
    for id, status in ((11, "已完成"), (12, "失败"), (13, None), (14, "processing"), (15, "draft")):
        add_row(runtime, id, status)
    add_row(runtime, 21, "处理中", minutes=5)
    add_row(runtime, 22, "待处理", minutes=5)
    add_row(runtime, 31, "处理中")
    dead = add_task(runtime, 31, "dead")
    add_task(runtime, 31, "retrying", id="obituary", type="llm.dead", parent=dead)
    assert sync(runtime) == {"rows": {}}
    assert tasks(runtime).keys() == {1}


def test_row_gets_the_outcome_of_its_finished_task(runtime: Runtime) -> None:
    add_row(runtime, 1, "处理中", failed_info="an earlier attempt")
    add_answer(runtime, add_task(runtime, 1, "succeeded"), "draft", "the report 报告")
    add_row(runtime, 2, "处理中")
    add_task(runtime, 2, "dead", error="HTTP 400 from the provider")
    add_row(runtime, 3, "待处理")
    add_task(runtime, 3, "cancelled", error=None)
    add_task(runtime, 3, "dead", minutes=50, error="older")
    found = sync(runtime)
    assert found == {"completed": 1, "failed": 2, "rows": {"completed": [1], "failed": [2, 3]}}
    done = row(runtime, 1)
    assert (done.status, done.report, done.failed_info) == ("已完成", "the report 报告", "")
    assert (done.progress, done.progress_info, done.current_task_node) == ("2/2", "done", 2)
    assert (row(runtime, 2).status, row(runtime, 2).failed_info) == ("失败", "HTTP 400 from the provider")
    assert row(runtime, 3).failed_info == "the task ended without saying why"
    assert tasks(runtime) == {}
    assert sync(runtime) == {"rows": {}}


def test_task_finished_before_the_row_changed_is_ignored(runtime: Runtime) -> None:
    add_row(runtime, 1, "待处理", minutes=20)
    add_answer(runtime, add_task(runtime, 1, "succeeded", minutes=30), "old")
    assert sync(runtime)["rows"] == {"resubmitted": [1]}
    assert row(runtime, 1).report is None


def test_tasks_with_invalid_payloads_or_other_tables_are_ignored(runtime: Runtime) -> None:
    add_row(runtime, 7, "处理中")
    for number, payload in enumerate(
        [
            "not json",
            "[]",
            "7",
            '{"id": "7"}',
            '{"table_name": "other", "id": 7}',
            '{"table_name": "valuation_records"}',
        ]
    ):
        add_task(runtime, 7, "dead", id=f"strange-{number}", payload=payload)
    assert sync(runtime)["rows"] == {"resubmitted": [7]}


def test_rows_beyond_one_page_are_found(runtime: Runtime) -> None:
    add_stuck_rows(runtime, range(1, 451), "处理中")
    found = sync(runtime, dry_run=True)
    assert (found["resubmitted"], found["rows"]["resubmitted"]) == (450, list(range(1, 21)))


def test_report_refused_by_the_table_is_listed_and_other_rows_go_on(mysql_url: str, mysql_server: MySQLServer) -> None:
    with runtime_of(mysql_url, REDIS, LLM__STATUS_LABELS="zh") as runtime:
        for id, content in ((1, "x" * 70_000), (2, "short")):
            add_row(runtime, id, "处理中")
            add_answer(runtime, add_task(runtime, id, "succeeded"), content)
        found = sync(runtime)
        assert found["rows"] == {"refused by the table": [1], "completed": [2]}
        assert (row(runtime, 1).status, row(runtime, 1).report) == ("处理中", None)


def test_missing_or_unconfigured_table_is_named(database_url: str) -> None:
    tables = json.dumps({"nosuch": {}, "valuation_records": {}})
    with runtime_of(database_url, REDIS, LLM__TABLES=tables) as runtime:
        assert Run(runtime, "sync", {}).start()["tables"] == {
            "nosuch": {"error": "there is no such table"},
            "valuation_records": {"rows": {}},
        }
        with pytest.raises(Fail, match=r"tables: 'users' is not one of llm\.tables; valid: nosuch, valuation_records"):
            Run(runtime, "sync", {"tables": ["users"]}).start()


def test_resubmission_can_be_disabled(database_url: str) -> None:
    own = json.dumps({"resubmit": False, "stuck_after": "2h"})
    with runtime_of(database_url, REDIS, LLM__STATUS_LABELS="zh", TYPES__SYNC=own) as runtime:
        add_row(runtime, 1, "待处理")
        add_row(runtime, 2, "处理中")
        assert sync(runtime) == {"left": 1, "rows": {"left": [1]}}
        assert tasks(runtime) == {}


@pytest.mark.faults
def test_sync_of_a_killed_worker_submits_each_row_once(
    tmp_path: Path, redis_url: str, mysql_server: MySQLServer, mysql_url: str
) -> None:
    """With real workers and no provider, so that the submitted tasks wait."""
    installation = Installation(tmp_path, mysql_url, redis_url)
    try:
        runtime, total, locked = installation.runtime, 260, 230
        add_stuck_rows(runtime, range(1, total + 1), "processing")
        # A lock on a row of the second page keeps the sync from finishing before the kill.
        other = mysql_server.connect(mysql_url.rpartition("/")[2].partition("?")[0], autocommit=False)
        with other.cursor() as cursor:
            cursor.execute("SELECT * FROM valuation_records WHERE id = %s FOR UPDATE", (locked,))
        worker = installation.start_worker()
        task = runtime.submitter.prepare("sync", {})
        runtime.submitter.submit([task])

        def submitted() -> int:
            with runtime.database.connection_context():
                return int(Task.select().where(Task.type == "llm").count())

        poll(lambda: submitted() > 200, message="the rows of the first page are submitted")
        worker.kill()
        before = submitted()
        other.close()
        installation.start_worker()
        installation.wait_state(task.id, "succeeded", timeout=60)
        assert 200 < before < total  # else the sync was finished before the kill
        assert submitted() == total
    finally:
        installation.close()

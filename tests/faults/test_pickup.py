"""Plain INSERTs: rows with the pending status become tasks."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator
from pathlib import Path

import peewee
import pytest
from sytq_plugins.llm.pickup import Pacing, PickUp

from sytq.ids import new_id
from sytq.ledger.database import is_mysql
from sytq.ledger.models import Task, UniqueKey
from sytq.ledger.values import utcnow
from tests.installation import Installation
from tests.provider import REPORT, ScriptedProvider, answers, later, refuses
from tests.servers import poll

pytestmark = pytest.mark.faults


class Callers(Installation):
    """An installation with a table of a caller, and a configured table that does not exist."""

    def __init__(self, folder: Path, database_url: str, redis_url: str) -> None:
        self.provider = ScriptedProvider()
        super().__init__(
            folder,
            database_url,
            redis_url,
            SYTQ_PROVIDERS__SCRIPTED__BASE_URL=self.provider.base_url,
            SYTQ_PROVIDERS__SCRIPTED__MODEL="valuer-1",
            SYTQ_LLM__TABLES='{"nowhere": {}, "order": {}, "valuation_records": {"pickup": false}}',
            SYTQ_LLM__STATUS_LABELS="zh",
            SYTQ_QUEUE__RETRY="0",
        )
        self.quote = "`" if is_mysql(self.runtime.database) else '"'
        self.sql(
            "CREATE TABLE {order} (id BIGINT PRIMARY KEY, status VARCHAR(50), user_message TEXT, sys_message TEXT,"
            " report TEXT, failed_times INT, failed_info TEXT, progress VARCHAR(50), progress_info TEXT,"
            " current_task_node INT, callback_url VARCHAR(255), updated_at TIMESTAMP NULL)"
        )

    def close(self) -> None:
        super().close()
        self.provider.close()

    def sql(self, statement: str) -> list[tuple[object, ...]]:
        with self.runtime.database.connection_context():
            statement = statement.format(order=f"{self.quote}order{self.quote}")
            cursor = self.runtime.database.execute_sql(statement)
            return list(cursor.fetchall()) if cursor.description else []

    def insert(self, *ids: int, status: str = "待处理", table: str = "{order}") -> None:
        rows = ", ".join(f"({id}, '{status}', 'What is {id} worth?')" for id in ids)
        self.sql(f"INSERT INTO {table} (id, status, user_message) VALUES {rows}")

    def statuses(self) -> dict[object, object]:
        return dict(self.sql("SELECT id, status FROM {order}"))  # type: ignore[arg-type]

    def ended(self, type_name: str) -> bool:
        with self.runtime.database.connection_context():
            return Task.get_or_none(Task.type == type_name, Task.state == "succeeded") is not None

    def tasks(self) -> list[Task]:
        with self.runtime.database.connection_context():
            return list(Task.select().where(Task.type == "llm"))


@pytest.fixture
def callers(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[Callers]:
    made = Callers(tmp_path, database_url, redis_url)
    yield made
    made.close()


def test_inserted_row_is_picked_up_and_answered(callers: Callers) -> None:
    callers.start_worker()
    callers.insert(-5, 1, 7)
    inserted = utcnow()
    poll(lambda: len(callers.tasks()) == 3, interval=0.05, message="tasks are made")
    last = max(task.created_at for task in callers.tasks())
    assert (last - inserted).total_seconds() < 5  # 2 s on a machine that does nothing else
    poll(lambda: set(callers.statuses().values()) == {"已完成"}, message="the rows are answered")
    assert callers.sql("SELECT DISTINCT report FROM {order}") == [(REPORT,)]
    assert len(callers.provider.calls) == 3


def test_only_pending_rows_of_enabled_tables_are_picked_up(callers: Callers) -> None:
    callers.start_worker()
    callers.insert(1, status="已完成")
    callers.insert(2, status="draft")
    callers.insert(3, table="valuation_records")
    callers.insert(4)
    poll(lambda: callers.statuses()[4] == "已完成", message="the pending row is answered")
    assert len(callers.tasks()) == 1


def test_many_pending_rows_become_one_task_each(callers: Callers) -> None:
    callers.provider.play(later(1, answers()))
    callers.insert(*range(1, 521))  # more than a page
    for _ in range(2):
        callers.start_worker(SYTQ_QUEUE__RETRY="20")  # on a busy machine the provider may not take a call within 10 s
    poll(
        lambda: set(callers.statuses().values()) == {"已完成"},
        timeout=300,
        message=lambda: {(task.state, task.error) for task in callers.tasks()},
    )
    assert len(callers.tasks()) == 520
    assert len(callers.provider.calls) == 520


def test_pickup_of_outdated_rows_creates_no_further_task(callers: Callers) -> None:
    """Between its read of the rows and its transaction, the pickup may stall for longer than a task takes."""
    parts = callers.runtime
    late = PickUp(parts, ["order"], "待处理")
    callers.insert(1, 2, 3)
    read = late._page("order", None)
    callers.sql("UPDATE {order} SET status = 'draft' WHERE id > 1")
    callers.start_worker()
    poll(lambda: callers.ended("llm"), message="the first row is answered by the worker's own pick-up")
    callers.runtime.operator.pause("llm", "ann", "so that the second one's task stands")
    callers.sql("UPDATE {order} SET status = '待处理' WHERE id = 2")
    poll(lambda: len(callers.tasks()) == 2, message="the worker's pick-up has it")
    late._submit("order", read)
    assert len(callers.tasks()) == 2
    with parts.database.connection_context():
        assert [row.unique_key for row in UniqueKey.select()] == ["llm:order:2"]


def test_row_reset_to_pending_is_picked_up_again(callers: Callers) -> None:
    callers.provider.play(refuses(400), answers())
    callers.start_worker()
    callers.insert(1)
    poll(lambda: callers.statuses()[1] == "失败", message="the row fails")
    callers.sql("UPDATE {order} SET status = '待处理' WHERE id = 1")
    poll(lambda: callers.statuses()[1] == "已完成", message="it is answered the second time")
    assert len(callers.tasks()) == 2


def test_cancelled_second_task_leaves_a_completed_row_unchanged(callers: Callers) -> None:
    callers.start_worker()
    callers.insert(1)
    poll(lambda: callers.ended("llm"), message="the row is answered")
    before = callers.sql("SELECT * FROM {order}")
    with pytest.raises(peewee.IntegrityError):
        callers.insert(1)
    callers.runtime.operator.pause("llm", "ann", "looked at by hand")
    second, payload = new_id(), '{{"table_name": "order", "id": 1}}'
    callers.sql(f"INSERT INTO sytq_tasks (id, type, payload) VALUES ('{second}', 'llm', '{payload}')")
    callers.runtime.operator.cancel(second, "ann")
    callers.wait_state(second, "cancelled")
    poll(lambda: callers.ended("llm.dead"), message="the row would be updated")
    assert callers.sql("SELECT * FROM {order}") == before
    assert len(callers.provider.calls) == 1


def test_undecodable_sql_task_ends_dead_and_blocks_no_other_task(callers: Callers) -> None:
    """Also for rows that only SQLite accepts."""
    task, time_, value = callers.runtime.ledger.database, "2026-11-22 10:00:00", "('{}', 'default', '{}', {})"
    odd = {new_id(): ("[" * 5000 + "]" * 5000, f"'{time_}'")}
    if not is_mysql(task):
        odd |= {new_id(): ("{{}}", when) for when in ("'22.11.2026 10:00'", "'1763805600'")}
    fine, offset = new_id(), f"'{time_}+02:00'"
    rows = {**odd, fine: ("{{}}", f"'{time_}'" if is_mysql(task) else offset)}
    for task_id, (payload, when) in rows.items():
        callers.sql(
            f"INSERT INTO sytq_tasks (id, type, payload, scheduled_at) VALUES {value.format(task_id, payload, when)}"
        )
    callers.start_worker()
    callers.wait_state(fine, "succeeded")
    for task_id, (payload, _) in odd.items():
        said = str(callers.wait_state(task_id, "dead").error)
        assert ("scheduled_at: is not a time" if payload == "{{}}" else "payload: ") in said


def test_unwritable_row_is_not_picked_up_endlessly(callers: Callers) -> None:
    callers.sql("ALTER TABLE {order} DROP COLUMN progress_info")
    callers.start_worker()
    callers.insert(1)
    poll(lambda: len(callers.tasks()) >= 3, message="it is tried at once")
    time.sleep(3)  # long enough for six more pickups without back-off
    made = sorted(task.created_at for task in callers.tasks())
    assert [moment for moment in made[3:] if moment < made[2] + dt.timedelta(seconds=3)] == []
    assert callers.provider.calls == []


def test_ids_that_no_task_can_name_hold_up_no_other_row(callers: Callers) -> None:
    if callers.quote == "`":
        callers.sql("ALTER TABLE {order} MODIFY id BIGINT UNSIGNED")
        callers.insert(1, 2**63 - 1, 2**63, 2**64 - 1)
    else:
        callers.insert(1, 2**63 - 1)
        callers.sql("ALTER TABLE {order} RENAME TO kept")
        callers.sql("CREATE TABLE {order} AS SELECT * FROM kept")
        callers.sql(
            "INSERT INTO {order} (id, status, user_message) VALUES ('7-up', '待处理', 'x'), (NULL, '待处理', 'x')"
        )
    worker = callers.start_worker()
    poll(lambda: callers.statuses()[2**63 - 1] == callers.statuses()[1] == "已完成", message="these are answered")
    assert "2 ids are not whole numbers of 64 bits" in worker.text()
    assert list(callers.statuses().values()).count("待处理") == len(callers.provider.calls) == 2


def test_missing_table_is_logged_once_and_blocks_no_other_table(callers: Callers) -> None:
    worker = callers.start_worker()
    callers.insert(1)
    poll(lambda: callers.statuses()[1] == "已完成", message="the other table's row is answered")
    assert worker.text().count("pending rows of a table cannot be looked for") == 1


def test_repeated_pickups_of_a_row_back_off_after_three() -> None:
    pacing = Pacing()
    assert [pacing.allows("t", 1, now) for now in (0, 1, 2, 3, 11, 12.5, 31, 33)] == [
        True, True, True, False, False, True, False, True,
    ]  # fmt: skip
    assert pacing.allows("t", 2, 33)
    assert pacing.allows("t", 1, 5000)
    assert pacing.allows("t", 1, 5001)

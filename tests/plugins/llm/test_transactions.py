"""What a valuation asks of the database: its transactions and statements, and what a refused one costs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence

import pymysql.connections
import pytest

from sytq import Fail, Waiting
from sytq.errors import RedisUnavailable
from sytq.executor import group_commit
from sytq.executor.lease import Lease
from tests.plugins.llm.desk import Desk
from tests.plugins.llm.test_paid import assert_paid_once, breaking, signal
from tests.plugins.llm.test_spend import priced
from tests.provider import REPORT, Stage, answers
from tests.servers import MySQLServer, poll

#: A valuation of one node, beside BEGIN and COMMIT. Before its call: fencing token, step, row with what is there of
#: earlier attempts, row, call. After it: step with fencing token and the mark of the written end, cost, row.
STATEMENTS = 8
#: Its callback: what is there of earlier attempts, its task.
CALLBACK = 2


@contextlib.contextmanager
def statements() -> Iterator[list[str]]:
    """The commands that MySQL gets meanwhile."""
    said: list[str] = []
    send = pymysql.connections.Connection._execute_command  # type: ignore[attr-defined]

    def noting(self: object, command: int, sql: str | bytes) -> None:
        said.append(sql if isinstance(sql, str) else bytes(sql).decode())
        send(self, command, sql)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pymysql.connections.Connection, "_execute_command", noting)
        yield said


def count(said: list[str]) -> tuple[int, int]:
    """Transactions, and the statements in them."""
    said = said[said.index("BEGIN") :]  # the desk has read the task before
    return said.count("COMMIT"), sum(one not in ("BEGIN", "COMMIT") for one in said)


@pytest.mark.parametrize(("url", "more"), [(None, 0), ("https://example.com/done", CALLBACK)])
def test_valuation_of_one_node_is_two_transactions(mysql_desk: Desk, url: str | None, more: int) -> None:
    mysql_desk.add_row(callback_url=url)
    task_id = mysql_desk.submit()
    with statements() as said:
        mysql_desk.run(task_id)
    assert count(said) == (2, STATEMENTS + more), "\n".join(said)
    assert_paid_once(mysql_desk, task_id, 1, calls=1)
    assert len(mysql_desk.children(task_id)) == (1 if url else 0)


def test_each_node_of_a_pipeline_is_two_transactions(mysql_desk: Desk) -> None:
    nodes = '[{"name": "facts", "prompt": "facts"}, {"name": "price", "prompt": "{{ outputs.facts }}"}]'
    mysql_desk.configure(LLM__PIPELINES=f'{{"two": {nodes}}}', LLM__TABLES='{"valuation_records": {"pipeline": "two"}}')
    mysql_desk.add_row()
    task_id = mysql_desk.submit()
    with statements() as said:
        mysql_desk.run(task_id)
    assert count(said)[0] == 4
    assert len(mysql_desk.provider.calls) == 2


def test_row_call_and_step_are_recorded_together_before_the_call(desk: Desk) -> None:
    """So that a kill at any moment leaves all three or none of them."""
    found: list[list[object]] = []

    async def looks(stage: Stage) -> None:
        found.append(desk.sql("SELECT status, progress_info FROM valuation_records"))
        found.append(desk.sql("SELECT name, state FROM sytq_steps"))
        found.append(desk.sql("SELECT step, outcome FROM sytq_spend"))
        await answers()(stage)

    desk.provider.play(looks)
    desk.add_row()
    desk.run(desk.submit())
    row, step, call = found
    assert list(map(tuple, row)) == [("processing", "waiting for the answer")]
    assert list(map(tuple, step)) == [("node-0", "started")]
    assert list(map(tuple, call)) == [("node-0", "begun")]


def test_p4_answer_is_safe_when_the_rows_end_is_refused_for_a_fault(mysql_desk: Desk) -> None:
    """The result alone is written in the same attempt; a table that was mended meanwhile takes the report."""
    mysql_desk.provider.play(breaking(mysql_desk, "ALTER TABLE valuation_records MODIFY report VARCHAR(9)"))
    mysql_desk.add_row(callback_url="https://example.com/done")
    task_id = mysql_desk.submit()
    with pytest.raises(Fail, match="column report of valuation_records is too small"):
        mysql_desk.run(task_id)
    assert mysql_desk.steps(task_id)["node-0"].state == "done"
    assert [outcome for (outcome,) in mysql_desk.sql("SELECT outcome FROM sytq_spend")] == ["ok"]
    assert (mysql_desk.row()["status"], mysql_desk.children(task_id)) == ("processing", [])
    mysql_desk.sql("ALTER TABLE valuation_records MODIFY report TEXT")
    mysql_desk.run(task_id, 2)
    assert_paid_once(mysql_desk, task_id, 1, calls=1)
    assert len(mysql_desk.children(task_id)) == 1


def test_p4_answer_does_not_wait_for_a_row_that_its_caller_holds(mysql_desk: Desk, mysql_server: MySQLServer) -> None:
    with contextlib.closing(mysql_server.connect(mysql_desk.database_name, autocommit=False)) as caller:

        async def locked(stage: Stage) -> None:
            caller.cursor().execute("SELECT * FROM valuation_records FOR UPDATE")
            await answers()(stage)

        mysql_desk.provider.play(locked)
        mysql_desk.add_row()
        task_id = mysql_desk.submit()
        with pytest.raises(Waiting, match="row 1 of valuation_records is locked by another transaction"):
            mysql_desk.run(task_id)
        assert mysql_desk.steps(task_id)["node-0"].state == "done"
        caller.rollback()
    mysql_desk.run(task_id)
    assert_paid_once(mysql_desk, task_id, 1, calls=1)
    assert mysql_desk.row()["failed_times"] in (0, None)


def test_p4_rows_end_reads_and_locks_no_other_row(mysql_desk: Desk, mysql_server: MySQLServer) -> None:
    for id in range(1, 6):
        mysql_desk.add_row(id)
    task_id = mysql_desk.submit(5)
    with contextlib.closing(mysql_server.connect(mysql_desk.database_name, autocommit=False)) as caller:
        caller.cursor().execute("SELECT * FROM valuation_records WHERE id = 4 FOR UPDATE")
        with statements() as said:
            mysql_desk.run(task_id)
    assert count(said) == (2, STATEMENTS), "\n".join(said)


def test_p4_answer_does_not_wait_for_what_a_trigger_of_the_table_waits_for(
    mysql_desk: Desk, mysql_server: MySQLServer
) -> None:
    mysql_desk.add_row()
    mysql_desk.sql("CREATE TABLE counted (completed INT)")
    mysql_desk.sql("INSERT INTO counted VALUES (0)")
    task_id = mysql_desk.submit()
    with contextlib.closing(mysql_server.connect(mysql_desk.database_name, autocommit=False)) as other:

        def commit() -> None:
            poll(lambda: mysql_desk.steps(task_id)["node-0"].state == "done")
            other.commit()

        async def counts(stage: Stage) -> None:
            mysql_desk.sql(
                "CREATE TRIGGER counts AFTER UPDATE ON valuation_records FOR EACH ROW"
                " UPDATE counted SET completed = completed + (NEW.status = 'completed')"
            )
            other.cursor().execute("UPDATE counted SET completed = completed + 10")
            committing.start()
            await answers()(stage)

        committing = threading.Thread(target=commit)
        mysql_desk.provider.play(counts)
        mysql_desk.run(task_id)
        committing.join()
    assert_paid_once(mysql_desk, task_id, 1, calls=1)
    assert list(map(tuple, mysql_desk.sql("SELECT completed FROM counted"))) == [(11,)]


def test_p4_deadlock_of_the_rows_end_repeats_the_whole_transaction(
    mysql_desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadlock = signal("40001", 1213, "Deadlock found when trying to get lock").replace(
        "sytq_steps", "valuation_records"
    )
    mysql_desk.provider.play(breaking(mysql_desk, deadlock))
    # Between two tries.
    monkeypatch.setattr("sytq.ledger.database.time.sleep", lambda _: mysql_desk.sql("DROP TRIGGER IF EXISTS refuses"))
    mysql_desk.add_row(callback_url="https://example.com/done")
    task_id = mysql_desk.submit()
    with statements() as said:
        mysql_desk.run(task_id)
    assert_paid_once(mysql_desk, task_id, 1, calls=1)
    assert len(mysql_desk.children(task_id)) == 1
    assert sum(one.startswith("INSERT INTO sytq_steps") and "'report'" in one for one in said) == 2


def test_attempt_that_is_refused_a_permit_leaves_no_record_of_a_call(desk: Desk) -> None:
    desk.runtime.limiters.pause("provider:scripted", "a person", "for a test", person=True)
    desk.add_row()
    task_id = desk.submit()
    with pytest.raises(Waiting):
        desk.run(task_id)
    assert desk.sql("SELECT * FROM sytq_spend") == []
    assert "node-0" not in desk.steps(task_id)
    desk.runtime.limiters.resume("provider:scripted", person=True)
    desk.run(task_id)
    assert_paid_once(desk, task_id, 1, calls=1)
    assert [outcome for (outcome,) in desk.sql("SELECT outcome FROM sytq_spend")] == ["ok"]


def test_attempt_that_may_not_begin_its_call_leaves_no_record_of_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease is not known to be valid any more once its step has begun."""
    desk.add_row()
    task_id = desk.submit()

    async def verify(_: Lease) -> None:
        raise RedisUnavailable("the lease of this worker is not renewed")

    with monkeypatch.context() as patch:
        patch.setattr(Lease, "verify", verify)
        with pytest.raises(RedisUnavailable):
            desk.run(task_id)
    assert desk.sql("SELECT * FROM sytq_spend") == []
    assert "node-0" not in desk.steps(task_id)
    desk.run(task_id)
    assert_paid_once(desk, task_id, 1, calls=1)
    assert [outcome for (outcome,) in desk.sql("SELECT outcome FROM sytq_spend")] == ["ok"]


def test_transaction_whose_outcome_is_not_known_is_repeated_without_a_trace(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is lost at the COMMIT that several share, and each writes alone then."""
    write = group_commit._written

    def committed(writes: Sequence[group_commit._Write]) -> list[BaseException | None]:
        assert write(writes) == [None]
        return write(writes)

    monkeypatch.setattr(group_commit, "_written", committed)
    desk.configure(PROVIDERS__SCRIPTED__MODELS=priced(), PROVIDERS__SCRIPTED__BUDGET="1")
    desk.add_row(callback_url="https://example.com/done")
    task_id = desk.submit()
    desk.run(task_id)
    assert_paid_once(desk, task_id, 1, calls=1)
    assert len(desk.children(task_id)) == 1
    ((outcome, cost),) = desk.sql("SELECT outcome, cost FROM sytq_spend")
    assert outcome == "ok"
    assert list(map(tuple, desk.sql("SELECT used FROM sytq_budgets"))) == [(cost,)]


def test_message_that_comes_twice_is_one_call_and_one_report(desk: Desk) -> None:
    desk.add_row(callback_url="https://example.com/done")
    task_id = desk.submit()
    desk.run(task_id)
    row = desk.row()
    desk.run(task_id)
    assert desk.row() == row
    assert row["report"] == REPORT
    assert (len(desk.provider.calls), len(desk.children(task_id))) == (1, 1)

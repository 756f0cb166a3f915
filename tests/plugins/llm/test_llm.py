"""The life of a row: its columns as the caller sees them, and its callback."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest
from pydantic import ValidationError
from sytq_plugins.llm import Valuation

from sytq.errors import Fail, Lost, Retry, Waiting
from sytq.ids import new_id
from sytq.ledger.database import is_mysql
from tests.plugins.llm.desk import Desk
from tests.provider import (
    REPORT,
    USAGE,
    ScriptedProvider,
    Stage,
    answers,
    refuses,
)
from tests.servers import MySQLServer

ORIGIN = "https://hooks.example.com/done?id=1"


def test_completed_task_writes_the_report_to_its_row(desk: Desk) -> None:
    desk.add_row(sys_message="You are a valuer.", failed_info="an older error")
    result = desk.run(desk.submit())
    row = desk.row()
    assert row["report"] == REPORT
    assert (row["status"], row["progress"], row["current_task_node"]) == ("completed", "1/1", 1)
    assert (row["failed_times"], row["failed_info"], row["progress_info"]) == (0, "", "done")
    assert result == {
        "table_name": "valuation_records",
        "id": 1,
        "report": REPORT,
        "provider": "scripted",
        "model": "scripted-1",
        "usage": USAGE,
        "finish_reason": "stop",
        "cost": [None],
    }
    assert [message["role"] for message in desk.provider.calls[0].body["messages"]] == ["system", "user"]


def test_row_is_processing_during_the_call(desk: Desk) -> None:
    seen: list[dict[str, Any]] = []

    async def looks(stage: Stage) -> None:
        seen.append(desk.row())
        await answers()(stage)

    desk.provider.play(looks)
    desk.add_row(status="pending", current_task_node=None, progress=None)
    desk.run(desk.submit())
    assert (seen[0]["status"], seen[0]["progress"], seen[0]["current_task_node"]) == ("processing", "0/1", 0)
    assert seen[0]["progress_info"] == "waiting for the answer"


def test_row_with_null_columns_completes(desk: Desk) -> None:
    nulls = ("status", "sys_message", "report", "failed_times", "failed_info", "progress", "progress_info",
             "current_task_node", "callback_url", "created_at", "updated_at")  # fmt: skip
    desk.add_row(**dict.fromkeys(nulls))
    desk.run(desk.submit())
    row = desk.row()
    assert (row["status"], row["report"], row["failed_times"]) == ("completed", REPORT, None)
    assert row["updated_at"] is not None
    assert [message["role"] for message in desk.provider.calls[0].body["messages"]] == ["user"]


def test_row_without_user_message_fails_without_a_call(desk: Desk) -> None:
    for id, words in enumerate((None, "", " \n"), start=1):
        desk.add_row(id, user_message=words, failed_times=None)
        with pytest.raises(Fail, match="the row has no user_message"):
            desk.run(desk.submit(id))
        assert desk.row(id)["failed_times"] == 1, repr(words)
    assert desk.provider.calls == []


def test_status_labels_are_configurable(desk: Desk) -> None:
    desk.configure(LLM__STATUS_LABELS="zh")
    desk.add_row()
    task = desk.submit()
    desk.provider.play(refuses(500))
    with pytest.raises(Retry):
        desk.run(task)
    assert desk.row()["status"] == "处理中"
    desk.die(task, "failed after 4 attempts")
    assert desk.row()["status"] == "失败"
    desk.provider.play(answers())
    desk.run(desk.submit())
    assert desk.row()["status"] == "已完成"


def test_unicode_text_is_preserved(desk: Desk) -> None:
    text = "估价 🏠 \\ ' \" ; -- \x00é"
    desk.provider.play(answers(text))
    desk.add_row(user_message=text, callback_url=ORIGIN)
    task = desk.submit()
    desk.run(task)
    assert desk.row()["report"] == text
    assert desk.callback(task)[1]["result"] == text
    assert desk.provider.calls[0].body["messages"][0]["content"] == text


@pytest.mark.parametrize("charset", ["utf8", "latin1", "gbk"])
def test_emoji_pass_whatever_charset_the_address_names(
    mysql_url: str, redis_url: str, provider: ScriptedProvider, charset: str
) -> None:
    with contextlib.closing(
        Desk(provider, mysql_url.replace("charset=utf8mb4", f"charset={charset}"), redis_url)
    ) as desk:
        provider.play(answers("值 🏠 €"))
        desk.add_row(user_message="🏠 in 东京?", sys_message="简短 🙏")
        desk.run(desk.submit())
        asked = [message["content"] for message in provider.calls[0].body["messages"]]
        assert (asked, desk.row()["report"]) == (["简短 🙏", "🏠 in 东京?"], "值 🏠 €")
        (stored,) = desk.sql("SELECT HEX(user_message), HEX(report) FROM valuation_records")
        assert stored == ("🏠 in 东京?".encode().hex().upper(), "值 🏠 €".encode().hex().upper())


def test_signed_64_bit_row_ids_work(desk: Desk) -> None:
    for id in (2**63 - 1, -(2**63)):
        desk.add_row(id)
        assert desk.run(desk.submit(id))["id"] == id
        assert desk.row(id)["report"] == REPORT


def test_same_id_in_two_tables_is_two_rows(desk: Desk) -> None:
    desk.configure(LLM__TABLES='{"valuation_records": {}, "order": {}}')
    quote = "`" if is_mysql(desk.runtime.database) else '"'
    order = f"{quote}order{quote}"  # a reserved word of SQL on purpose
    desk.sql(
        f"CREATE TABLE {order} (id BIGINT PRIMARY KEY, status VARCHAR(50), user_message TEXT, sys_message TEXT,"
        " report TEXT, failed_times INT, failed_info TEXT, progress VARCHAR(50), progress_info TEXT,"
        " current_task_node INT, callback_url VARCHAR(255), updated_at TIMESTAMP NULL)"
    )
    desk.add_row(1)
    desk.add_row(1, order)
    desk.run(desk.submit(1, "order"))
    assert desk.row(1)["report"] is None
    assert desk.row(1, order)["report"] == REPORT


@pytest.mark.parametrize(("length", "is_in_result"), [(245_000, True), (400_000, False)])
def test_result_has_the_report_unless_a_result_cannot_hold_it(desk: Desk, length: int, is_in_result: bool) -> None:
    report = "价\n" + "a" * length
    desk.configure(PROVIDERS__SCRIPTED__STREAM="false")
    desk.provider.play(answers(report))
    desk.sql("ALTER TABLE valuation_records MODIFY report LONGTEXT" if desk.is_mysql else "SELECT 1")
    desk.add_row()
    task = desk.submit()
    result = desk.run(task)
    assert result["report"] == (report if is_in_result else None)
    assert (result["table_name"], result["id"], result["provider"]) == ("valuation_records", 1, "scripted")
    assert desk.row()["report"] == json.loads(desk.steps(task)["node-0"].value)["content"] == report


# -- invalid rows and tables


def test_table_outside_the_allow_list_never_reaches_sql(sqlite_desk: Desk) -> None:
    desk = sqlite_desk
    name = "sytq_tasks; DROP TABLE valuation_records"
    task = desk.submit(1, name)
    with pytest.raises(Fail, match=r"is not on the allow-list llm\.tables; valid: valuation_records"):
        desk.run(task)
    desk.die(task, "dead")
    assert desk.sql("SELECT COUNT(*) FROM valuation_records")[0][0] == 0


def test_missing_row_is_reported(desk: Desk) -> None:
    task = desk.submit(77)
    desk.age(task, 31)
    said = r"valuation_records has no row with id 77, 3\d s after the task was submitted; .* llm\.row_timeout \(30 s\)"
    with pytest.raises(Fail, match=said):
        desk.run(task)
    desk.die(task, "dead")
    assert desk.children(task) == []


def test_row_committed_after_its_task_came_is_waited_for(mysql_desk: Desk, mysql_server: MySQLServer) -> None:
    task = mysql_desk.submit(77)
    with contextlib.closing(mysql_server.connect(mysql_desk.database_name, autocommit=False)) as caller:
        caller.cursor().execute("INSERT INTO valuation_records (id, user_message) VALUES (77, 'worth?')")
        began = time.monotonic()
        for age, at_most in ((0, 0.5), (1, 1.5), (20, 2.0), (29, 1.1)):
            mysql_desk.age(task, age)
            with pytest.raises(Waiting, match="has no row with id 77 yet: looking again") as looking:
                mysql_desk.run(task)
            assert not looking.value.consumes_attempt
            assert float(looking.value.after or 0) <= at_most
        assert time.monotonic() - began < 5  # it waits for no lock of the caller
        caller.commit()
    mysql_desk.run(task)
    row = mysql_desk.row(77)
    assert (row["report"], row["failed_times"], row["failed_info"]) == (REPORT, 0, "")
    assert len(mysql_desk.provider.calls) == 1


def test_row_that_its_caller_is_changing_is_asked_as_committed(mysql_desk: Desk, mysql_server: MySQLServer) -> None:
    mysql_desk.add_row(user_message="the old question")
    task = mysql_desk.submit()
    with contextlib.closing(mysql_server.connect(mysql_desk.database_name, autocommit=False)) as caller:
        caller.cursor().execute("UPDATE valuation_records SET user_message = 'the new question' WHERE id = 1")
        began = time.monotonic()
        for age in (0, 3600):
            mysql_desk.age(task, age)
            with pytest.raises(Waiting, match="row 1 of valuation_records is locked by another") as looking:
                mysql_desk.run(task)
            assert not looking.value.consumes_attempt
        assert time.monotonic() - began < 5
        caller.commit()
    mysql_desk.run(task)
    assert [call.body["messages"][-1]["content"] for call in mysql_desk.provider.calls] == ["the new question"]


def test_key_with_a_line_break_reaches_the_provider_without_it(sqlite_desk: Desk) -> None:
    sqlite_desk.configure(PROVIDERS__SCRIPTED__API_KEY="\ufeffsk-scripted\r\n")
    sqlite_desk.add_row()
    sqlite_desk.run(sqlite_desk.submit())
    assert [call.headers["authorization"] for call in sqlite_desk.provider.calls] == ["Bearer sk-scripted"]


def test_how_long_a_row_is_waited_for_is_configured(sqlite_desk: Desk) -> None:
    sqlite_desk.configure(LLM__ROW_TIMEOUT="0")
    with pytest.raises(Fail, match=r"llm\.row_timeout \(0 s\)"):
        sqlite_desk.run(sqlite_desk.submit(77))
    sqlite_desk.configure(LLM__ROW_TIMEOUT="2m")
    task = sqlite_desk.submit(77)
    sqlite_desk.age(task, 119)
    with pytest.raises(Waiting, match="120 s long"):
        sqlite_desk.run(task)


def test_missing_table_is_reported(desk: Desk) -> None:
    desk.configure(LLM__TABLES='{"nowhere": {}}')
    task = desk.submit(1, "nowhere")
    with pytest.raises(Fail, match="table nowhere does not exist"):
        desk.run(task)
    with pytest.raises(Fail, match="table nowhere does not exist"):
        desk.die(task, "dead")


def test_missing_column_is_reported(desk: Desk) -> None:
    desk.configure(LLM__TABLES='{"small": {}}')
    desk.sql("CREATE TABLE small (id BIGINT PRIMARY KEY, status VARCHAR(50), user_message TEXT)")
    with pytest.raises(Fail, match=r"table small lacks a column of contract A: .*sys_message"):
        desk.run(desk.submit(1, "small"))


def test_row_deleted_during_the_call_is_reported_and_answer_kept(desk: Desk) -> None:
    async def deletes(stage: Stage) -> None:
        desk.sql("DELETE FROM valuation_records")
        await answers()(stage)

    desk.provider.play(deletes)
    desk.add_row()
    task = desk.submit()
    with pytest.raises(Fail, match="row 1 of valuation_records was deleted while its report was made"):
        desk.run(task)
    assert json.loads(desk.steps(task)["node-0"].value)["content"] == REPORT


@pytest.mark.parametrize("before", [None, "https://old.example.com/", "https://New.example.com/"])
def test_callback_url_changed_during_the_call_is_used(desk: Desk, before: str | None) -> None:
    async def changes(stage: Stage) -> None:
        desk.sql("UPDATE valuation_records SET callback_url = 'https://new.example.com/'")
        await answers()(stage)

    desk.provider.play(changes)
    desk.add_row(callback_url=before)
    task = desk.submit()
    desk.run(task)
    assert desk.callback(task)[0]["url"] == "https://new.example.com/"


def test_a_report_too_long_for_its_column_is_not_cut(mysql_desk: Desk) -> None:
    mysql_desk.provider.play(answers("价" * 30_000))
    mysql_desk.add_row(callback_url=ORIGIN)
    task = mysql_desk.submit()
    with pytest.raises(Fail) as caught:
        mysql_desk.run(task)
    said = (
        "column report of valuation_records is too small for 90000 bytes, and nothing is ever cut; "
        "fix: ALTER TABLE valuation_records MODIFY report LONGTEXT"
    )
    assert str(caught.value) == said
    row = mysql_desk.row()
    assert (row["report"], row["failed_info"], row["failed_times"]) == (None, said, 1)
    assert mysql_desk.children(task) == []

    mysql_desk.die(task, said)
    assert (mysql_desk.row()["status"], mysql_desk.callback(task_of(mysql_desk, task))[1]["error"]) == (
        "failed",
        said,
    )

    mysql_desk.sql("ALTER TABLE valuation_records MODIFY report LONGTEXT")
    mysql_desk.run(mysql_desk.submit())
    assert len(mysql_desk.row()["report"]) == 30_000


def test_report_outside_the_columns_charset_fails_the_task(mysql_desk: Desk) -> None:
    mysql_desk.sql("ALTER TABLE valuation_records CONVERT TO CHARACTER SET utf8mb3")
    mysql_desk.provider.play(answers("worth 🏠"))
    mysql_desk.add_row()
    with pytest.raises(Fail, match="column report of valuation_records cannot store every character"):
        mysql_desk.run(mysql_desk.submit())
    assert mysql_desk.row()["report"] is None


def test_status_column_too_small_for_its_label_is_reported(mysql_desk: Desk) -> None:
    mysql_desk.sql("ALTER TABLE valuation_records MODIFY status VARCHAR(8)")
    mysql_desk.add_row()
    with pytest.raises(Fail, match=r"column status .* too small for 10 bytes.*MODIFY status VARCHAR\(255\)"):
        mysql_desk.run(mysql_desk.submit())
    assert mysql_desk.provider.calls == []


# -- failed attempts


def test_failed_attempts_are_counted_and_the_row_stays_processing(desk: Desk) -> None:
    desk.add_row()
    task = desk.submit()
    desk.provider.play(refuses(500, "overloaded"))
    for attempt in (1, 2):
        with pytest.raises(Retry) as caught:
            desk.run(task, attempt)
        assert caught.value.consumes_attempt
    row = desk.row()
    assert (row["status"], row["failed_times"], row["progress"]) == ("processing", 2, "0/1")
    assert row["failed_info"] == "scripted: HTTP 500 from the provider: overloaded [unavailable]"
    assert row["progress_info"].startswith("attempt 2 of 4 failed: scripted: HTTP 500")

    desk.provider.play(answers())
    desk.run(task, 3)
    row = desk.row()
    assert (row["status"], row["failed_times"], row["failed_info"]) == ("completed", 2, "")


def test_without_a_provider_the_task_waits(sqlite_desk: Desk) -> None:
    desk = sqlite_desk
    desk.without_provider()
    desk.add_row()
    with pytest.raises(Retry, match="no provider is configured") as caught:
        desk.run(desk.submit())
    assert (caught.value.consumes_attempt, caught.value.after) == (False, 10)
    assert (desk.row()["failed_times"], desk.row()["status"]) == (0, "processing")


def test_attempt_with_a_stale_fencing_token_changes_nothing(desk: Desk) -> None:
    async def overtaken(stage: Stage) -> None:
        desk.sql("UPDATE sytq_tasks SET token = token + 99")
        desk.sql("UPDATE valuation_records SET progress_info = 'of the later start'")
        await answers()(stage)

    desk.provider.play(overtaken)
    desk.add_row(callback_url=ORIGIN)
    task = desk.submit()
    with pytest.raises(Lost):
        desk.run(task)
    row = desk.row()
    assert (row["report"], row["failed_times"], row["progress_info"]) == (None, 0, "of the later start")
    assert desk.children(task) == []


# -- never paid for twice


def test_checkpointed_answer_is_not_requested_again(desk: Desk) -> None:
    async def hides(stage: Stage) -> None:
        desk.sql("ALTER TABLE valuation_records RENAME TO hidden")
        await answers()(stage)

    desk.provider.play(hides)
    desk.add_row()
    task = desk.submit()
    with pytest.raises(Fail):  # the call succeeds, the row cannot be written
        desk.run(task)
    desk.sql("ALTER TABLE hidden RENAME TO valuation_records")
    desk.provider.play(refuses(500))
    desk.run(task, 2)
    assert len(desk.provider.calls) == 1
    assert (desk.row()["report"], desk.row()["status"]) == (REPORT, "completed")


def test_attempt_after_completion_changes_nothing(desk: Desk) -> None:
    desk.add_row(callback_url=ORIGIN)
    task = desk.submit()
    first = desk.run(task)
    sent = desk.callback(task)
    desk.sql("UPDATE valuation_records SET status = 'pending', report = NULL")  # the caller resets the row
    assert desk.run(task, 2) == first
    assert (desk.row()["status"], desk.row()["report"]) == ("pending", None)
    assert desk.callback(task) == sent
    assert len(desk.provider.calls) == 1


def test_second_task_replaces_the_report_of_its_row(desk: Desk) -> None:
    desk.add_row()
    desk.run(desk.submit())
    desk.provider.play(answers("second thoughts"))
    desk.run(desk.submit())
    assert desk.row()["report"] == "second thoughts"


# -- callbacks


def test_callback_is_submitted_with_the_report(desk: Desk) -> None:
    desk.add_row(callback_url=f" {ORIGIN} ")
    task = desk.submit()
    desk.run(task)
    payload, body = desk.callback(task)
    assert {**payload, "body": ""} == {
        "url": ORIGIN,
        "method": "POST",
        "headers": {"Content-Type": "application/json"},
        "body": "",
    }
    assert abs(body.pop("timestamp") - time.time()) < 30
    assert body == {
        "task_id": task,
        "table_name": "valuation_records",
        "id": 1,
        "status": "success",
        "result": REPORT,
        "error": None,
    }


def test_no_url_means_no_callback(desk: Desk) -> None:
    for id, url in enumerate((None, "", "  "), start=1):
        desk.add_row(id, callback_url=url)
        task = desk.submit(id)
        desk.run(task)
        assert desk.children(task) == [], repr(url)
        assert desk.row(id)["failed_info"] == "", repr(url)


REFUSED_URLS = (
    "http://127.0.0.1:9/",
    "http://localhost/",
    "ftp://example.com/",
    "nonsense",
    "http://u:p@example.com/",
)


def test_refused_callback_url_is_shown_and_the_report_is_kept(desk: Desk) -> None:
    for id, url in enumerate(REFUSED_URLS, start=1):
        desk.add_row(id, callback_url=url)
        task = desk.submit(id)
        desk.run(task)
        row = desk.row(id)
        assert (row["status"], row["report"]) == ("completed", REPORT), url
        assert row["failed_info"].startswith("the callback was not sent: "), url
        assert row["progress_info"] == f"done, but {row['failed_info']}", url
        assert desk.children(task) == [], url


def test_callback_to_an_allowed_network_is_submitted(sqlite_desk: Desk) -> None:
    desk = sqlite_desk
    desk.configure(OUTBOUND__ALLOW_NETWORKS='["127.0.0.0/8"]')
    desk.add_row(callback_url="http://127.0.0.1:9/")
    task = desk.submit()
    desk.run(task)
    assert desk.callback(task)[0]["url"] == "http://127.0.0.1:9/"


# -- death


def task_of(desk: Desk, task: str) -> str:
    """The id of the task that handled the death of this task."""
    ((found,),) = desk.sql(f"SELECT id FROM sytq_tasks WHERE type = 'llm.dead' AND parent = '{task}'")
    return str(found)


def test_dead_task_fails_its_row_and_submits_a_callback(desk: Desk) -> None:
    desk.add_row(callback_url=ORIGIN)
    task = desk.submit()
    desk.provider.play(refuses(500))
    with pytest.raises(Retry):
        desk.run(task)
    dead = desk.die(task, "the worker was killed 4 times")
    row = desk.row()
    assert (row["status"], row["failed_info"]) == ("failed", "the worker was killed 4 times")
    assert row["progress_info"] == "failed: the worker was killed 4 times"
    assert (row["failed_times"], row["report"]) == (1, None)
    payload, body = desk.callback(dead)
    assert payload["url"] == ORIGIN
    body.pop("timestamp")
    assert body == {
        "task_id": task,
        "table_name": "valuation_records",
        "id": 1,
        "status": "failed",
        "result": "",
        "error": "the worker was killed 4 times",
    }


def test_death_handled_twice_submits_one_callback(desk: Desk) -> None:
    desk.add_row(callback_url=ORIGIN)
    dead = desk.die(desk.submit(), "gone")
    sent = desk.callback(dead)
    desk.sql("UPDATE valuation_records SET status = 'pending'")  # the caller resets the row
    desk.run_again(dead)
    assert desk.callback(dead) == sent
    assert desk.row()["status"] == "pending"


def test_a_completed_row_stays_completed_when_its_task_dies(desk: Desk) -> None:
    desk.add_row(callback_url=ORIGIN)
    task = desk.submit()
    desk.run(task)
    dead = desk.die(task, "the worker was killed 4 times")
    assert (desk.row()["status"], desk.row()["failed_info"]) == ("completed", "")
    assert desk.children(dead) == []


def test_completed_row_is_unchanged_when_an_inserted_duplicate_dies(desk: Desk) -> None:
    desk.add_row(callback_url=ORIGIN)
    desk.run(desk.submit())
    desk.sql("DELETE FROM sytq_unique")  # the first task's end is recorded
    before, second = desk.row(), new_id()
    payload = '{"table_name": "valuation_records", "id": 1}'  # without the key that a submission has
    desk.sql(f"INSERT INTO sytq_tasks (id, type, payload) VALUES ('{second}', 'llm', '{payload}')")
    dead = desk.die(second, "cancelled by ann")
    assert desk.row() == before
    assert desk.children(dead) == []


def test_late_death_of_a_completed_task_keeps_the_next_tasks_row(desk: Desk) -> None:
    desk.add_row(callback_url=ORIGIN)
    first = desk.submit()
    desk.run(first)
    desk.provider.play(refuses(500))
    with pytest.raises(Retry):
        desk.run(desk.submit())
    desk.die(first, "the worker was killed 4 times")
    assert desk.row()["status"] == "processing"


def test_refused_callback_url_of_a_dead_task_is_shown(desk: Desk) -> None:
    desk.add_row(callback_url="http://10.0.0.1/")
    desk.die(desk.submit(), "gone")
    row = desk.row()
    assert (row["status"], row["failed_info"]) == ("failed", "gone")
    assert row["progress_info"].startswith("failed: gone (the callback was not sent: 10.0.0.1 is not a public")


def test_death_without_error_or_row_is_handled(desk: Desk) -> None:
    task = desk.submit()
    desk.die(task, None)  # no row
    desk.die(task, "never valid", payload={"table_name": 7})
    desk.add_row()
    desk.die(task, None)
    assert desk.row()["failed_info"] == "the task ended without saying why"


# -- the payload


@pytest.mark.parametrize(
    "payload",
    [
        {"table_name": "valuation_records"},
        {"id": 1},
        {"table_name": "t", "id": 0},
        {"table_name": "t", "id": 2**63},
        {"table_name": "t", "id": -(2**63) - 1},
        {"table_name": "t", "id": 1.5},
        {"table_name": "", "id": 1},
        {"table_name": "t", "id": 1, "model": ""},
        {"table_name": "t", "id": 1, "modle": "x"},
    ],
)
def test_invalid_payload_is_refused(payload: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Valuation.model_validate(payload)


def test_policy_and_deadline_follow_the_configuration(sqlite_desk: Desk) -> None:
    desk = sqlite_desk
    desk.configure(QUEUE__RETRY="5", PROVIDERS__SCRIPTED__TOTAL="20m")
    declared = desk.runtime.registry.get("llm")
    assert declared.retry.max_attempts == 6
    assert declared.timeout == 2460  # an answer that is cut is asked for twice
    assert (declared.queue, declared.is_async) == ("llm", True)

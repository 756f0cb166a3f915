"""P4: whatever the database says between an answer and its checkpoint, the answer is paid for once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sytq.errors import DatabaseUnavailable
from tests.plugins.llm.desk import Desk
from tests.provider import REPORT, Scene, Stage, answers
from tests.servers import poll

#: What servers, clusters and proxies say: SQLSTATE, number, text.
REFUSALS = [
    ("08004", 1040, "Too many connections"),
    ("42000", 1203, "User sytq already has more than 'max_user_connections' active connections"),
    ("42000", 1226, "User 'sytq' has exceeded the 'max_updates_per_hour' resource (current value: 9)"),
    ("08S01", 1047, "WSREP has not yet prepared node for application use"),
    ("HY000", 1180, "Got error 90 'Message too long' during COMMIT"),
    ("40001", 1213, "Deadlock found when trying to get lock; try restarting transaction"),
    ("40000", 3101, "Plugin instructed the server to rollback the current transaction."),
    ("HY000", 1205, "Lock wait timeout exceeded; try restarting transaction"),
    ("HY000", 1020, "Record has changed since last read in table 'sytq_steps'"),
    ("HY000", 1206, "The total number of locks exceeds the lock table size"),
    ("HY000", 1114, "The table 'sytq_steps' is full"),
    ("HY000", 1021, "Disk full (/tmp/#sql); waiting for someone to free some space..."),
    ("HY000", 1030, "Got error 28 from storage engine"),
    ("HY000", 1290, "The MariaDB server is running with the --read-only option"),
    ("25006", 1792, "Cannot execute statement in a READ ONLY transaction"),
    ("HY000", 1836, "Running in read-only mode"),
    ("70100", 1969, "Query execution was interrupted (max_statement_time exceeded)"),
    ("HY000", 3024, "Query execution was interrupted, maximum statement execution time exceeded"),
    ("70100", 1317, "Query execution was interrupted"),
    ("70100", 1927, "Connection was killed"),
    ("HY000", 4031, "The client was disconnected by the server because of inactivity."),
    ("08S01", 1153, "Got a packet bigger than 'max_allowed_packet' bytes"),
    ("08S01", 1053, "Server shutdown in progress"),
    ("HY001", 1041, "Out of memory"),
    ("42000", 1142, "UPDATE command denied to user 'sytq'@'10.0.0.7' for table `sytq_steps`"),
    ("28000", 1045, "Access denied for user 'sytq'@'10.0.0.7' (using password: YES)"),
    ("HY000", 9001, "Max connect timeout reached while reaching hostgroup 0 after 10000ms"),
    ("HY000", 1105, "Unknown error"),
    ("HY000", 6123, "an error that nobody has met"),
]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sytq.executor.checkpoint._PAUSE", 0.02)
    monkeypatch.setattr("sytq.ledger.database._MAX_TRIES", 2)


def kept(desk: Desk) -> int:
    return desk.runtime.inspection.kept_results()


def breaking(desk: Desk, *statements: str, text: str = REPORT) -> Scene:
    """An answer just before which something happens to the database."""

    async def scene(stage: Stage) -> None:
        for statement in statements:
            desk.sql(statement)
        await answers(text)(stage)

    return scene


def signal(state: str, code: int, text: str) -> str:
    """The server itself says this to every checkpoint."""
    text = text.replace("'", "''").replace("%", "%%")
    return (
        "CREATE TRIGGER refuses BEFORE UPDATE ON sytq_steps FOR EACH ROW "
        f"SIGNAL SQLSTATE '{state}' SET MYSQL_ERRNO = {code}, MESSAGE_TEXT = '{text}'"
    )


@contextlib.contextmanager
def mended(desk: Desk, mend: Callable[[], object]) -> Iterator[None]:
    """Mend the database once the answer is in Redis."""

    def work() -> None:
        poll(lambda: kept(desk) == 1, message="the answer is kept")
        mend()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join(90)


def assert_paid_once(desk: Desk, task_id: str, row: int, calls: int, report: str = REPORT) -> None:
    assert (desk.row(row)["status"], desk.row(row)["report"]) == ("completed", report)
    assert len(desk.provider.calls) == calls
    assert desk.steps(task_id)["node-0"].state == "done"
    assert kept(desk) == 0


def test_p4_no_refusal_of_a_checkpoint_costs_a_second_call(mysql_desk: Desk, quick: None) -> None:
    for row, refusal in enumerate(REFUSALS, start=1):
        mysql_desk.add_row(row)
        task_id = mysql_desk.submit(row)
        mysql_desk.provider.play(breaking(mysql_desk, signal(*refusal)))
        with mended(mysql_desk, lambda: mysql_desk.sql("DROP TRIGGER refuses")):
            mysql_desk.run(task_id)
        assert_paid_once(mysql_desk, task_id, row, calls=row)


def test_p4_no_refusal_of_a_report_costs_an_attempt_or_a_call(mysql_desk: Desk, quick: None) -> None:
    for row, refusal in enumerate(REFUSALS, start=1):
        mysql_desk.add_row(row)
        task_id = mysql_desk.submit(row)
        trigger = signal(*refusal).replace("sytq_steps", "valuation_records", 1)
        mysql_desk.provider.play(breaking(mysql_desk, trigger))
        with pytest.raises(DatabaseUnavailable):
            mysql_desk.run(task_id)
        mysql_desk.sql("DROP TRIGGER refuses")
        assert (mysql_desk.row(row)["status"], mysql_desk.row(row)["failed_times"]) == ("processing", 0), refusal
        mysql_desk.run(task_id)
        assert_paid_once(mysql_desk, task_id, row, calls=row)


@pytest.mark.parametrize("refusal", [REFUSALS[1], REFUSALS[3], REFUSALS[-1]])
def test_p4_next_attempt_begins_with_the_answer_of_a_lost_one(mysql_desk: Desk, refusal: tuple[str, int, str]) -> None:
    mysql_desk.add_row()
    task_id = mysql_desk.submit()
    mysql_desk.provider.play(breaking(mysql_desk, signal(*refusal)))
    died = threading.Event()
    with mended(mysql_desk, died.set):
        mysql_desk.abandon(task_id, died)
    assert kept(mysql_desk) == 1
    mysql_desk.sql("DROP TRIGGER refuses")
    mysql_desk.run(task_id)
    assert_paid_once(mysql_desk, task_id, 1, calls=1)


@pytest.mark.parametrize("moment", ["UPDATE", "INSERT"])
def test_p4_cut_answer_is_not_paid_again_while_its_record_waits(
    mysql_desk: Desk, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Between a cut answer and the call for more: its own record (UPDATE) and that of the next call (INSERT)."""
    monkeypatch.setattr("sytq_plugins.llm.call._PAUSE", 0.01)
    refused, fenced = [], mysql_desk.runtime.ledger.fenced

    def counted(*args: Any) -> Any:
        try:
            return fenced(*args)
        except DatabaseUnavailable as error:
            refused.append(error)
            raise

    async def breaks(stage: Stage) -> None:
        mysql_desk.sql(signal(*REFUSALS[3]).replace("UPDATE ON sytq_steps", f"{moment} ON sytq_spend"))
        await answers("cut", finish="length")(stage)

    def mend() -> None:
        poll(lambda: len(refused) >= 3)
        mysql_desk.sql("DROP TRIGGER refuses")

    monkeypatch.setattr(mysql_desk.runtime.ledger, "fenced", counted)
    mysql_desk.add_row()
    task_id = mysql_desk.submit()
    mysql_desk.provider.play(breaks, answers())
    mending = threading.Thread(target=mend)
    mending.start()
    mysql_desk.run(task_id)
    mending.join(60)
    assert_paid_once(mysql_desk, task_id, 1, calls=2)


#: What a person did to a table of ours: how it breaks, how it is mended, what the server says.
CHANGED = {
    "too small": ("MODIFY value VARCHAR(9)", "MODIFY value LONGTEXT", 1406),
    "another charset": ("MODIFY value TEXT CHARACTER SET latin1", "MODIFY value LONGTEXT CHARACTER SET utf8mb4", 1366),
    "a column gone": ("CHANGE value old LONGTEXT", "CHANGE old value LONGTEXT", 1054),
    "a check": ("ADD CONSTRAINT short CHECK (LENGTH(value) < 9)", "DROP CONSTRAINT short", "(4025|3819)"),
    "a key": ("ADD UNIQUE (state)", "DROP INDEX state", 1062),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGED)
def test_p4_answer_that_a_changed_table_refuses_waits_for_its_repair(mysql_desk: Desk, change: str) -> None:
    breaks, mends, code = CHANGED[change]
    if change == "a key":
        mysql_desk.add_row(2)
        mysql_desk.run(mysql_desk.submit(2))
        mysql_desk.sql("DELETE FROM sytq_steps WHERE name <> 'node-0'")
    calls = len(mysql_desk.provider.calls) + 1
    mysql_desk.add_row()
    task_id = mysql_desk.submit()
    report = "Das Haus kostet 价值 420.000 \N{HOUSE BUILDING}"
    mysql_desk.provider.play(breaking(mysql_desk, f"ALTER TABLE sytq_steps {breaks}", text=report))
    for _ in range(2):
        with pytest.raises(DatabaseUnavailable, match=rf"step node-0 \(error {code}\)") as said:
            mysql_desk.run(task_id)
        assert report not in str(said.value)
        assert kept(mysql_desk) == 1
    mysql_desk.sql(f"ALTER TABLE sytq_steps {mends}")
    mysql_desk.run(task_id)
    assert (mysql_desk.row()["report"], len(mysql_desk.provider.calls), kept(mysql_desk)) == (report, calls, 0)
    assert mysql_desk.row()["failed_times"] in (0, None), "no attempt failed"


@pytest.mark.parametrize("table", ["sytq_steps", "sytq_spend"])
def test_p4_missing_table_of_sytq_ends_no_row_and_costs_no_call(desk: Desk, table: str) -> None:
    desk.add_row()
    task_id = desk.submit()
    desk.provider.play(breaking(desk, f"ALTER TABLE {table} RENAME TO elsewhere"))
    for _ in range(5):  # more than a task has attempts
        with pytest.raises(DatabaseUnavailable, match="run `sytq db check`"):
            desk.run(task_id)
    assert desk.row()["failed_times"] in (0, None)
    desk.sql(f"ALTER TABLE elsewhere RENAME TO {table}")
    desk.run(task_id)
    assert_paid_once(desk, task_id, 1, calls=1)


@pytest.mark.parametrize(("pragma", "broken", "sound"), [("query_only", 1, 0), ("max_page_count", 1, 1 << 30)])
def test_p4_read_only_or_full_sqlite_costs_no_second_call(
    sqlite_desk: Desk, quick: None, pragma: str, broken: int, sound: int
) -> None:
    def set_to(value: int) -> None:
        sqlite_desk.runtime.database.pragma(pragma, value, permanent=True)  # of every new connection
        sqlite_desk.runtime.database.close_all()

    async def breaks(stage: Stage) -> None:
        set_to(broken)
        await answers(report)(stage)

    report = REPORT * 5000  # more than the free pages of the file
    sqlite_desk.add_row()
    task_id = sqlite_desk.submit()
    sqlite_desk.provider.play(breaks)
    with mended(sqlite_desk, lambda: set_to(sound)):
        sqlite_desk.run(task_id)
    assert_paid_once(sqlite_desk, task_id, 1, calls=1, report=report)


def test_p4_locked_sqlite_costs_no_second_call(sqlite_desk: Desk, quick: None) -> None:
    sqlite_desk.configure(DATABASE__TIMEOUT="50ms")
    sqlite_desk.add_row()
    task_id = sqlite_desk.submit()
    locked, unlock = threading.Event(), threading.Event()

    def hold() -> None:
        with sqlite_desk.runtime.database.connection_context(), sqlite_desk.runtime.database.atomic():
            locked.set()
            unlock.wait(90)

    async def locks(stage: Stage) -> None:
        threading.Thread(target=hold).start()
        locked.wait(60)
        await answers()(stage)

    sqlite_desk.provider.play(locks)
    with mended(sqlite_desk, unlock.set):
        sqlite_desk.run(task_id)
    assert_paid_once(sqlite_desk, task_id, 1, calls=1)

"""P2, P3, P4, P5 for valuations: one report, one billed call and one signed callback under every fault."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks
from sytq_plugins.llm.row import ValuationRecord
from sytq_plugins.llm.spend import SpendRow

from sytq.ledger.database import is_mysql
from tests.installation import Installation
from tests.provider import REPORT, ScriptedProvider, Stage, answers, hangs, later, refuses, says
from tests.receiver import Receiver
from tests.servers import MySQLServer, RedisServer, poll

pytestmark = pytest.mark.faults
PROMPT = "A house of 120 square metres in the old town, which nobody else is to know of."
FORBIDDEN = "CREATE TRIGGER refuses BEFORE UPDATE ON sytq_steps BEGIN SELECT RAISE(ABORT, 'as scripted'); END"
OUT_OF_SYNC = (
    "CREATE TRIGGER refuses BEFORE UPDATE ON sytq_steps FOR EACH ROW SIGNAL SQLSTATE '08S01'"
    " SET MYSQL_ERRNO = 1047, MESSAGE_TEXT = 'WSREP has not yet prepared node for application use'"
)
SECRET = "whsec_" + "c3l0cS10ZXN0cy1zaWduaW5nLXNlY3JldC0="


class Desk(Installation):
    """An installation with a provider that can be delayed, and a receiver of callbacks."""

    def __init__(self, folder: Path, database_url: str, redis_url: str, **settings: str) -> None:
        self.provider = ScriptedProvider()
        self.receiver = Receiver()
        self.go_on = threading.Event()
        super().__init__(
            folder,
            database_url,
            redis_url,
            SYTQ_PROVIDERS__SCRIPTED__BASE_URL=self.provider.base_url,
            SYTQ_PROVIDERS__SCRIPTED__API_KEY="sk-scripted",
            SYTQ_PROVIDERS__SCRIPTED__MODEL="valuer-1",
            SYTQ_OUTBOUND__ALLOW_NETWORKS='["127.0.0.0/8"]',
            SYTQ_WEBHOOK__SECRET=SECRET,
            **settings,
        )

    def close(self) -> None:
        super().close()
        self.provider.close()
        self.receiver.close()

    async def delayed(self, stage: Stage) -> None:
        """Answer once `go_on` is set."""
        while not self.go_on.is_set():
            await asyncio.sleep(0.02)
        await answers()(stage)

    def valuate(self, row_id: int = 7, prompt: str = "What is it worth?") -> str:
        def insert() -> None:
            ValuationRecord.insert(
                id=row_id, status="pending", user_message=prompt, callback_url=self.receiver.url
            ).execute()

        task = self.runtime.submitter.prepare("llm", {"table_name": "valuation_records", "id": row_id})
        self.runtime.submitter.submit([task], also=insert)
        return task.id

    def record(self, row_id: int = 7) -> ValuationRecord:
        with self.runtime.database.connection_context():
            return ValuationRecord.get_by_id(row_id)

    def assert_done_once(self, task_id: str, calls: int) -> None:
        """One report, `calls` provider calls, one signed callback with the same report."""
        row = self.wait_state(task_id, "succeeded")
        record = self.record()
        assert (record.status, record.report, record.current_task_node) == ("completed", REPORT, 1)
        assert (record.progress, record.failed_info) == ("1/1", "")
        poll(lambda: self.receiver.received, message="the callback arrives")
        (callback,) = self.receiver.received
        said: dict[str, Any] = json.loads(callback.body)
        assert (said["status"], said["result"], said["task_id"], said["id"]) == ("success", REPORT, row.id, 7)
        standardwebhooks.Webhook(SECRET).verify(callback.body, callback.headers)
        assert len(self.provider.calls) == calls


@pytest.fixture
def desk(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[Desk]:
    made = Desk(tmp_path, database_url, redis_url)
    yield made
    made.close()


@pytest.fixture
def fragile(tmp_path: Path, own_redis: RedisServer) -> Iterator[Desk]:
    made = Desk(tmp_path, f"sqlite:///{tmp_path / 'sytq.db'}", own_redis.url)
    yield made
    if not own_redis.running:
        own_redis.start()
    made.close()


def test_p3_p4_worker_killed_during_a_provider_call_reports_once(desk: Desk) -> None:
    desk.provider.play(hangs, answers())
    worker = desk.start_worker()
    task = desk.valuate()
    poll(lambda: desk.provider.calls, message="the provider is asked")
    worker.kill()
    assert desk.record().status == "processing"
    desk.start_worker()
    desk.assert_done_once(task, calls=2)  # the first was never answered: one finished node, one billed answer
    (step, *_) = desk.runtime.ledger.steps(task)
    assert (step.name, step.state, step.interrupted) == ("node-0", "done", 1)


def test_p4_worker_killed_after_the_checkpoint_repeats_no_call(desk: Desk) -> None:
    worker = desk.start_worker()
    desk.provider.play(desk.delayed)
    task = desk.valuate()
    poll(lambda: desk.provider.calls, message="the provider is asked")
    desk.go_on.set()
    poll(
        lambda: any(step.name == "node-0" and step.state == "done" for step in desk.runtime.ledger.steps(task)),
        interval=0.001,
        message="the answer is checkpointed",
    )
    worker.kill()
    desk.start_worker()
    desk.assert_done_once(task, calls=1)


THREE = [{"name": name, "prompt": f"{name} of {{{{ row.user_message }}}}"} for name in ("facts", "price", "report")]


def test_p4_worker_killed_in_the_second_node_repeats_only_that_node(
    tmp_path: Path, database_url: str, redis_url: str
) -> None:
    pipeline = {
        "SYTQ_LLM__PIPELINES": json.dumps({"three": THREE}),
        "SYTQ_LLM__TABLES": '{"valuation_records": {"pipeline": "three"}}',
    }
    desk = Desk(tmp_path, database_url, redis_url, **pipeline)
    try:
        desk.provider.play(answers("facts"), hangs, answers("price"), answers(REPORT))
        worker = desk.start_worker()
        task = desk.valuate()
        poll(lambda: len(desk.provider.calls) == 2, message="the second node is asked")
        worker.kill()
        record = desk.record()
        assert (record.status, record.progress, record.current_task_node) == ("processing", "1/3", 1)
        assert record.progress_info == "node 2 of 3 (price): waiting for the answer"
        desk.start_worker()
        desk.wait_state(task, "succeeded")
        asked = [call.body["messages"][0]["content"].split()[0] for call in desk.provider.calls]
        assert asked == ["facts", "price", "price", "report"]
        assert (desk.record().report, desk.record().progress, desk.record().current_task_node) == (REPORT, "3/3", 3)
        steps = {step.name: step.interrupted for step in desk.runtime.ledger.steps(task)}
        assert steps == {"node-0": 0, "node-1": 1, "node-2": 0, "report": 0}
        with desk.runtime.database.connection_context():
            rows = SpendRow.select().order_by(SpendRow.token, SpendRow.number)
            assert [(row.step, row.outcome) for row in rows] == [
                ("node-0", "ok"), ("node-1", "lost"), ("node-1", "ok"), ("node-2", "ok"),
            ]  # fmt: skip
    finally:
        desk.close()


def test_p6_resumed_worker_writes_neither_row_nor_checkpoint(tmp_path: Path, database_url: str, redis_url: str) -> None:
    desk = Desk(tmp_path, database_url, redis_url)
    try:
        desk.provider.play(desk.delayed, answers("the report of the other worker"))
        stopped = desk.start_worker()
        task = desk.valuate()
        poll(lambda: desk.provider.calls, message="the provider is asked")
        desk.wait_state(task, "running")  # else it may be suspended within this write, and SQLite allows one writer
        stopped.signal(signal.SIGSTOP)
        desk.start_worker()
        desk.wait_state(task, "succeeded")
        before = (desk.record().__data__, [step.__data__ for step in desk.runtime.ledger.steps(task)])
        desk.go_on.set()  # the answer of the first call waits in the stopped worker's socket
        stopped.signal(signal.SIGCONT)
        poll(lambda: f"of task {task} no longer holds it" in stopped.text(), message="it finds that out")
        assert (desk.record().__data__, [step.__data__ for step in desk.runtime.ledger.steps(task)]) == before
        assert desk.record().report == "the report of the other worker"
        assert REPORT not in str(before)
        poll(lambda: desk.receiver.received, message="the callback arrives")
        assert len(desk.receiver.received) == 1
    finally:
        desk.close()


def test_progress_counts_tokens_while_the_answer_streams(desk: Desk) -> None:
    async def slowly(stage: Stage) -> None:
        await stage.head()
        while not desk.go_on.is_set():
            await stage.delta("word ")
            await asyncio.sleep(0.05)
        await stage.delta(finish="stop")
        await stage.end()

    desk.provider.play(slowly)
    desk.start_worker()
    task = desk.valuate()
    seen: list[int] = []

    def token_counts() -> list[int]:
        live = desk.runtime.inspection.live([task]).get(task)
        found = re.search(r"scripted answers, (\d+) tokens so far", str(live.progress if live else ""))
        if found and int(found[1]) not in seen:
            seen.append(int(found[1]))
        return seen

    poll(lambda: len(token_counts()) >= 3, message="three token counts")
    assert seen == sorted(seen)
    desk.go_on.set()
    desk.wait_state(task, "succeeded")


def test_p7_logs_errors_and_redis_contain_neither_prompt_nor_api_key(desk: Desk) -> None:
    quoting = f"the key sk-scripted is no good for '{PROMPT}' and for {PROMPT[10:]}"
    desk.provider.play(
        refuses(500, quoting),
        says(json.dumps({"error": {"message": quoting}}), "application/json"),
        says("{" + PROMPT, "application/json"),
        refuses(400, quoting),
    )
    worker = desk.start_worker(SYTQ_LOGGER__LEVEL="debug", SYTQ_TYPES__LLM='{"retry": {"first": "50ms", "factor": 1}}')
    desk.wait_state(desk.valuate(prompt=PROMPT), "dead")
    poll(lambda: desk.receiver.received, message="the callback arrives")
    assert len(desk.provider.calls) == 4
    everything = {
        "the log": worker.text(),
        "redis": str(everything_in(desk.runtime.redis.client)),
        "the callback": desk.receiver.received[0].body.decode(),
        "the row": str({**desk.record().__data__, "user_message": None}),
    }
    with desk.runtime.database.connection_context():
        for table in (name for name in desk.runtime.database.get_tables() if name.startswith("sytq_")):
            everything[table] = str(desk.runtime.database.execute_sql(f"SELECT * FROM {table}").fetchall())
    assert "sytq_spend" in everything
    for where, text in everything.items():
        assert "sk-scripted" not in text, where
        assert PROMPT[10:40] not in text, where


def everything_in(client: Any) -> list[Any]:
    """Every value in Redis, whatever its type."""
    read = {
        b"string": client.get,
        b"hash": client.hgetall,
        b"set": client.smembers,
        b"zset": lambda key: client.zrange(key, 0, -1),
        b"list": lambda key: client.lrange(key, 0, -1),
        b"stream": client.xrange,
        b"none": lambda key: None,  # it expired since it was listed
    }
    return [(key, read[client.type(key)](key)) for key in client.scan_iter()]


def test_p2_redis_emptied_during_a_provider_call_repeats_no_call(fragile: Desk, own_redis: RedisServer) -> None:
    fragile.provider.play(fragile.delayed)
    fragile.start_worker()
    task = fragile.valuate()
    poll(lambda: fragile.provider.calls, message="the provider is asked")
    own_redis.kill()
    own_redis.start()
    own_redis.client().flushall()
    fragile.go_on.set()
    fragile.assert_done_once(task, calls=1)


def test_p2_redis_outage_at_the_answer_repeats_no_call(fragile: Desk, own_redis: RedisServer) -> None:
    fragile.provider.play(fragile.delayed)
    fragile.start_worker()
    task = fragile.valuate()
    poll(lambda: fragile.provider.calls, message="the provider is asked")
    own_redis.kill()
    fragile.go_on.set()
    poll(lambda: fragile.record().report == REPORT, message="the report is written without Redis")
    own_redis.start()
    fragile.assert_done_once(task, calls=1)


def test_p4_database_outage_at_the_answer_repeats_no_call(
    tmp_path: Path, own_mysql: MySQLServer, redis_url: str
) -> None:
    desk = Desk(tmp_path, own_mysql.create_database("desk"), redis_url)
    try:
        desk.provider.play(desk.delayed)
        worker = desk.start_worker()
        task = desk.valuate()
        poll(lambda: desk.provider.calls, message="the provider is asked")
        own_mysql.kill()
        desk.go_on.set()
        poll(lambda: "checkpoint waits for the database" in worker.text(), message="the answer waits")
        own_mysql.start()
        desk.assert_done_once(task, calls=1)
    finally:
        desk.close()


def test_p4_worker_killed_while_its_answer_is_refused_repeats_no_call(desk: Desk) -> None:
    async def refused(stage: Stage) -> None:
        desk.rows(OUT_OF_SYNC if is_mysql(desk.runtime.database) else FORBIDDEN)
        await answers()(stage)

    desk.provider.play(refused)
    worker = desk.start_worker()
    task = desk.valuate()
    poll(lambda: desk.runtime.inspection.kept_results() == 1, message="the answer is kept in Redis")
    worker.kill()
    desk.rows("DROP TRIGGER refuses")
    desk.start_worker()
    desk.assert_done_once(task, calls=1)
    assert desk.runtime.inspection.kept_results() == 0
    with desk.runtime.database.connection_context():
        assert [(row.outcome, row.prompt_tokens) for row in SpendRow.select()] == [("ok", 21)]
    (step, *_) = desk.runtime.ledger.steps(task)
    assert step.interrupted == 0, "nothing was paid twice"


def test_p4_too_few_connections_cost_time_and_no_call(
    tmp_path: Path, mysql_server: MySQLServer, mysql_url: str, redis_url: str
) -> None:
    (name,) = re.findall(r"/(\w+)\?", mysql_url)
    mysql_server.execute("CREATE OR REPLACE USER few@'127.0.0.1'")
    mysql_server.execute(f"GRANT ALL ON {name}.* TO few@'127.0.0.1' WITH MAX_USER_CONNECTIONS 3")
    desk = Desk(tmp_path, mysql_url, redis_url)
    try:
        desk.provider.play(later(0.5, answers()))
        worker = desk.start_worker(SYTQ_DATABASE__URL=mysql_url.replace("root@", "few@"))
        tasks = [desk.valuate(row_id) for row_id in range(1, 13)]
        assert [desk.wait_state(task, "succeeded").attempts for task in tasks] == [1] * 12
        assert len(desk.provider.calls) == 12
        assert "max_user_connections" in worker.text(), "the limit was met"
    finally:
        desk.close()


def test_p5_callback_repeats_the_same_bytes_until_accepted(desk: Desk) -> None:
    desk.receiver.close()
    desk.receiver = Receiver(503, 500, 200)
    desk.start_worker(SYTQ_TYPES__CALLBACK='{"retry": {"first": "100ms", "factor": 1}}')
    task = desk.valuate()
    desk.wait_state(task, "succeeded")
    poll(lambda: len(desk.receiver.received) == 3, message="three attempts")
    assert len({(got.body, got.headers["webhook-id"]) for got in desk.receiver.received}) == 1
    (child,) = [row for row in desk.runtime.ledger.find(limit=50)[0] if row.type == "callback"]
    assert desk.wait_state(child.id, "succeeded").attempts == 3


def test_p1_failed_valuation_is_written_to_its_row_and_callback(desk: Desk) -> None:
    desk.provider.play(refuses(400, "the request is not valid"))
    desk.start_worker()
    task = desk.valuate()
    desk.wait_state(task, "dead")
    poll(lambda: desk.receiver.received, message="the callback arrives")
    said = json.loads(desk.receiver.received[0].body)
    assert (said["status"], said["task_id"]) == ("failed", task)
    record = desk.record()
    assert (record.status, record.failed_times, record.report) == ("failed", 1, None)
    assert "the request is not valid" in record.failed_info


def test_task_before_its_callers_commit_waits_and_uses_no_attempt(
    tmp_path: Path, mysql_url: str, redis_url: str, mysql_server: MySQLServer
) -> None:
    desk = Desk(tmp_path, mysql_url, redis_url, SYTQ_LLM__ROW_TIMEOUT="4s", SYTQ_QUEUE__RETRY="0")
    name = mysql_url.rpartition("/")[2].partition("?")[0]
    with contextlib.closing(desk), contextlib.ExitStack() as stack:
        worker = desk.start_worker(SYTQ_LOGGER__TASKS="attempts")
        callers = [stack.enter_context(mysql_server.connect(name, autocommit=False)) for _ in range(2)]
        for row_id, caller in enumerate(callers, start=7):
            caller.cursor().execute("INSERT INTO valuation_records (id, user_message) VALUES (%s, 'worth?')", (row_id,))
        tasks = [
            desk.runtime.submitter.prepare("llm", {"table_name": "valuation_records", "id": row_id})
            for row_id in (7, 8)
        ]
        desk.runtime.submitter.submit(tasks)
        poll(lambda: worker.text().count("task waits") >= 2, message="both look again")
        callers[0].commit()
        assert desk.wait_state(tasks[0].id, "succeeded").attempts == 1
        dead = desk.wait_state(tasks[1].id, "dead")
        assert re.match(r"valuation_records has no row with id 8, \d+ s after the task was submitted", str(dead.error))
        assert "llm.row_timeout (4 s)" in str(dead.error)
        assert len(desk.provider.calls) == 1

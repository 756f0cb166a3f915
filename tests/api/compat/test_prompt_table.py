"""Contract B on a `valuation_records` that its owner altered: the response names what stands in the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.installation import BUILT_IN, Installation
from tests.servers import MySQLServer, poll

#: What an owner did, the status of the response, and what it names.
_ALTERED = {
    "unsigned": ("MODIFY id BIGINT UNSIGNED AUTO_INCREMENT", 503, "column id of valuation_records does not take"),
    "small": ("MODIFY id INT", 503, "column id of valuation_records does not take the number"),
    "uuid": ("MODIFY id CHAR(36)", 503, "column id of valuation_records holds no whole numbers"),
    "extra": (
        "ADD tenant_id BIGINT NOT NULL",
        503,
        "column tenant_id of valuation_records is NOT NULL without a default",
    ),
    "extra key": (
        "ADD kind INT NOT NULL DEFAULT 7, ADD UNIQUE (kind)",
        503,
        "the unique key kind of valuation_records",
    ),
    "enum": ("MODIFY status ENUM('new','done')", 503, "column status of valuation_records does not take the value"),
    "number": ("MODIFY status TINYINT", 503, "column status of valuation_records holds numbers"),
    "check": ("ADD CONSTRAINT known CHECK (status = 'new')", 503, "the check constraint known of valuation_records"),
    "partitions": (
        "PARTITION BY RANGE (id) (PARTITION old VALUES LESS THAN (-9223372036854775807))",
        503,
        "no partition of valuation_records takes the row",
    ),
    "missing": ("DROP status", 503, "table valuation_records lacks a column of contract A"),
    "latin1": ("MODIFY user_message TEXT CHARACTER SET latin1", 400, "prompt: does not fit into valuation_records"),
    "narrow": ("MODIFY user_message VARCHAR(5)", 400, "prompt: does not fit into valuation_records.user_message"),
    "harmless": ("ADD tenant_id BIGINT NULL, ADD KEY (tenant_id), MODIFY report LONGTEXT", 200, ""),
}


@pytest.fixture(scope="module")
def api(start_shared: Callable[..., Installation], mysql_server: MySQLServer) -> Installation:
    return start_shared("api-mysql", mysql_server, **BUILT_IN)


@pytest.fixture
def altered(api: Installation) -> Any:
    """Alters the table for one test."""

    def alter(change: str) -> None:
        execute(f"ALTER TABLE valuation_records {change}")

    def execute(statement: str) -> None:
        with api.runtime.database.connection_context():
            api.runtime.database.execute_sql(statement)

    execute("RENAME TABLE valuation_records TO kept")
    execute("CREATE TABLE valuation_records LIKE kept")
    yield alter
    execute("DROP TABLE valuation_records")
    execute("RENAME TABLE kept TO valuation_records")


@pytest.mark.parametrize("case", _ALTERED)
def test_prompt_answers_what_its_table_refuses(api: Installation, altered: Callable[[str], None], case: str) -> None:
    change, status, said = _ALTERED[case]
    altered(change)
    tasks = api.rows("SELECT COUNT(*) FROM sytq_tasks WHERE type = 'llm'")
    replies = [api.request("POST", "/api/v1/tasks/llm", {"prompt": "值多少? 🏠 hush-hush"}) for _ in range(2)]
    reply = replies[-1]  # the first may be the one row that a unique key takes
    assert reply.status == status, reply.body
    if status == 200:
        return
    assert said in reply.json["error"]
    assert "hush" not in reply.json["error"] + api.gunicorn.text()
    accepted = sum(one.status == 200 for one in replies)
    assert api.rows("SELECT COUNT(*) FROM sytq_tasks WHERE type = 'llm'")[0][0] == tasks[0][0] + accepted


def test_prompt_names_the_column_of_an_sqlite_table(start_shared: Callable[..., Installation]) -> None:
    api = start_shared("api-sqlite", None, **BUILT_IN)
    database = api.runtime.database
    with database.connection_context():
        (made,) = database.execute_sql("SELECT sql FROM sqlite_master WHERE name = 'valuation_records'").fetchone()
        database.execute_sql("ALTER TABLE valuation_records RENAME TO kept")
        database.execute_sql(made.rstrip(") \n") + ", tenant_id INT NOT NULL)")
    try:
        reply = api.request("POST", "/api/v1/tasks/llm", {"prompt": "hush-hush"})
    finally:
        with database.connection_context():
            database.execute_sql("DROP TABLE valuation_records")
            database.execute_sql("ALTER TABLE kept RENAME TO valuation_records")
    assert (reply.status, reply.headers["retry-after"]) == (503, "60")
    assert "NOT NULL constraint failed: valuation_records.tenant_id" in reply.json["error"]


def test_start_of_api_and_worker_names_obstacles(
    make_installation: Callable[..., Installation], mysql_url: str
) -> None:
    made = make_installation(mysql_url, **BUILT_IN)
    with made.runtime.database.connection_context():
        made.runtime.database.execute_sql(
            "ALTER TABLE valuation_records MODIFY id BIGINT UNSIGNED, ADD tenant_id INT NOT NULL, MODIFY status TINYINT"
        )
    made.start_api()
    worker = made.start_worker()
    for process in (made.gunicorn, worker):
        for column in ("id", "tenant_id", "status"):
            said = f"column {column} of valuation_records is "
            poll(lambda said=said, process=process: said in process.text(), message=said)

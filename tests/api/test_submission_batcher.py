"""Natural batching: many submissions share a transaction, and an invalid one does not fail the others."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
from typing import Any

from tests.installation import Installation, Reply
from tests.servers import MySQLServer


def test_a_hundred_concurrent_submissions_are_accepted_once(api: Installation) -> None:
    def one(number: int) -> Reply:
        return api.request("POST", "/api/tasks/llm", {"table_name": "valuation_records", "id": number})

    numbers = range(5_000_001, 5_000_101)  # rows of no other test
    before = api.rows("SELECT COUNT(*) FROM sytq_tasks")[0][0]
    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        replies = list(pool.map(one, numbers))
    assert {reply.status for reply in replies} == {200}
    ids = {reply.json["data"]["task_id"] for reply in replies}
    assert len(ids) == 100
    stored = dict(api.rows("SELECT id, payload FROM sytq_tasks"))
    assert len(stored) == before + 100
    for number, reply in zip(numbers, replies, strict=True):
        assert json.loads(stored[reply.json["data"]["task_id"]])["id"] == number


def test_concurrent_submissions_share_transactions(make_api: Any, own_mysql: MySQLServer) -> None:
    api = make_api(own_mysql.create_database("batches"))

    def ten(_: int) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=90)
        accepted = 0
        for _ in range(10):
            connection.request(
                "POST", "/api/v1/tasks", b'{"url":"http://example.com/"}', {"Content-Type": "application/json"}
            )
            answer = connection.getresponse()
            answer.read()
            accepted += answer.status == 200
        connection.close()
        return accepted

    def commits() -> int:
        return int(own_mysql.execute("SHOW GLOBAL STATUS LIKE 'Com_commit'")[0][1])

    before = commits()
    with concurrent.futures.ThreadPoolExecutor(60) as pool:
        assert sum(pool.map(ten, range(60))) == 600
    assert api.rows("SELECT COUNT(*) FROM sytq_tasks")[0][0] == 600
    assert 0 < commits() - before < 300


def test_an_invalid_submission_does_not_fail_its_batch(make_api: Any, mysql_url: str) -> None:
    api = make_api(mysql_url)
    # Contract A's column holds 65,535 bytes, which only MySQL enforces.
    bodies = [{"prompt": "值" * 30_000 if number % 10 == 3 else f"prompt {number}"} for number in range(100)]
    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        replies = list(pool.map(lambda body: api.request("POST", "/api/v1/tasks/llm", body), bodies))
    for number, reply in enumerate(replies):
        if number % 10 == 3:
            assert reply.status == 400
            assert reply.json["error"].startswith("prompt: does not fit into valuation_records.user_message")
        else:
            assert reply.status == 200
    assert api.rows("SELECT COUNT(*) FROM valuation_records")[0][0] == 90
    assert api.rows("SELECT COUNT(*) FROM sytq_tasks")[0][0] == 90
    assert "值" not in api.gunicorn.text()


def test_prompts_the_table_character_set_lacks_are_400(make_api: Any, mysql_url: str) -> None:
    api = make_api(mysql_url)
    with api.runtime.database.connection_context():
        api.runtime.database.execute_sql("ALTER TABLE valuation_records CONVERT TO CHARACTER SET latin1")
    reply = api.request("POST", "/api/v1/tasks/llm", {"prompt": "x", "system": "值"})
    assert reply.status == 400
    assert reply.json["error"].startswith("system: ")
    assert api.request("POST", "/api/v1/tasks/llm", {"prompt": "é"}).status == 200

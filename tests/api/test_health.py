"""Health, readiness and metrics: contracts A and D in one body, and numbers only from the shared stores."""

from __future__ import annotations

import datetime as dt
import json
import time
from typing import Any

import pytest
import redis

from sytq.ledger.migrations import migrate
from tests.installation import Installation, samples
from tests.servers import MySQLServer, RedisServer, poll
from tests.terminal import sytq


def test_health_is_a_superset_of_contracts_a_and_d(api: Installation) -> None:
    reply = api.request("GET", "/health")
    assert reply.status == 200
    answer = reply.json
    assert (answer["code"], answer["message"], answer["status"]) == (200, "Service is running", "healthy")
    assert abs(dt.datetime.fromisoformat(answer["timestamp"]) - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=5)
    assert answer["data"]["status"] == "ok"
    assert type(answer["data"]["timestamp"]) is int
    assert abs(answer["data"]["timestamp"] - time.time()) < 300
    assert api.request("HEAD", "/health").status == 200


def test_probes_are_200_while_healthy(api: Installation) -> None:
    assert api.request("GET", "/healthz/startup").status == 200
    live = api.request("GET", "/healthz/live").json
    assert (live["code"], live["message"], live["data"]["status"]) == (200, "Service is alive", "ok")
    reply = api.request("GET", "/healthz/ready")
    data = reply.json["data"]
    stamp = data.pop("timestamp")
    assert (reply.status, data) == (200, {"status": "ok", "database": "ok", "redis": "ok"})
    assert type(stamp) is int and abs(stamp - time.time()) < 300


def test_not_ready_while_redis_is_unavailable(make_api: Any, own_redis: RedisServer) -> None:
    api = make_api(redis_url=own_redis.url)
    assert api.request("GET", "/healthz/ready").status == 200
    own_redis.kill()
    reply = api.request("GET", "/healthz/ready")
    assert (reply.status, reply.json["code"]) == (503, 503)
    assert reply.json["data"].keys() == {"status", "database", "redis", "timestamp"}
    assert (reply.json["data"]["status"], reply.json["data"]["database"]) == ("error", "ok")
    assert reply.json["data"]["redis"] == "does not answer"
    assert api.request("GET", "/healthz/live").status == 200
    metrics = api.request("GET", "/metrics")
    assert metrics.status == 200
    assert b"sytq_redis_up 0.0" in metrics.body
    own_redis.start()
    poll(lambda: api.request("GET", "/healthz/ready").status == 200)


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ("-@scripting", "the 'evalsha' command"),
        ("-smembers", "Redis refuses its user SMEMBERS (docs/redis.md"),
        ("resetkeys ~other:*", "Redis refuses its user keys ~{sytq}:* (docs/redis.md"),
    ],
)
def test_not_ready_names_the_missing_right_and_accepts(
    make_api: Any, own_redis: RedisServer, rules: str, said: str
) -> None:
    api = make_api(redis_url=own_redis.url)
    with own_redis.client() as client:
        client.execute_command("ACL", "SETUSER", "default", *rules.split())
        reply = api.request("GET", "/healthz/ready")
        assert (reply.status, reply.json["data"]["database"]) == (503, "ok")
        assert said in reply.json["data"]["redis"]
        submitted = api.request("POST", "/v2/tasks", {"type": "webhook", "payload": {"url": "http://example.com/"}})
        assert submitted.status == 202
        refused = api.request("GET", "/v2/queues")
        assert (refused.status, refused.headers["retry-after"]) == (503, "2")
        client.execute_command("ACL", "SETUSER", "default", "resetkeys", "~*", "+@all")
        assert api.request("GET", "/healthz/ready").status == 200
        assert api.request("GET", "/v2/queues").status == 200


def test_api_that_starts_without_a_right_says_so_in_its_log(make_api: Any, own_redis: RedisServer) -> None:
    with own_redis.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-xclaim")
    api = make_api(redis_url=own_redis.url)
    poll(lambda: "Redis refuses its user XCLAIM" in api.gunicorn.text(), message=api.gunicorn.text)


def test_not_ready_while_redis_takes_no_writes(make_api: Any, own_redis: RedisServer) -> None:
    api = make_api(redis_url=own_redis.url)
    with own_redis.client() as client:
        client.config_set("maxmemory", 1)
        reply = api.request("GET", "/healthz/ready")
        assert (reply.status, "'maxmemory'" in reply.json["data"]["redis"]) == (503, True)
        client.config_set("maxmemory", 0)
        assert api.request("GET", "/healthz/ready").status == 200


def test_a_probe_is_answered_while_redis_hangs(make_api: Any, own_redis: RedisServer) -> None:
    api = make_api(redis_url=own_redis.url)
    own_redis.pause()
    try:
        reply = api.request("GET", "/healthz/ready", timeout=8)
        assert reply.status == 503
        assert "no answer within" in reply.json["data"]["redis"]
    finally:
        own_redis.resume()


def test_not_ready_and_submissions_are_503_before_migrations(make_api: Any) -> None:
    api = make_api()
    with api.runtime.database.atomic():
        for table in ("sytq_tasks", "sytq_migrations"):
            api.runtime.database.execute_sql(f"DROP TABLE {table}")
    reply = api.request("GET", "/healthz/ready")
    assert reply.status == 503
    assert "sytq db migrate" in reply.json["data"]["database"]
    refused = api.request("POST", "/api/v1/tasks", {"url": "http://example.com/"})
    assert (refused.status, refused.headers["retry-after"]) == (503, "5")
    assert "sytq db migrate" in refused.json["error"]
    migrate(api.runtime.database)
    assert api.request("POST", "/api/v1/tasks", {"url": "http://example.com/"}).status == 200
    assert api.request("GET", "/healthz/ready").status == 200


@pytest.mark.mysql
def test_ready_metrics_and_doctor_name_a_database_that_takes_no_submission(make_api: Any, mysql_url: str) -> None:
    api = make_api(mysql_url)
    assert api.request("GET", "/healthz/ready").status == 200
    # What a full disk says, where a test can have one: no new row, while reads and updates go on.
    refuse = "SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1114, MESSAGE_TEXT = 'The table sytq_tasks is full'"
    database = api.runtime.database
    with database.connection_context():
        database.execute_sql(f"CREATE TRIGGER disk BEFORE INSERT ON sytq_tasks FOR EACH ROW {refuse}")
    submitted = api.request("POST", "/v2/tasks", {"type": "webhook", "payload": {"url": "http://example.com/"}})
    assert submitted.status == 503
    for _ in range(3):
        reply = api.request("GET", "/healthz/ready")
        assert (reply.status, reply.json["data"]["redis"]) == (503, "ok")
        assert "is full (error 1114)" in reply.json["data"]["database"]
    assert samples(api.request("GET", "/metrics").body)["sytq_database_up"] == 0
    checks = json.loads(sytq("doctor", "--json", environ=api.environ).stdout)["checks"]
    [writes] = [check for check in checks if check["check"] == "database writes"]
    assert (writes["verdict"], "is full" in writes["said"]) == ("fail", True)
    with database.connection_context():
        database.execute_sql("DROP TRIGGER disk")
    assert api.request("GET", "/healthz/ready").status == 200
    poll(lambda: samples(api.request("GET", "/metrics").body)["sytq_database_up"] == 1)


def test_a_probe_is_answered_while_the_database_hangs(make_api: Any, own_mysql: MySQLServer) -> None:
    api = make_api(own_mysql.create_database("frozen"))
    assert api.request("GET", "/healthz/ready").status == 200
    own_mysql.pause()
    try:
        poll(lambda: api.request("GET", "/healthz/ready", timeout=20).status == 503, message="the last answer ages")
        began = time.monotonic()
        reply = api.request("GET", "/healthz/ready", timeout=20)
        assert reply.status == 503 and time.monotonic() - began < 6
    finally:
        own_mysql.resume()
    poll(lambda: api.request("GET", "/healthz/ready").status == 200)


def test_metrics_come_from_the_shared_stores(make_api: Any, database_url: str, redis_url: str) -> None:
    api = make_api(database_url, redis_url)
    for _ in range(3):
        assert api.request("POST", "/api/v1/tasks", {"url": "http://example.com/"}).status == 200

    def scraped() -> dict[str, float]:
        return samples(api.request("GET", "/metrics").body)

    submitted = 'sytq_tasks_total{outcome="submitted",type="webhook"}'
    found = poll(lambda: (seen := scraped()).get(submitted) == 3 and seen, message="all three are dispatched")
    assert found['sytq_queue_waiting{priority="normal",queue="webhook"}'] == 3
    assert found['sytq_queue_running{priority="normal",queue="webhook"}'] == 0
    assert found['sytq_queue_oldest_seconds{priority="normal",queue="webhook"}'] > 0
    assert found['sytq_queue_oldest_seconds{priority="low",queue="webhook"}'] == 0
    assert found['sytq_queue_delayed{queue="webhook"}'] == 0
    assert found["sytq_workers"] == 0
    assert found["sytq_redis_up"] == 1
    assert any(name.startswith("sytq_build_info{version=") for name in found)


def test_metrics_query_redis_at_most_once_a_second(make_api: Any, redis_client: redis.Redis) -> None:
    # /metrics needs no credentials.
    api = make_api()
    api.request("GET", "/metrics")
    began, before = time.monotonic(), redis_client.info("stats")["total_commands_processed"]
    for _ in range(20):
        api.request("GET", "/metrics")
    asked = redis_client.info("stats")["total_commands_processed"] - before
    assert asked < 100 * (1 + time.monotonic() - began)

"""A full queue refuses submissions with 503; without Redis everything is accepted."""

from __future__ import annotations

import concurrent.futures
import os
from typing import Any

from tests.installation import Installation, Reply
from tests.servers import RedisServer, poll


def submit(api: Installation) -> Reply:
    return api.request("POST", "/api/v1/tasks", {"url": "http://example.com/"})


def bounded(make_api: Any, bound: int, **more: Any) -> Installation:
    api: Installation = make_api(
        SYTQ_QUEUES__WEBHOOK__MAX_WAITING=str(bound), SYTQ_REDIS__PREFIX=os.urandom(4).hex(), **more
    )
    return api


def test_a_full_queue_is_503_with_retry_after_and_stores_nothing(make_api: Any) -> None:
    api = bounded(make_api, 5, SYTQ_QUEUES__DEFAULT__MAX_WAITING="1")
    replies = [submit(api) for _ in range(8)]
    assert [reply.status for reply in replies] == [200] * 5 + [503] * 3
    assert replies[-1].headers["retry-after"] == "5"
    assert "queue 'webhook' is full: 5 of 5" in replies[-1].json["error"]
    assert api.rows("SELECT COUNT(*) FROM sytq_tasks") == [(5,)]
    assert api.request("POST", "/api/v1/tasks/llm", {"prompt": "another queue"}).status == 200
    jobs = [api.request("POST", "/jobs?priority=urgent", b"") for _ in range(2)]
    assert [job.status for job in jobs] == [202, 503]
    assert jobs[1].headers["retry-after"] and "is full" in jobs[1].json["error"]


def test_concurrent_submissions_do_not_exceed_the_queue_limit(make_api: Any) -> None:
    api = bounded(make_api, 30)
    with concurrent.futures.ThreadPoolExecutor(60) as pool:
        statuses = [reply.status for reply in pool.map(lambda _: submit(api), range(100))]
    assert (statuses.count(200), statuses.count(503)) == (30, 70)


def test_a_full_queue_accepts_again_once_it_has_drained(make_api: Any, redis_server: RedisServer) -> None:
    api = bounded(make_api, 2)
    assert [submit(api).status for _ in range(3)] == [200, 200, 503]
    with redis_server.client() as client:
        client.flushall()
    poll(lambda: submit(api).status == 200)


def test_without_redis_the_queue_limit_refuses_nothing(make_api: Any, own_redis: RedisServer) -> None:
    api = bounded(make_api, 2, redis_url=own_redis.url)
    assert [submit(api).status for _ in range(3)] == [200, 200, 503]
    own_redis.kill()
    poll(lambda: submit(api).status == 200)
    assert {submit(api).status for _ in range(5)} == {200}

"""Pages while a store hangs: each answers, in a few seconds, and none holds up a request of the API."""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.installation import Installation
from tests.servers import MySQLServer, RedisServer, poll

PAGES = ["", "/tasks", "/tasks?q=state:dead", "/failures", "/queues", "/queues/default", "/types", "/types/plain"]
PAGES += ["/schedules", "/workers", "/limiters", "/operations", "/operations/new?q=state:dead&action=retry"]
PAGES += ["/audit", "/keys", "/sessions", "/system"]
TIMEOUT = 8.0  # of a loaded machine; a page waits for 5.5 s


@pytest.mark.parametrize("store", ["redis", "database"])
def test_every_page_answers_soon_while_a_store_hangs(
    tmp_path: Path, own_mysql: MySQLServer, own_redis: RedisServer, store: str
) -> None:
    service = Installation(tmp_path, own_mysql.create_database(f"h{uuid.uuid4().hex[:8]}"), own_redis.url)
    pages = [*PAGES, f"/tasks/{service.submit('plain', 'a')}"]

    def ask(path: str) -> tuple[str, int, float, bytes]:
        since = time.monotonic()
        reply = service.request("GET", f"/dashboard{path}", headers={"Accept": "text/html"})
        return path, reply.status, time.monotonic() - since, reply.body

    service.start_api()
    server = own_redis if store == "redis" else own_mysql
    try:
        with ThreadPoolExecutor(len(pages)) as tabs:
            assert [path for path, status, *_ in tabs.map(ask, pages) if status != 200] == []
            server.pause()
            try:
                found = list(tabs.map(ask, pages))
            finally:
                server.resume()
            assert [(path, took) for path, _, took, _ in found if took > TIMEOUT] == []
            if store == "database":
                assert b"Redis has not" not in found[0][3], "Redis is well"
            assert {status for _, status, *_ in found} <= {200, 503}
            assert all(b"answer" in body for _, status, _, body in found if status == 503)
            poll(lambda: {status for _, status, *_ in tabs.map(ask, pages)} == {200}, message="all pages are back")
    finally:
        service.close()

"""Pages while a store hangs or is away: each answers in a few seconds, with what the other store knows."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from sytq.ledger.rollup import Rollup
from sytq.ledger.values import utcnow
from tests.api.dashboard.browser import Page, browse
from tests.api.dashboard.rows import inserted
from tests.api.dashboard.test_system import checked
from tests.installation import Installation
from tests.servers import MySQLServer, RedisServer, Server, poll

PAGES = ["", "/tasks", "/tasks?q=state:dead", "/failures", "/queues", "/queues/default", "/types", "/types/plain"]
PAGES += ["/schedules", "/workers", "/limiters", "/operations", "/operations/new?q=state:dead&action=retry"]
PAGES += ["/audit", "/keys", "/sessions", "/system"]
TIMEOUT = 8.0  # of a loaded machine; a page waits for 5.5 s


@pytest.fixture
def service(
    make_installation: Callable[..., Installation], own_mysql: MySQLServer, own_redis: RedisServer
) -> Installation:
    """The API on stores of its own, with seven tasks that ended and are counted."""
    made = make_installation(own_mysql.create_database("away"), own_redis.url, SYTQ_DATABASE__TIMEOUT="1s")
    at = utcnow() - dt.timedelta(seconds=90)
    inserted(made, 7, state="succeeded", created_at=at, started_at=at, finished_at=at)
    rolled = Rollup(made.runtime.database)
    while rolled.advance():
        pass
    made.start_api()
    return made


def hung(service: Installation, server: Server, task: str) -> Page:
    """Every page answers soon while the server hangs, and is back afterwards; the overview meanwhile."""
    pages = [*PAGES, f"/tasks/{task}"]

    def ask(path: str) -> tuple[str, Page, float]:
        since = time.monotonic()
        return path, browse(service).open(f"/dashboard{path}"), time.monotonic() - since

    with ThreadPoolExecutor(len(pages)) as tabs:
        assert [path for path, page, _ in tabs.map(ask, pages) if page.status != 200] == []
        server.pause()
        try:
            found = list(tabs.map(ask, pages))
        finally:
            server.resume()
        assert [(path, took) for path, _, took in found if took > TIMEOUT] == []
        assert {page.status for _, page, _ in found} <= {200, 503}
        assert all("answer" in page.text for _, page, _ in found if page.status == 503)
        poll(lambda: {page.status for _, page, _ in tabs.map(ask, pages)} == {200}, message="all pages are back")
    return found[0][1]


def test_without_redis_each_page_has_what_the_ledger_knows(service: Installation, own_redis: RedisServer) -> None:
    task = service.post_task("plain", "a")
    assert "Redis has not answered" in hung(service, own_redis, task).text
    browser = browse(service)
    own_redis.kill()
    for path in ("/queues", "/queues/plain", "/workers", "/limiters", "/limiters/one?name=provider:a"):
        assert "Redis does not answer" in browser.get(path).text, path
    for path in ("/types", "/types/plain", "/schedules"):
        assert "does not answer" not in browser.get(path).text, path
    overview = browser.get(type="default").text
    assert "Redis does not answer" in overview and "In this range: 7 accepted" in overview
    row = browser.get(f"/tasks/{task}").text
    assert "Redis does not answer" in row and "queued" in row
    html = checked(service)
    assert "Redis does not answer" in html and "0016_sessions" in html
    assert '<span class="state bad">fail</span></td><th scope="row">redis</th>' in html
    paused = browser.post("/types/plain/pause", why="Redis is down").html
    assert "holds as soon as Redis is back" in paused and "Redis is down" in paused
    assert [row.type for row in service.runtime.operator.pauses()] == ["plain"]
    own_redis.start()
    poll(lambda: "Redis does not answer" not in browser.get().text, message="the overview knows that Redis is back")


def test_without_the_database_each_page_has_what_redis_knows(service: Installation, own_mysql: MySQLServer) -> None:
    task = service.post_task("plain", "a", delay="1h")
    assert "Redis has not" not in hung(service, own_mysql, task).text
    browser = browse(service)
    form = browser.get("/types/plain/new").form("/new")
    form.fields |= {"payload.journal": "x", "payload.name": "kept"}
    own_mysql.kill()
    for path in ("/types", "/types/plain", "/queues/plain", "/schedules"):
        assert "The database does not answer" in browser.get(path).text, path
    assert "does not answer" not in browser.get("/queues").text
    tasks = browser.get("/tasks").text
    assert "The database does not answer" in tasks and "no tasks yet" not in tasks
    overview = browser.get()
    assert "The database does not answer: what it knows is missing here." in overview.text
    assert "All is well." not in overview.text and overview.link("default") == "/dashboard/queues/default"
    told = "see docs/runbook.md, The database is down"  # within a second, for which a look holds
    poll(lambda: told in browser.get().text, message="the overview says where to look")
    shown = browser.get(f"/tasks/{task}").text
    assert "What is shown is what Redis knows." in shown and "scheduled" in shown
    browser.get("/tasks/unknown", 503)
    refused = browser.submit(form)
    assert refused.status == 503 and "The database has not answered" in refused.text
    assert refused.form("/new").fields["payload.name"] == "kept"
    own_mysql.start()
    poll(lambda: task in browser.get("/tasks").html, message="the task is listed again")
    assert browser.submit(refused.form("/new")).path.startswith("/dashboard/tasks/")

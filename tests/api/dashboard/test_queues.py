"""Queues: their depths and limits, pause and resume of all types of one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.api.dashboard.browser import Browser, browse, browse_as
from tests.installation import Installation
from tests.servers import RedisServer

Make = Callable[..., Installation]


def test_list_has_every_queue_with_its_depths(staffed: Installation, admin: Browser) -> None:
    page = admin.get("/queues").html
    for queue in staffed.runtime.registry.queues:
        assert f'href="/dashboard/queues/{queue}"' in page
    admin.get("/queues/nonsense", 404)


def test_queue_is_paused_by_its_types_and_resumed(staffed: Installation, admin: Browser) -> None:
    names = sorted(declared.name for declared in staffed.runtime.registry if declared.queue == "deadly")
    assert "say why" in admin.post("/queues/deadly/pause", 400, why="").html
    page = admin.post("/queues/deadly/pause", why="a <bad> day").html
    assert f"Paused: {', '.join(names)}" in page
    assert "a &lt;bad&gt; day" in page
    assert staffed.runtime.inspection.paused() == names
    assert "deadly" in admin.get("/queues").html.split("paused</span>")[1]
    [(what, detail)] = staffed.rows("SELECT about, detail FROM sytq_audit ORDER BY id DESC LIMIT 1")
    assert (what, detail) == ("/dashboard/queues/deadly/pause", "a <bad> day")
    assert f"Resumed: {', '.join(names)}" in admin.post("/queues/deadly/resume").html
    assert staffed.runtime.inspection.paused() == []


def test_only_admins_pause_a_queue(staffed: Installation) -> None:
    operator = browse_as(staffed, "ann", "read", "operate", "submit")
    assert "/queues/deadly/pause" not in operator.get("/queues/deadly").html
    operator.post("/queues/deadly/pause", 403, why="mine")
    assert staffed.runtime.operator.pauses() == []


@pytest.mark.faults
def test_pages_say_what_is_missing_while_a_store_is_away(make_installation: Make, own_redis: RedisServer) -> None:
    installation = make_installation("", own_redis.url)
    installation.start_api()
    browser = browse(installation)
    browser.get("/types/plain/new")
    own_redis.stop()
    for path in ("/queues", "/queues/plain", "/workers", "/limiters", "/limiters/one?name=provider:a"):
        assert "Redis does not answer" in browser.get(path).html, path
    for path in ("/types", "/types/plain", "/schedules"):
        assert "does not answer" not in browser.get(path).html, path
    page = browser.post("/types/plain/pause", why="Redis is down").html
    assert "holds as soon as Redis is back" in page
    assert "Redis is down" in page
    assert [row.type for row in installation.runtime.operator.pauses()] == ["plain"]

"""Workers: what each says of itself, and what it runs now."""

from __future__ import annotations

from tests.api.dashboard.browser import Browser, browse_as
from tests.installation import Installation
from tests.servers import poll


def test_worker_is_shown_with_what_it_runs(staffed: Installation, admin: Browser) -> None:
    staffed.hold("mine", "theirs")
    mine = staffed.submit("gentle", "mine", owner="ann")
    theirs = staffed.submit("gentle", "theirs", owner="bob")
    for task in (mine, theirs):
        staffed.wait_state(task, "running")
    # Its card travels with the heartbeat.
    poll(lambda: "alive" in admin.get("/workers").html, message="the worker is alive")
    page = admin.get("/workers").html
    (worker,) = staffed.request("GET", "/v2/workers", headers=admin.headers).json["workers"]
    assert str(worker["pid"]) in page
    assert worker["memory_bytes"] > 16 * 2**20
    assert " MiB</td>" in page
    assert f"/dashboard/tasks/{mine}" in page and f"/dashboard/tasks/{theirs}" in page
    seen = browse_as(staffed, "ann", "read").get("/workers").html
    assert f"/dashboard/tasks/{mine}" in seen
    assert theirs not in seen
    staffed.release("mine", "theirs")
    for task in (mine, theirs):
        staffed.wait_state(task, "succeeded")
    poll(lambda: "No task runs." in admin.get("/workers").html, message="nothing runs")


def test_worker_that_left_within_the_hour_is_greyed(staffed: Installation, admin: Browser) -> None:
    redis, keys = staffed.runtime.redis, staffed.runtime.keys
    redis.ask("ZADD", keys.workers, round((redis.time() - 600) * 1000), "old-1-aa")
    page = admin.get("/workers").html
    redis.ask("ZREM", keys.workers, "old-1-aa")
    assert '<tr class="muted">' in page
    assert "old-1-aa" in page
    assert "gone</span>" in page

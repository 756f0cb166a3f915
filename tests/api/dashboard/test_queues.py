"""Queues: their depths and limits, pause and resume of all types of one."""

from __future__ import annotations

from collections.abc import Callable

from tests.api.dashboard.browser import Browser, browse_as
from tests.installation import Installation

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

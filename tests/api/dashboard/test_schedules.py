"""Schedules: next and last runs, trigger, pause and resume."""

from __future__ import annotations

import datetime as dt
import json

from sytq.ledger.schedules import Schedules
from sytq.schedule import tick_id
from tests.api.dashboard.browser import Browser, browse_as
from tests.installation import Installation


def test_next_runs_are_shown_in_their_zone_and_in_utc(admin: Browser) -> None:
    page = admin.get("/schedules").html
    assert page.count(" 03:00:00 CE") == 5
    assert "nightly" in page


def test_last_run_leads_to_its_task_for_who_may_see_it(staffed: Installation, admin: Browser) -> None:
    schedules = Schedules(staffed.runtime.database)
    tick = dt.datetime.now(dt.UTC).replace(microsecond=0)
    for begin in (schedules.begin, schedules.begin_anew):  # the worker may have begun it before
        begin("nightly", tick, "0 3 * * * Europe/Berlin")
    task = staffed.prepare("plain", "nightly", id=tick_id("nightly", tick))
    staffed.runtime.submitter.submit([task])
    assert f"/dashboard/tasks/{task.id}" in admin.get("/schedules").html
    assert task.id not in browse_as(staffed, "ann", "read").get("/schedules").html


def test_trigger_submits_one_task_for_one_form(staffed: Installation, admin: Browser) -> None:
    page = admin.get("/schedules/nightly/trigger")
    assert "&lt;nightly&gt;" in page.html
    form = page.form("/trigger").fields
    first, second = (admin.post("/schedules/nightly/trigger", **form).path for _ in range(2))
    assert first == second
    task = staffed.row(first.rpartition("/")[2])
    assert json.loads(task.payload)["name"] == "<nightly>"
    [(detail,)] = staffed.rows("SELECT detail FROM sytq_audit WHERE about LIKE '%trigger' ORDER BY id LIMIT 1")
    assert detail == task.id
    again = admin.post("/schedules/nightly/trigger", **admin.get("/schedules/nightly/trigger").form("/trigger").fields)
    assert again.path != first


def test_pause_needs_a_reason_and_ends_with_resume(staffed: Installation, admin: Browser) -> None:
    assert "say why" in admin.post("/schedules/nightly/pause", 400, why="").html
    assert "the night off" in admin.post("/schedules/nightly/pause", why="the night off").html
    assert Schedules(staffed.runtime.database).rows()["nightly"].paused_why == "the night off"
    assert "nightly is resumed" in admin.post("/schedules/nightly/resume").html
    admin.post("/schedules/nonsense/pause", 404, why="x")


def test_only_admins_trigger_and_pause(staffed: Installation) -> None:
    operator = browse_as(staffed, "ann", "read", "operate", "submit")
    page = operator.get("/schedules").html
    assert "Trigger now" not in page
    assert "/pause" not in page
    operator.post("/schedules/nightly/pause", 403, why="x")
    operator.post("/schedules/nightly/trigger", 403)

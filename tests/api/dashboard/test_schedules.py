"""Schedules: next and last runs, trigger, pause and resume."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sytq.ledger.schedules import Schedules
from sytq.schedule import tick_id
from tests.api.dashboard.browser import Browser, Form
from tests.installation import Installation
from tests.servers import RedisServer


@pytest.fixture(scope="module")
def staffed(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> Iterator[Installation]:
    """The API with a schedule in Berlin, without a worker."""
    folder: Path = tmp_path_factory.mktemp("schedules")
    nightly = {"type": "plain", "cron": "0 3 * * *", "timezone": "Europe/Berlin"}
    nightly["payload"] = {"journal": str(folder / "journal"), "name": "<nightly>"}  # type: ignore[assignment]
    settings = {"SYTQ_AUTH__ENABLED": "true", "SYTQ_REDIS__PREFIX": uuid.uuid4().hex}
    settings["SYTQ_SCHEDULES"] = json.dumps({"nightly": nightly, "cleanup": {"enabled": False}})
    made = Installation(folder, f"sqlite:///{folder / 's.db'}", redis_server.url, **settings)
    try:
        made.start_api()
        yield made
    finally:
        made.close()


def test_next_runs_are_shown_in_their_zone_and_in_utc(admin: Browser) -> None:
    page = admin.get("/schedules")
    assert page.count(" 03:00:00 CE") == 5
    assert "nightly" in page


def test_last_run_leads_to_its_task_for_who_may_see_it(
    staffed: Installation, admin: Browser, log_in: Callable[..., Browser]
) -> None:
    tick = dt.datetime(2026, 7, 1, 1, tzinfo=dt.UTC)
    schedules = Schedules(staffed.runtime.database)
    schedules.begin("nightly", tick, "0 3 * * * Europe/Berlin")
    task = staffed.prepare("plain", "nightly", id=tick_id("nightly", tick))
    staffed.runtime.submitter.submit([task])
    assert f"/dashboard/tasks/{task.id}" in admin.get("/schedules")
    assert task.id not in log_in("ann", "read").get("/schedules")


def test_trigger_submits_one_task_for_one_form(staffed: Installation, admin: Browser) -> None:
    page = admin.get("/schedules/nightly/trigger")
    assert "&lt;nightly&gt;" in page
    form = Form(page).data
    first, second = (admin.post("/schedules/nightly/trigger", form).headers["location"] for _ in range(2))
    assert first == second
    task = staffed.row(first.rpartition("/")[2])
    assert json.loads(task.payload)["name"] == "<nightly>"
    [(detail,)] = staffed.rows("SELECT detail FROM sytq_audit WHERE about LIKE '%trigger' ORDER BY id LIMIT 1")
    assert detail == task.id
    again = admin.post("/schedules/nightly/trigger", Form(admin.get("/schedules/nightly/trigger")).data)
    assert again.headers["location"] != first


def test_pause_needs_a_reason_and_ends_with_resume(staffed: Installation, admin: Browser) -> None:
    assert "say why" in admin.post("/schedules/nightly/pause", {"why": ""}, status=400).body.decode()
    assert "the night off" in admin.follow(admin.post("/schedules/nightly/pause", {"why": "the night off"}))
    assert Schedules(staffed.runtime.database).rows()["nightly"].paused_why == "the night off"
    assert "nightly is resumed" in admin.follow(admin.post("/schedules/nightly/resume", {}))
    admin.post("/schedules/nonsense/pause", {"why": "x"}, status=404)


def test_only_admins_trigger_and_pause(log_in: Callable[..., Browser]) -> None:
    operator = log_in("ann", "read", "operate", "submit")
    page = operator.get("/schedules")
    assert "Trigger now" not in page
    assert "/pause" not in page
    operator.post("/schedules/nightly/pause", {"why": "x"}, status=403)
    operator.post("/schedules/nightly/trigger", {}, status=403)

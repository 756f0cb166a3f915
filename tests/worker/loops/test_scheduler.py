"""Schedules with real workers: one task per tick, paused and triggered from the command line."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from sytq.broker.connection import Redis
from sytq.config import load
from sytq.ledger.models import Task
from sytq.ledger.schedules import Schedules
from sytq.runtime import build
from sytq.worker.loops.scheduler import Scheduler
from tests.installation import Installation
from tests.servers import poll
from tests.terminal import sytq


@pytest.fixture
def ticking(tmp_path: Path, redis_url: str) -> Iterator[Installation]:
    payload = {"journal": str(tmp_path / "journal"), "name": "tick"}
    made = Installation(
        tmp_path,
        f"sqlite:///{tmp_path / 'sytq.db'}",
        redis_url,
        SYTQ_SCHEDULES__OFTEN=json.dumps({"type": "plain", "every": "1s", "payload": payload}),
        SYTQ_SCHEDULES__NIGHTLY=json.dumps(
            {"type": "plain", "cron": "0 3 * * *", "timezone": "Europe/Berlin", "payload": payload}
        ),
        SYTQ_SCHEDULES__CLEANUP='{"enabled": false}',
    )
    yield made
    made.close()


def schedules(installation: Installation, *arguments: str, status: int = 0) -> str:
    done = sytq("schedules", *arguments, environ=installation.environ)
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def listed(installation: Installation) -> dict[str, Any]:
    return {entry["name"]: entry for entry in json.loads(schedules(installation, "list", "--json"))}


def test_each_tick_submits_one_task_with_several_workers(ticking: Installation) -> None:
    workers = [ticking.start_worker() for _ in range(2)]
    ticking.wait_note("end tick", times=3)
    workers[0].kill()  # perhaps it has the lease of the scheduler: the other worker takes over
    ticking.wait_note("end tick", times=7)
    started = [float(line.split()[2]) for line in ticking.journal.read_text().splitlines() if line.startswith("start")]
    with ticking.runtime.database.connection_context():
        tasks = Task.select().count()
    # One task a second, except for a late tick and a task that the killed worker may have been running.
    assert len({int(moment) for moment in started}) >= len(started) - 2
    assert len(started) <= tasks + 1


def test_a_schedule_is_listed_paused_triggered_and_resumed(ticking: Installation) -> None:
    ticking.start_worker()
    ticking.wait_note("end tick", times=2)
    assert set(listed(ticking)) == {"often", "nightly"}  # the configuration ended that of cleanup
    schedules(ticking, "pause", "often", "--why", "the table is being moved")
    paused = listed(ticking)["often"]["paused"]
    assert paused["why"] == "the table is being moved"
    last = listed(ticking)["often"]["last"]
    task_id = schedules(ticking, "trigger", "often").strip()
    ticking.wait_state(task_id, "succeeded")
    assert listed(ticking)["often"]["last"] == last
    assert "is resumed" in schedules(ticking, "resume", "often")
    assert "was not paused" in schedules(ticking, "resume", "often")
    poll(lambda: listed(ticking)["often"]["last"] > last, message="it ticks again")
    following = dt.datetime.fromisoformat(listed(ticking)["nightly"]["next"][0])
    assert following > dt.datetime.now(dt.UTC)
    assert "nightly" in schedules(ticking, "list")


def test_unknown_schedule_is_refused_with_the_valid_names(ticking: Installation) -> None:
    assert "valid: nightly, often" in schedules(ticking, "trigger", "nosuch", status=1)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ('{"type": "nosuch", "every": "1h"}', "schedules.x: type: 'nosuch' is not a task type"),
        ('{"type": "plain", "every": "1h"}', "schedules.x: journal: Field required"),
        ('{"type": "plain", "cron": "99 * * * *"}', "99 * * * *"),
        ('{"type": "plain"}', "exactly one of every and cron"),
    ],
)
def test_invalid_schedule_fails_the_startup(ticking: Installation, entry: str, words: str) -> None:
    ticking.environ["SYTQ_SCHEDULES__X"] = entry
    assert words in schedules(ticking, "list", status=2)


class Watched:
    """A scheduler in this process, at a time that the test sets."""

    def __init__(self, ticking: Installation, cron: str, now: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._on, self._monkeypatch = ticking, monkeypatch
        self.change(cron)
        self.at(now)

    def change(self, cron: str) -> None:
        """Restart with another expression."""
        self._on.environ["SYTQ_SCHEDULES__NIGHTLY"] = json.dumps(
            {"type": "plain", "cron": cron, "payload": {"journal": "-", "name": "tick"}}
        )
        self._on.environ["SYTQ_SCHEDULES__OFTEN"] = '{"enabled": false}'
        parts = build(load(environ=self._on.environ))
        self._schedules = Schedules(parts.database)
        self._scheduler = Scheduler(parts.redis, parts.keys, "test", parts.registry, parts.submitter, self._schedules)

    def at(self, moment: str) -> list[str]:
        """Let the scheduler look at this time by Redis' clock; return the new tasks' ticks."""
        now = dt.datetime.fromisoformat(moment).replace(tzinfo=dt.UTC)
        self._monkeypatch.setattr(Redis, "time", lambda redis: now.timestamp())
        before = self._ticks()
        self._scheduler.work()
        return [tick for tick in self._ticks() if tick not in before]

    def _ticks(self) -> list[str]:
        with self._on.runtime.database.connection_context():
            rows = Task.select(Task.request_id).order_by(Task.request_id)
            return [row.request_id.removeprefix("schedule:nightly:")[:16] for row in rows]

    @property
    def last(self) -> dt.datetime:
        return self._schedules.rows()["nightly"].last_tick


def test_a_changed_schedule_runs_no_time_of_its_past(ticking: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = Watched(ticking, "30 13 * * *", "2026-11-28T12:00", monkeypatch)
    assert schedule.at("2026-11-28T13:30:01") == ["2026-11-28T13:30"]
    schedule.change("0 16 * * *")
    assert schedule.at("2026-11-29T12:20") == []
    assert schedule.at("2026-11-29T12:21") == []
    assert schedule.at("2026-11-29T16:00") == ["2026-11-29T16:00"]


def test_a_change_is_noticed_before_the_first_tick_of_an_older_row(
    ticking: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Schedules(ticking.runtime.database)
    known.begin("nightly", dt.datetime(2026, 11, 28, 13, 30, tzinfo=dt.UTC))  # as before the column was there
    schedule = Watched(ticking, "30 13 * * *", "2026-11-29T12:00", monkeypatch)
    schedule.change("0 16 * * *")
    assert schedule.at("2026-11-29T12:20") == []
    assert schedule.at("2026-11-29T16:00") == ["2026-11-29T16:00"]


def test_a_schedule_goes_on_after_its_clock_was_ahead(ticking: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = Watched(ticking, "*/10 * * * *", "2026-11-28T12:01", monkeypatch)
    assert schedule.at("2026-11-28T14:02") == ["2026-11-28T14:00"]  # two hours ahead
    with structlog.testing.capture_logs() as told:
        assert schedule.at("2026-11-28T12:03") == []
    assert [(line["log_level"], line["schedule"]) for line in told] == [("warning", "nightly")]
    assert schedule.at("2026-11-28T12:10") == ["2026-11-28T12:10"]
    assert schedule.at("2026-11-28T14:00") == [], "this tick has run, too early"
    assert schedule.at("2026-11-28T14:10") == ["2026-11-28T14:10"]


def test_a_clock_that_differs_by_seconds_repeats_no_tick(
    ticking: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = Watched(ticking, "*/10 * * * *", "2026-11-28T12:09", monkeypatch)
    assert schedule.at("2026-11-28T12:10:02") == ["2026-11-28T12:10"]
    assert schedule.at("2026-11-28T12:09:58") == []  # a replica whose clock is behind
    assert schedule.at("2026-11-28T12:10:01") == []
    assert schedule.last == dt.datetime(2026, 11, 28, 12, 10)


def test_a_last_run_in_the_future_is_told(ticking: Installation) -> None:
    known = Schedules(ticking.runtime.database)
    known.begin("nightly", dt.datetime.now(dt.UTC) + dt.timedelta(hours=2))
    assert listed(ticking)["nightly"]["ahead"] == pytest.approx(7200, abs=60)
    assert "in the future: see `sytq doctor`" in " ".join(schedules(ticking, "list").split())
    found = json.loads(sytq("doctor", "--json", environ=ticking.environ).stdout)["checks"]
    assert any(each["check"] == "schedules" and "nightly last ran" in each["said"] for each in found)

"""Schedules with real workers: one task per tick, paused and triggered from the command line."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sytq.ledger.models import Task
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

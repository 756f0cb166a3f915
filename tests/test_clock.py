"""The time is the middle one of three clocks, and what leaves the house goes by it wherever a process runs."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks
import time_machine

from sytq import clock
from tests.installation import ENGINES, TRIALS, Installation
from tests.receiver import Receiver

OFF = 600.0
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PLUGINS = Path(__file__).parent / "clock_plugins"


@pytest.fixture
def alone() -> Iterator[None]:
    """The clock of this machine is the only one."""
    clock.forget()
    yield
    clock.forget()


def lead() -> float:
    """By how much the time leads this machine's clock."""
    return clock.now() - time.time()


def hear(**leads: float) -> None:
    for server, seconds in leads.items():
        clock.heard(server, time.time() + seconds, time.monotonic())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("heard", "expected"),
    [
        ({}, 0),
        ({"redis": 0.9}, 0),
        ({"redis": OFF, "database": OFF}, OFF),  # this machine is off
        ({"redis": -OFF, "database": -OFF + 0.2}, -OFF + 0.2),
        ({"redis": OFF, "database": 0.1}, 0),  # Redis is off
        ({"redis": 0.1, "database": -OFF}, 0),  # the database is off
        ({"redis": 40 * OFF, "database": OFF}, OFF),  # nobody agrees: the middle one
        ({"redis": OFF}, OFF),  # SQLite has no clock of its own
        ({"database": -OFF}, -OFF),  # Redis is away
        ({"redis": -1.7e9}, 0),  # 1970, and nobody confirms it
        ({"redis": -1.7e9, "database": 0}, 0),
        ({"redis": 2.5e9, "database": -1.7e9}, 0),
    ],
)
def test_time_is_the_middle_one_of_three_clocks(alone: None, heard: dict[str, float], expected: float) -> None:
    hear(**heard)
    assert lead() == pytest.approx(expected, abs=0.05)
    assert clock.utc().timestamp() == pytest.approx(clock.now(), abs=0.05)


def test_clock_at_the_edge_of_the_tolerance_is_corrected_once(alone: None) -> None:
    said = []
    for seconds in (1.1, 0.9, 1.1, 0.9, 0.6, 1.1, 0.3, 0.9):
        hear(redis=seconds, database=seconds)
        said.append(clock._corrected)
    assert said == [True] * 6 + [False] * 2


def test_an_answer_that_took_long_tells_no_time(alone: None) -> None:
    clock.heard("redis", time.time() + OFF, time.monotonic() - 1.5)
    assert lead() == pytest.approx(0, abs=0.05)


def test_time_goes_on_while_this_machines_clock_is_set(alone: None) -> None:
    hear(redis=0, database=0)
    before = clock.now()
    with time_machine.travel(dt.datetime.now(dt.UTC) + dt.timedelta(seconds=OFF), tick=True):
        assert clock.now() == pytest.approx(before, abs=0.5)  # NTP or a person set it a moment ago
        hear(redis=0, database=0)  # and the servers say that it is right
        assert lead() == pytest.approx(0, abs=0.05)


def test_what_servers_said_long_ago_is_forgotten(alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    hear(redis=OFF)
    monkeypatch.setattr(clock, "_right", (clock._right[0], time.monotonic() - 1))  # type: ignore[index]
    assert lead() == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("off", [OFF, -OFF])
def test_times_that_leave_a_process_are_right_while_its_clock_is_off(
    make_installation: Callable[..., Installation], request: pytest.FixtureRequest, engine: str, off: float
) -> None:
    url = {"database_url": request.getfixturevalue("mysql_url")} if engine == "mysql" else {}
    settings: dict[str, Any] = {
        "SYTQ_PLUGINS__PATHS": f'["{PLUGINS}", "{TRIALS}"]',
        "SYTQ_OUTBOUND__ALLOW_NETWORKS": '["127.0.0.0/8"]',
        "SYTQ_WORKER__RETRY_INTERVAL": "200ms",
        "SYTQ_WEBHOOK__SECRET": SECRET,
    }
    installation = make_installation(**url, **settings)
    worker = installation.start_worker(CLOCK_OFF=str(off))
    installation.start_api(CLOCK_OFF=str(off))
    receiver = Receiver(503, 200)
    # Ten minutes ahead, the first refusal would be older than `max_age`.
    payload = {"url": receiver.url, "body": "{}", "retry": {"first": "1s", "max_age": "1m"}}
    asked = time.time()
    submitted = installation.post("/v2/tasks", {"type": "webhook", "payload": payload, "delay": "1s"})
    assert submitted.status == 202, submitted
    shown = installation.wait_shown(submitted.json["id"], "succeeded", "dead")
    receiver.close()
    assert shown["state"] == "succeeded", shown
    for received in receiver.received:
        standardwebhooks.Webhook(SECRET).verify(received.body, received.headers)
        assert abs(int(received.headers["webhook-timestamp"]) - asked) < 30
    times = ("created_at", "scheduled_at", "started_at", "finished_at")
    for moment in (shown[name] for name in times if shown[name]):
        assert abs(dt.datetime.fromisoformat(moment).timestamp() - asked) < 30, shown
    assert abs(installation.get("/health")["data"]["timestamp"] - asked) < 30
    assert "this machine's clock is off" in worker.text()

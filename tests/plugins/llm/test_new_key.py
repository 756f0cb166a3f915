"""A pause is for the key, address or model that was refused: it ends as soon as the configuration has another one."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sytq_plugins.llm.row import ValuationRecord

from sytq import Fail, Retry, Waiting
from tests.installation import Installation
from tests.plugins.llm.desk import Desk
from tests.provider import Scene, ScriptedProvider, Stage, answers, refuses
from tests.servers import poll

#: At a SIGHUP Dramatiq executes "python".
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
RETIRED = "The model `valuer-1` has been decommissioned and is no longer supported."


def attempt(desk: Desk, id: int, task: str = "") -> Exception | None:
    if not task:
        desk.add_row(id)
        task = desk.submit(id)
    try:
        desk.run(task)
    except (Retry, Fail) as error:
        return error
    return None


@pytest.mark.parametrize(
    ("scene", "limiter", "mended"),
    [
        (refuses(401, "no such key"), "provider:scripted", {"API_KEY": "sk-new"}),
        (refuses(403, "This organization has been disabled."), "provider:scripted", {"API_KEY": "sk-new"}),
        (refuses(402, "Insufficient Balance"), "provider:scripted", {"API_KEY": "sk-of-another-account"}),
        (refuses(404, "Invalid URL (POST /v1/v1/chat)"), "provider:scripted", {"BASE_URL": "BASE_URL?v=2"}),
        (refuses(404, RETIRED), "model:scripted/valuer-1", {"MODEL": "valuer-2"}),
        (refuses(400, "max_tokens: at most 1000"), "model:scripted/valuer-1", {"MAX_TOKENS": "1000"}),
        (refuses(400, "Unsupported parameter: 'top_k'"), "model:scripted/valuer-1", {"EXTRA": '{"top_p": 1}'}),
    ],
)
def test_mended_configuration_is_called_at_once(
    sqlite_desk: Desk, scene: Scene, limiter: str, mended: dict[str, str]
) -> None:
    desk = sqlite_desk
    desk.provider.play(scene)
    assert isinstance(attempt(desk, 1), Waiting)
    assert isinstance(attempt(desk, 2), Waiting)
    assert (len(desk.provider.calls), desk.limiter(limiter).state) == (1, "paused")
    desk.provider.play(answers())
    waiting = desk.line(limiter)
    named = {name: value.replace("BASE_URL", desk.provider.base_url) for name, value in mended.items()}
    desk.configure(**{f"PROVIDERS__SCRIPTED__{name}": value for name, value in named.items()})
    assert [attempt(desk, 0, task) for task in waiting] == [None, None]


def test_changed_limits_and_budgets_do_not_end_a_pause_for_a_refused_key(sqlite_desk: Desk) -> None:
    desk = sqlite_desk
    desk.provider.play(refuses(401, "no such key"))
    assert isinstance(attempt(desk, 1), Waiting)
    desk.configure(
        PROVIDERS__SCRIPTED__LIMITS='{"running": 4}', PROVIDERS__SCRIPTED__CIRCUIT_BREAKER='{"enabled": false}'
    )
    assert isinstance(attempt(desk, 2), Waiting)
    assert len(desk.provider.calls) == 1


def test_redis_holds_no_key_of_a_provider(sqlite_desk: Desk) -> None:
    desk = sqlite_desk
    desk.provider.play(refuses(401, "no such key"))
    attempt(desk, 1)
    redis, keys = desk.runtime.redis, desk.runtime.keys
    stored = [redis.ask("HGETALL", keys.limiters), redis.ask("HGETALL", keys.limiter_settings)]
    stored.append(redis.ask("ZRANGE", keys.configured, 0, -1))
    assert "sk-scripted" not in str(stored)
    assert b"provider:scripted|" in str(stored).encode()


# -- with real workers


class Office(Installation):
    """A provider that accepts some keys, and rows for it; `keys` lists the key of each call."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.provider = ScriptedProvider()
        self.accepted = {"sk-new"}
        self.provider.play(self.checks)
        self.secret = folder / "providers.yaml"
        self.write("sk-old")
        super().__init__(folder, f"sqlite:///{folder / 'sytq.db'}", redis_url, SYTQ_CONFIG=str(self.secret))
        self.rows = 0

    def write(self, key: str) -> None:
        provider = {"base_url": self.provider.base_url, "model": "valuer-1", "api_key": key}
        self.secret.write_text(json.dumps({"providers": {"scripted": provider}}))

    async def checks(self, stage: Stage) -> None:
        known = stage.asked.headers["authorization"].removeprefix("Bearer ") in self.accepted
        await (answers() if known else refuses(401, "no such key"))(stage)

    def keys(self) -> list[str]:
        return [call.headers["authorization"].removeprefix("Bearer ") for call in self.provider.calls]

    def valuate(self, rows: int) -> list[str]:
        numbers = range(self.rows + 1, self.rows + rows + 1)
        self.rows += rows
        records = [{"id": id, "status": "pending", "user_message": "What is it worth?"} for id in numbers]
        prepare = self.runtime.submitter.prepare
        tasks = [prepare("llm", {"table_name": "valuation_records", "id": id}) for id in numbers]
        self.runtime.submitter.submit(tasks, also=lambda: ValuationRecord.insert_many(records).execute())
        return [task.id for task in tasks]

    def all_wait(self, number: int) -> None:
        def waits() -> bool:
            limiter = self.runtime.inspection.limiter("provider:scripted")
            return limiter is not None and limiter.state == "paused" and limiter.waiting == number

        poll(waits, message="every row waits")

    def close(self) -> None:
        super().close()
        self.provider.close()


@pytest.fixture
def office(tmp_path: Path, redis_url: str) -> Iterator[Office]:
    made = Office(tmp_path, redis_url)
    yield made
    made.close()


def test_waiting_rows_go_on_when_a_reloaded_worker_has_a_new_key(office: Office) -> None:
    worker = office.start_worker(PATH=PATH)
    tasks = office.valuate(20)
    office.all_wait(20)
    refused = len(office.keys())
    office.write("sk-new")
    worker.signal_master(signal.SIGHUP)
    rows = [office.wait_state(task, "succeeded", timeout=60) for task in tasks]
    assert {row.attempts for row in rows} == {1}
    assert office.keys()[refused:] == ["sk-new"] * 20


def test_reload_has_the_same_key_tried_again(office: Office) -> None:
    worker = office.start_worker(PATH=PATH)
    tasks = office.valuate(5)
    office.all_wait(5)
    refused = len(office.keys())
    office.accepted.add("sk-old")  # its rights were given back
    worker.signal_master(signal.SIGHUP)
    for task in tasks:
        office.wait_state(task, "succeeded", timeout=60)
    assert office.keys()[refused:] == ["sk-old"] * 5


def test_refused_old_key_holds_up_no_row_of_the_new_worker(office: Office) -> None:
    office.start_worker()
    tasks = office.valuate(12)
    office.all_wait(12)
    refused = len(office.keys())
    office.write("sk-new")
    office.start_worker()  # beside the old one, as in a rolling restart
    tasks += office.valuate(12)
    for task in tasks:
        office.wait_state(task, "succeeded", timeout=60)
    assert office.keys()[refused:] == ["sk-new"] * 24


def test_restart_ends_no_pause_of_a_person(office: Office) -> None:
    office.runtime.limiters.pause("provider:scripted", "ann", "asked to wait")
    worker = office.start_worker(PATH=PATH)
    office.write("sk-new")
    tasks = office.valuate(3)
    office.all_wait(3)
    worker.signal_master(signal.SIGHUP)
    poll(lambda: worker.text().count("worker started") == 2, message="the worker starts again")
    redis, keys = office.runtime.redis, office.runtime.keys
    poll(lambda: str(redis.ask("ZRANGE", keys.configured, 0, -1)).count("provider:scripted|") == 2, message="known")
    office.all_wait(3)
    assert office.keys() == []
    assert office.runtime.limiters.resume("provider:scripted").waiting == 3
    for task in tasks:
        office.wait_state(task, "succeeded")

"""Calls go through limiters that all workers share: limits, the circuit breaker, pauses and wait queues."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from sytq_plugins.llm.row import ValuationRecord

from sytq import Fail, Retry, Waiting
from sytq.broker.waits import WAITS
from sytq.ledger.models import Task
from tests.installation import Installation
from tests.plugins.llm.desk import Desk
from tests.provider import ScriptedProvider, Stage, answers, later, refuses, says
from tests.servers import poll


def attempt(desk: Desk, id: int, task: str = "") -> Exception | None:
    """One attempt for this row; `waiting` lists the tasks in the wait queue."""
    if not task:
        desk.add_row(id)
        task = desk.submit(id)
    try:
        desk.run(task)
    except (Retry, Fail) as error:
        return error
    return None


def waiting(desk: Desk, limiter: str = "provider:scripted") -> list[str]:
    """The tasks in the wait queue, the oldest first."""
    return desk.line(limiter)


def is_waiting(error: Exception | None, words: str) -> bool:
    return isinstance(error, Waiting) and not error.consumes_attempt and words in str(error)


def test_failures_open_the_breaker_and_waiting_consumes_no_attempt(sqlite_desk: Desk) -> None:
    desk = sqlite_desk
    desk.provider.play(refuses(500))
    for id in range(1, 6):
        assert "[unavailable]" in str(attempt(desk, id))
    error = attempt(desk, 6)
    assert is_waiting(error, "waiting for provider:scripted: its circuit breaker is open, 5 of 5 calls failed")
    assert len(desk.provider.calls) == 5
    row = desk.row(6)
    assert (row["status"], row["failed_times"], row["failed_info"]) == ("processing", 0, None)
    assert row["progress_info"] == str(error)


def test_breaker_follows_contract_settings_and_closes_after_probes(sqlite_desk: Desk) -> None:
    desk = sqlite_desk
    breaker = {"enabled": True, "max_requests": 2, "interval": "1m", "timeout": "3s", "fail_threshold": 0.5}
    desk.configure(PROVIDERS__SCRIPTED__CIRCUIT_BREAKER=json.dumps(breaker))
    desk.provider.play(*[refuses(500)] * 4, answers())
    assert [attempt(desk, id) is None for id in range(1, 6)] == [False] * 4 + [True]
    assert is_waiting(attempt(desk, 6), "circuit breaker is open, 4 of 5 calls failed")
    poll(lambda: desk.limiter("provider:scripted").state == "half_open", message="half-open")
    assert attempt(desk, 6, *waiting(desk)) is None
    assert desk.limiter("provider:scripted").state == "half_open"
    assert attempt(desk, 7) is None
    assert desk.limiter("provider:scripted").state == "closed"


def test_disabled_breaker_never_opens(sqlite_desk: Desk) -> None:
    desk = sqlite_desk
    desk.configure(PROVIDERS__SCRIPTED__CIRCUIT_BREAKER__ENABLED="false")
    desk.provider.play(refuses(500))
    assert not any(isinstance(attempt(desk, id), Waiting) for id in range(1, 9))


@pytest.mark.parametrize("status", [400, 422])
def test_client_errors_do_not_open_the_breaker(sqlite_desk: Desk, status: int) -> None:
    sqlite_desk.provider.play(refuses(status))
    assert all(isinstance(attempt(sqlite_desk, id), Fail) for id in range(1, 9))


def test_open_breaker_sends_calls_to_the_fallback(sqlite_desk: Desk) -> None:
    desk = sqlite_desk
    other = ScriptedProvider()
    try:
        settings = json.dumps({"base_url": other.base_url, "model": "other-1"})
        desk.configure(PROVIDERS__OTHER=settings, LLM__PROVIDER="scripted", LLM__FALLBACK='["other"]')
        desk.provider.play(refuses(500))
        assert [attempt(desk, id) for id in range(1, 9)] == [None] * 8
        assert (len(desk.provider.calls), len(other.calls)) == (5, 8)
    finally:
        other.close()


@pytest.mark.parametrize("status", [401, 403])
def test_refused_api_key_pauses_the_provider_for_all_tasks(
    sqlite_desk: Desk, status: int, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    desk = sqlite_desk
    desk.provider.play(refuses(status, "no such key"))
    for id in (1, 2, 3):
        assert is_waiting(attempt(desk, id), f"HTTP {status} from the provider: no such key [unauthorized]")
        assert desk.row(id)["failed_times"] == 0
    assert len(desk.provider.calls) == 1
    # The log goes to stdout or to caplog, as logging is configured by now.
    assert "limiter paused" in capsys.readouterr().out + caplog.text
    desk.runtime.limiters.resume("provider:scripted")  # the operator has fixed the key
    desk.provider.play(answers())
    assert [attempt(desk, 0, task) for task in waiting(desk)] == [None] * 3


def test_provider_without_credit_is_paused_until_its_balance_returns(sqlite_desk: Desk) -> None:
    desk = sqlite_desk
    paths: list[str] = []
    there: dict[str, Any] = {"is_available": False, "balance_infos": [{"currency": "CNY", "total_balance": "0.00"}]}

    async def scene(stage: Stage) -> None:
        paths.append(stage.asked.path)
        if stage.asked.path == "/user/balance":
            assert stage.asked.headers["authorization"] == "Bearer sk-scripted"
            return await says(json.dumps(there), "application/json")(stage)
        await (answers() if there["is_available"] else refuses(402, "Insufficient Balance"))(stage)

    desk.provider.play(scene)
    desk.configure(PROVIDERS__SCRIPTED__BALANCE_URL=desk.provider.base_url.replace("/v1", "/user/balance"))
    assert is_waiting(attempt(desk, 1), "Insufficient Balance [no_credit]")
    assert is_waiting(attempt(desk, 2), "Insufficient Balance [no_credit]")
    with desk.runtime.database.connection_context():
        (balance_check,) = Task.select().where(Task.type == "llm.balance")
    with pytest.raises(Retry, match="no credit") as caught:
        desk.run(balance_check.id)
    assert (caught.value.consumes_attempt, desk.limiter("provider:scripted").state) == (False, "paused")
    there = {"is_available": True}  # all that some gateways say
    assert desk.run(balance_check.id, 2) == {"opened": True}
    assert [attempt(desk, 0, task) for task in waiting(desk)] == [None] * 2
    assert paths == ["/v1/chat/completions", *["/user/balance"] * 2, *["/v1/chat/completions"] * 2]


@pytest.mark.parametrize("status", [404, 200])
def test_balance_check_ends_when_no_balance_is_available(sqlite_desk: Desk, status: int) -> None:
    desk = sqlite_desk
    desk.provider.play(refuses(402), says("[]", "application/json", status))
    desk.configure(PROVIDERS__SCRIPTED__BALANCE_URL=f"{desk.provider.base_url}/balance")
    attempt(desk, 1)
    with desk.runtime.database.connection_context():
        (balance_check,) = Task.select().where(Task.type == "llm.balance")
    assert desk.run(balance_check.id)["opened"] is False


def test_model_limits_apply_beside_the_providers_limits(sqlite_desk: Desk) -> None:
    desk = sqlite_desk
    models = {"valuer-1": {"limits": {"calls": 2}}}
    desk.configure(PROVIDERS__SCRIPTED__MODELS=json.dumps(models), PROVIDERS__SCRIPTED__LIMITS='{"calls": 3}')
    assert [attempt(desk, id) for id in (1, 2)] == [None, None]
    assert is_waiting(attempt(desk, 3), "waiting for model:scripted/valuer-1: 2 of 2 calls in 60 s")
    desk.add_row(4)
    desk.run(desk.submit(4, model="valuer-2"))
    desk.add_row(5)
    with pytest.raises(Waiting, match="waiting for provider:scripted: 3 of 3 calls in 60 s"):
        desk.run(desk.submit(5, model="valuer-2"))


def test_reserved_tokens_are_corrected_by_the_reported_usage(sqlite_desk: Desk) -> None:
    desk = sqlite_desk
    # Each call reserves some 506 tokens and uses 30.
    desk.configure(PROVIDERS__SCRIPTED__LIMITS='{"tokens": 600}', PROVIDERS__SCRIPTED__MAX_TOKENS="500")
    assert [attempt(desk, id) for id in (1, 2, 3)] == [None] * 3
    assert desk.limiter("provider:scripted").units_in_window == 90
    assert is_waiting(attempt(desk, 4), "cost") or desk.limiter("provider:scripted").units_in_window == 120


def test_repeated_call_for_a_cut_answer_needs_no_second_permit(sqlite_desk: Desk) -> None:
    desk = sqlite_desk
    desk.configure(PROVIDERS__SCRIPTED__LIMITS='{"calls": 1}')
    desk.provider.play(answers("Half an", finish="length"), answers())
    assert attempt(desk, 1) is None
    assert len(desk.provider.calls) == 2
    assert is_waiting(attempt(desk, 2), "1 of 1 calls")


def test_valuation_names_its_limiters_where_no_other_provider_can_answer(sqlite_desk: Desk) -> None:
    desk = sqlite_desk

    def named(table: str = "valuation_records", **more: str) -> tuple[str, ...]:
        prepared = desk.runtime.submitter.prepare("llm", {"table_name": table, "id": 1, **more})
        assert prepared.limiters is not None
        return prepared.limiters

    first = ("provider:scripted", "model:scripted/valuer-1")
    assert named() == first
    assert named(model="valuer 2") == first[:1]  # callers cannot fill Redis with names
    assert named(table="unlisted") == ()
    models = json.dumps({"valuer 2": {}})
    steps = [{"name": "a", "prompt": "a", "model": "valuer 2"}, {"name": "b", "prompt": "b", "fallback": ["other"]}]
    desk.configure(
        PROVIDERS__SCRIPTED__MODELS=models,
        PROVIDERS__OTHER=json.dumps({"base_url": desk.provider.base_url, "model": "other-1"}),
        LLM__PROVIDER="scripted",
        LLM__PIPELINES=json.dumps({"two": steps}),
        LLM__TABLES=json.dumps({"valuation_records": {}, "piped": {"pipeline": "two"}}),
    )
    assert (named(), named("piped")) == (first, ("provider:scripted", "model:scripted/valuer_2"))
    desk.configure(
        PROVIDERS__OTHER=json.dumps({"base_url": desk.provider.base_url, "model": "other-1"}),
        LLM__PROVIDER="scripted",
        LLM__FALLBACK='["other"]',
    )
    assert named() == ()  # an unavailable provider is passed over by the attempt
    desk.without_provider()
    assert named() == ()


# -- with real workers


class Crowd(Installation):
    """Rows answered in half a second each, once `go_on` is set, by a provider with a concurrency limit."""

    def __init__(self, folder: Path, redis_url: str, limits: dict[str, Any]) -> None:
        self.provider = ScriptedProvider()
        self.go_on = threading.Event()
        self.provider.play(self.delayed)
        super().__init__(
            folder,
            f"sqlite:///{folder / 'sytq.db'}",
            redis_url,
            SYTQ_PROVIDERS__SCRIPTED__BASE_URL=self.provider.base_url,
            SYTQ_PROVIDERS__SCRIPTED__MODEL="valuer-1",
            SYTQ_PROVIDERS__SCRIPTED__LIMITS=json.dumps(limits),
        )

    def close(self) -> None:
        super().close()
        self.provider.close()

    async def delayed(self, stage: Stage) -> None:
        while not self.go_on.is_set():
            await asyncio.sleep(0.02)
        await later(0.5, answers())(stage)

    def valuate(self, rows: int, first: int = 1) -> list[str]:
        ids = range(first, first + rows)

        def insert() -> None:
            ValuationRecord.insert_many(
                [{"id": id, "status": "pending", "user_message": f"What is {id} worth?"} for id in ids]
            ).execute()

        tasks = [self.runtime.submitter.prepare("llm", {"table_name": "valuation_records", "id": id}) for id in ids]
        self.runtime.submitter.submit(tasks, also=insert)
        return [task.id for task in tasks]


@pytest.mark.faults
def test_workers_never_exceed_the_limit_even_after_one_is_killed(tmp_path: Path, redis_url: str) -> None:
    crowd = Crowd(tmp_path, redis_url, {"running": 4, "adaptive": False})
    try:
        workers = [crowd.start_worker() for _ in range(2)]
        tasks = crowd.valuate(24)
        poll(lambda: len(crowd.provider.calls) == 4, message="the provider is asked")

        def said() -> list[str]:
            with crowd.runtime.database.connection_context():
                return [str(row.progress_info) for row in ValuationRecord.select() if row.status == "processing"]

        poll(lambda: any("waiting for provider:scripted: 4 of 4 run" in text for text in said()), message=said)
        crowd.go_on.set()
        poll(lambda: len(crowd.provider.calls) >= 6, message="further calls are made")
        workers[0].kill()
        for task in tasks:
            row = crowd.wait_state(task, "succeeded", timeout=60)
            assert row.attempts == 1  # neither waiting nor the kill consumed one
        assert crowd.provider.peak <= 4
    finally:
        crowd.close()


@pytest.mark.faults
def test_rows_of_a_paused_and_of_a_full_provider_wait_without_an_attempt(tmp_path: Path, redis_url: str) -> None:
    crowd = Crowd(tmp_path, redis_url, {"running": 2, "adaptive": False, "tokens": 100_000})
    try:
        crowd.start_worker()
        crowd.go_on.set()
        (before,) = crowd.valuate(1)  # the limits are known from now on
        crowd.wait_state(before, "succeeded")
        crowd.go_on.clear()
        limiters, inspection = crowd.runtime.limiters, crowd.runtime.inspection

        def counts() -> tuple[int, int]:
            state = inspection.limiter("provider:scripted")
            return (state.running, state.waiting) if state else (-1, -1)

        limiters.pause("provider:scripted", "ann", "maintenance")
        tasks = crowd.valuate(8, first=2)
        poll(lambda: counts() == (0, 8), message=counts)
        limiters.resume("provider:scripted")
        poll(lambda: len(crowd.provider.calls) == 3, message="two calls are made")
        poll(lambda: counts() == (2, 6), message=counts)
        assert sum(len(crowd.runtime.ledger.attempts(task)) for task in tasks) <= 2
        with crowd.runtime.database.connection_context():
            assert ValuationRecord.select().where(ValuationRecord.status == "pending").count() == 6
        crowd.go_on.set()
        rows = [crowd.wait_state(task, "succeeded") for task in tasks]
        assert [(row.attempts, len(crowd.runtime.ledger.attempts(row.id))) for row in rows] == [(1, 1)] * 8
        assert crowd.provider.peak == 2
        state = inspection.limiter("provider:scripted")
        assert state is not None and state.units_in_window == 9 * 30  # reserved, and corrected by what was used
        (last,) = [json.loads(attempt.detail)[WAITS] for attempt in crowd.runtime.ledger.attempts(rows[-1].id)]
        assert last["limiter"] == "provider:scripted"  # for the task's spans
    finally:
        crowd.close()


@pytest.mark.faults
def test_refusal_for_ever_is_asked_at_growing_distance_until_the_tasks_age(tmp_path: Path, redis_url: str) -> None:
    crowd = Crowd(tmp_path, redis_url, {})
    try:
        crowd.provider.play(refuses(429, "slow down", retry_after="1"))
        crowd.start_worker(SYTQ_TYPES__LLM__RETRY__MAX_AGE="5s")
        (task,) = crowd.valuate(1)
        row = crowd.wait_state(task, "dead", timeout=60)
        assert "slow down [rate_limited] (failed for longer than 5 s" in str(row.error)
        assert len(crowd.provider.calls) <= 4  # at once, after 1 s, after 3 s, and the last one at the age of 5 s
    finally:
        crowd.close()

"""What only a person can mend pauses the provider or its model: rows wait, use no attempt, and go on by themselves."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from sytq_plugins.llm.policy import POLICIES
from sytq_plugins.llm.row import ValuationRecord

from sytq import Fail, Retry, Waiting
from tests.installation import Installation
from tests.plugins.llm.desk import Desk
from tests.provider import Scene, ScriptedProvider, Stage, answers, refuses, says
from tests.servers import poll

ARREARAGE = json.dumps({"error": {"message": "Access denied, account not in good standing.", "code": "Arrearage"}})
RETIRED = "The model `valuer-1` has been decommissioned and is no longer supported."
SECOND = json.dumps({"valuer-2": {}})


def attempt(desk: Desk, id: int, **more: str) -> Exception | None:
    """One attempt for a new row."""
    desk.add_row(id)
    try:
        desk.run(desk.submit(id, **more))
    except (Retry, Fail) as error:
        return error
    return None


def of_model(name: str, scene: Scene) -> Scene:
    """`scene` for calls of this model, an answer for all others."""

    async def chooses(stage: Stage) -> None:
        await (scene if stage.asked.body["model"] == name else answers())(stage)

    return chooses


@pytest.mark.parametrize(
    ("scene", "kind", "todo"),
    [
        (says(ARREARAGE, "application/json", 400), "no_credit", "pay, or raise the limit at the provider"),
        (refuses(400, "This organization has been disabled."), "unauthorized", "renew providers.scripted.api_key"),
        (refuses(404, "Invalid URL (POST /v1/v1/chat/completions)"), "no_path", "correct providers.scripted.base_url"),
        (refuses(301, location="https://elsewhere.example/v1"), "redirect", "correct providers.scripted.base_url"),
    ],
)
def test_rows_wait_for_a_person_and_go_on_by_themselves(
    sqlite_desk: Desk, monkeypatch: pytest.MonkeyPatch, scene: Scene, kind: str, todo: str
) -> None:
    desk = sqlite_desk
    monkeypatch.setitem(POLICIES, kind, dataclasses.replace(POLICIES[kind], seconds=1.0))
    desk.provider.play(scene)
    for id in (1, 2, 3):
        error = attempt(desk, id)
        assert isinstance(error, Waiting) and f"[{kind}]: {todo}" in str(error), error
        row = desk.row(id)
        assert (row["failed_times"], row["progress_info"]) == (0, str(error))
    assert len(desk.provider.calls) == 1
    desk.provider.play(answers())
    poll(lambda: desk.limiter("provider:scripted").state == "closed", message="the pause ends")
    assert [desk.run(task)["model"] for task in desk.line("provider:scripted")] == ["scripted-1"] * 3


def test_retired_model_pauses_no_other_model_of_the_provider(sqlite_desk: Desk) -> None:
    desk = sqlite_desk
    desk.configure(PROVIDERS__SCRIPTED__MODELS=SECOND)
    desk.provider.play(of_model("valuer-1", refuses(400, RETIRED)))
    for id in (1, 2):
        error = attempt(desk, id)
        assert isinstance(error, Waiting) and "waiting for model:scripted/valuer-1: " in str(error), error
        assert "[no_model]: name a model that providers.scripted has" in str(error)
    assert attempt(desk, 3, model="valuer-2") is None
    assert [call.body["model"] for call in desk.provider.calls] == ["valuer-1", "valuer-2"]


def test_fallback_answers_at_once_for_a_retired_model(sqlite_desk: Desk) -> None:
    desk = sqlite_desk
    desk.configure(LLM__FALLBACK='["scripted/valuer-2"]')
    desk.provider.play(of_model("valuer-1", refuses(400, RETIRED)))
    assert [attempt(desk, id) for id in (1, 2)] == [None, None]
    assert [call.body["model"] for call in desk.provider.calls] == ["valuer-1", "valuer-2", "valuer-2"]


def test_pause_of_the_fallback_has_no_answer_paid_again_and_again(sqlite_desk: Desk) -> None:
    desk = sqlite_desk
    desk.configure(LLM__FALLBACK='["scripted/valuer-2"]', PROVIDERS__SCRIPTED__MODELS=SECOND)
    desk.provider.play(answers("Half", finish="content_filter"), refuses(400, RETIRED))
    error = attempt(desk, 1)
    assert isinstance(error, Retry) and error.consumes_attempt and "[content_filter]; " in str(error)
    assert desk.limiter("model:scripted/valuer-2").state == "paused"


def test_unknown_model_of_a_caller_is_dead_and_pauses_nothing(sqlite_desk: Desk) -> None:
    desk = sqlite_desk
    desk.provider.play(of_model("valuer-9", refuses(404, "The model `valuer-9` does not exist")))
    error = attempt(desk, 1, model="valuer-9")
    assert isinstance(error, Fail) and "The model `valuer-9` does not exist [no_model]" in str(error)
    assert attempt(desk, 2) is None


def test_context_that_is_too_long_is_dead_and_pauses_nothing(sqlite_desk: Desk) -> None:
    desk = sqlite_desk
    long = "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens"
    desk.provider.play(refuses(400, long), answers())
    error = attempt(desk, 1)
    assert isinstance(error, Fail) and f"{long} [rejected]" in str(error)
    assert attempt(desk, 2) is None


def test_error_after_paid_content_uses_an_attempt(sqlite_desk: Desk) -> None:
    desk = sqlite_desk

    async def breaks(stage: Stage) -> None:
        await stage.head()
        await stage.delta("Half an answer")
        await stage.event(error={"code": 429, "message": "Provider returned error"})
        await stage.end()

    desk.provider.play(breaks)
    error = attempt(desk, 1)
    assert isinstance(error, Retry) and error.consumes_attempt and "[error_in_answer]" in str(error)
    desk.provider.play(says('data: {"error": {"code": 429, "message": "Provider returned error"}}\n\n'))
    error = attempt(desk, 2)
    assert isinstance(error, Retry) and not error.consumes_attempt and "[rate_limited]" in str(error)


def test_worker_asks_again_for_no_row_of_an_unpaid_account(tmp_path: Path, redis_url: str) -> None:
    provider = ScriptedProvider()
    provider.play(says(ARREARAGE, "application/json", 400))
    base = {"SYTQ_PROVIDERS__SCRIPTED__BASE_URL": provider.base_url, "SYTQ_PROVIDERS__SCRIPTED__MODEL": "valuer-1"}
    made = Installation(tmp_path, f"sqlite:///{tmp_path / 'sytq.db'}", redis_url, **base)
    rows = [{"id": id, "status": "pending", "user_message": "What is it worth?"} for id in range(1, 13)]
    tasks = [
        made.runtime.submitter.prepare("llm", {"table_name": "valuation_records", "id": row["id"]}) for row in rows
    ]

    def all_wait() -> bool:
        limiter = made.runtime.inspection.limiter("provider:scripted")
        return limiter is not None and limiter.state == "paused" and limiter.waiting == len(rows)

    try:
        made.start_worker()
        made.runtime.submitter.submit(tasks, also=lambda: ValuationRecord.insert_many(rows).execute())
        poll(all_wait, message="every row waits")
        refused = len(provider.calls)
        assert refused <= len(rows)
        provider.play(answers())
        made.runtime.limiters.resume("provider:scripted")
        assert [made.wait_state(task.id, "succeeded").attempts for task in tasks] == [1] * len(rows)
        assert len(provider.calls) == refused + len(rows)
    finally:
        made.close()
        provider.close()

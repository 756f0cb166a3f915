"""What a second call costs and when there is one: after a cut answer, an unknown word, and a request to wait."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from typing import Any

import pytest
from sytq_plugins.llm.doctor_database import answers as doctor
from sytq_plugins.llm.spend import SpendRow

from sytq.errors import Fail, Retry
from tests.plugins.llm.desk import Desk
from tests.plugins.llm.test_body import BODIES
from tests.provider import REPORT, Scene, ScriptedProvider, Stage, answers, refuses, says

CUT = answers("Half an", finish="length", usage=None)


def rejects(words: str, status: int = 400) -> Scene:
    return refuses(status, words)


def asked(desk: Desk, *names: str) -> list[Any]:
    """These parameters of each call."""
    found = [tuple(call.body.get(name) for name in names) for call in desk.provider.calls]
    return [values[0] for values in found] if len(names) == 1 else found


def error_of(desk: Desk, *scenes: Scene) -> str:
    """The error of a row's one attempt, which ends it."""
    desk.provider.play(*scenes)
    desk.add_row()
    with pytest.raises(Fail) as caught:
        desk.run(desk.submit())
    assert desk.row()["failed_info"] == str(caught.value)
    return str(caught.value)


def test_answer_costs_one_call_in_whatever_form_it_comes(sqlite_desk: Desk) -> None:
    desk = sqlite_desk
    for id, (name, body) in enumerate(BODIES.items(), start=1):
        desk.provider.play(says(body, "application/json" if id % 2 else "text/event-stream"))
        desk.add_row(id)
        desk.run(desk.submit(id))
        assert desk.row(id)["report"] == REPORT, name
        assert len(desk.provider.calls) == id, name


# -- a cut answer

BOUNDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "max_tokens": ({}, {"max_tokens": 200}),
    "max_completion_tokens": ({"max_tokens": None, "max_completion_tokens": 3000}, {"max_completion_tokens": 6000}),
    "max_tokens of extra": ({"max_tokens": 50}, {"max_tokens": 100}),
    "both": ({"max_completion_tokens": 70}, {"max_tokens": 200, "max_completion_tokens": 140}),
    "max_output_tokens": ({"max_tokens": None, "max_output_tokens": 70}, {"max_output_tokens": 140}),
    "inside another parameter": (
        {"max_tokens": None, "options": {"num_predict": 50, "top_k": 3}, "generationConfig": {"maxOutputTokens": 70}},
        {"options": {"num_predict": 100, "top_k": 3}, "generationConfig": {"maxOutputTokens": 140}},
    ),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_second_call_asks_for_more_whatever_bounds_the_answer(sqlite_desk: Desk, name: str) -> None:
    extra, wanted = BOUNDS[name]
    desk = sqlite_desk
    desk.configure(PROVIDERS__SCRIPTED__MAX_TOKENS="100", PROVIDERS__SCRIPTED__EXTRA=json.dumps(extra))
    desk.provider.play(CUT, answers())
    desk.add_row()
    desk.run(desk.submit())
    assert desk.row()["report"] == REPORT
    first, second = (call.body for call in desk.provider.calls)
    assert {parameter: second[parameter] for parameter in wanted} == wanted
    assert {parameter: value for parameter, value in first.items() if parameter not in wanted} == {
        parameter: value for parameter, value in second.items() if parameter not in wanted
    }


def test_answer_cut_twice_says_at_how_many_tokens(sqlite_desk: Desk) -> None:
    sqlite_desk.configure(PROVIDERS__SCRIPTED__MAX_TOKENS="100")
    assert "the answer was cut at 200 tokens when asked for more; raise max_tokens" in error_of(sqlite_desk, CUT, CUT)
    assert len(sqlite_desk.provider.calls) == 2


def test_answer_cut_without_a_bound_is_not_asked_for_again(sqlite_desk: Desk) -> None:
    sqlite_desk.configure(PROVIDERS__SCRIPTED__EXTRA='{"max_tokens": null}')
    assert "tokens, by a limit of the provider: the request sets none [length]" in error_of(sqlite_desk, CUT)
    assert len(sqlite_desk.provider.calls) == 1


#: The words in which providers say how much they give -> the limit that is asked for then, None for no further call.
TOO_MANY = {
    "DeepSeek": ("Invalid max_tokens value, the valid range of max_tokens is [1, 8192]", 8192),
    "DashScope": ("<400> InternalError.Algo.InvalidParameter: Range of max_tokens should be [1, 8192]", 8192),
    "OpenAI": ("max_tokens is too large: 10000. This model supports at most 8192 completion tokens, whereas you"
               " provided 10000.", 8192),
    "Anthropic": ("max_tokens: 10000 > 8192, which is the maximum allowed number of output tokens", 8192),
    "Groq": ("`max_tokens` must be less than or equal to `8192`, the maximum value for `max_tokens`", 8192),
    "the limit was asked for already": ("Range of max_tokens should be [1, 5000]", None),
    "no number": ("max_tokens is too large", None),
}  # fmt: skip


@pytest.mark.parametrize("name", TOO_MANY)
def test_provider_that_gives_no_more_room_does_not_hide_the_cut(sqlite_desk: Desk, name: str) -> None:
    desk = sqlite_desk
    words, limit = TOO_MANY[name]
    desk.configure(PROVIDERS__SCRIPTED__MAX_TOKENS="5000")
    error = error_of(desk, CUT, rejects(words), CUT)
    assert "the answer was cut at" in error
    assert words not in error
    assert error.endswith("[length]")
    assert asked(desk, "max_tokens") == [5000, 10000, *([limit] if limit else [])]
    assert f"cut at {limit or 5000} tokens" in error
    desk.runtime.limiters.resume("provider:scripted")
    assert desk.limiter("provider:scripted").state != "paused"


def test_answer_that_fits_the_providers_maximum_is_the_report(sqlite_desk: Desk) -> None:
    desk = sqlite_desk
    desk.configure(PROVIDERS__SCRIPTED__MAX_TOKENS="5000")
    desk.provider.play(CUT, rejects("Range of max_tokens should be [1, 8192]"), answers())
    desk.add_row()
    desk.run(desk.submit())
    assert desk.row()["report"] == REPORT
    assert asked(desk, "max_tokens") == [5000, 10000, 8192]


def test_attempt_that_paid_for_a_cut_answer_is_used_up_by_a_refusal(sqlite_desk: Desk) -> None:
    sqlite_desk.provider.play(CUT, refuses(429, retry_after="7"))
    sqlite_desk.add_row()
    with pytest.raises(Retry) as caught:
        sqlite_desk.run(sqlite_desk.submit())
    assert caught.value.consumes_attempt
    assert 7 <= float(caught.value.after or 0) < 8


def test_budget_without_room_for_the_second_call_is_looked_at_the_next_day(sqlite_desk: Desk) -> None:
    desk = sqlite_desk
    prices = {"valuer-1": {"prices": [{"input": "0", "output": "1"}]}}
    budget = {"PROVIDERS__SCRIPTED__MODELS": json.dumps(prices), "PROVIDERS__SCRIPTED__BUDGET": "0.005"}
    desk.configure(PROVIDERS__SCRIPTED__MAX_TOKENS="4000", **budget)
    desk.provider.play(answers("Half an", finish="length"))
    desk.add_row()
    with pytest.raises(Retry, match="has no room") as caught:
        desk.run(desk.submit())
    now = dt.datetime.now(dt.UTC)
    left = (now.replace(hour=0, minute=0, second=0, microsecond=0) + dt.timedelta(days=1) - now).total_seconds()
    assert left - 60 <= float(caught.value.after or 0) <= left + 60
    assert len(desk.provider.calls) == 1


# -- a finish_reason that nobody knows


def test_unknown_finish_reason_costs_one_more_call_and_is_named(
    sqlite_desk: Desk, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    error = error_of(sqlite_desk, answers(finish="banana"))
    said = "finish_reason 'banana' is not known; providers.scripted.finish_reasons says what words mean"
    assert error == f"scripted: {said} [other_finish_reason]"
    assert len(sqlite_desk.provider.calls) == 2
    logged = capsys.readouterr().out + caplog.text
    assert "finish_reason not accepted" in logged
    assert "banana" in logged


def test_second_call_after_an_unknown_finish_reason_may_succeed(sqlite_desk: Desk) -> None:
    sqlite_desk.provider.play(answers(finish="banana"), answers())
    sqlite_desk.add_row()
    sqlite_desk.run(sqlite_desk.submit())
    assert sqlite_desk.row()["report"] == REPORT


def test_configured_finish_reason_is_accepted_at_the_first_call(sqlite_desk: Desk) -> None:
    sqlite_desk.configure(PROVIDERS__SCRIPTED__FINISH_REASONS='{"Banana-Split": "stop"}')
    sqlite_desk.provider.play(answers(finish="banana_split"))
    sqlite_desk.add_row()
    sqlite_desk.run(sqlite_desk.submit())
    assert sqlite_desk.row()["report"] == REPORT
    assert len(sqlite_desk.provider.calls) == 1


def test_fallback_is_the_one_further_call_after_an_unknown_finish_reason(sqlite_desk: Desk) -> None:
    desk, second, third = sqlite_desk, ScriptedProvider(), ScriptedProvider()
    try:
        second.play(answers(finish="kiwi"))
        more = {"PROVIDERS__B": json.dumps({"base_url": second.base_url, "model": "b"}),
                "PROVIDERS__C": json.dumps({"base_url": third.base_url, "model": "c"})}  # fmt: skip
        desk.configure(LLM__PROVIDER="scripted", LLM__FALLBACK='["b", "c"]', **more)
        error = error_of(desk, answers(finish="banana"))
        assert "'banana'" in error
        assert "'kiwi'" in error
        assert [len(provider.calls) for provider in (desk.provider, second, third)] == [1, 1, 0]
    finally:
        second.close()
        third.close()


def test_unknown_finish_reason_in_two_attempts_ends_the_task(sqlite_desk: Desk) -> None:
    desk, second = sqlite_desk, ScriptedProvider()
    try:
        second.play(refuses(500))
        other = json.dumps({"base_url": second.base_url, "model": "b"})
        desk.configure(LLM__PROVIDER="scripted", LLM__FALLBACK='["b"]', PROVIDERS__B=other)
        desk.provider.play(answers(finish="banana"))
        desk.add_row()
        task = desk.submit()
        with pytest.raises(Retry):
            desk.run(task)
        with pytest.raises(Fail):
            desk.run(task, 2)
        assert (len(desk.provider.calls), len(second.calls)) == (2, 1)
    finally:
        second.close()


def test_provider_that_never_says_why_it_ended_costs_two_calls(sqlite_desk: Desk) -> None:
    desk = sqlite_desk
    desk.provider.play(answers(finish=""))
    desk.add_row()
    task = desk.submit()
    with pytest.raises(Retry):
        desk.run(task)
    with pytest.raises(Fail, match=r"without a finish_reason; if this provider never sends one: finish_reasons"):
        desk.run(task, 2)
    desk.configure(PROVIDERS__SCRIPTED__FINISH_REASONS='{"none": "stop"}')
    desk.run(desk.submit())
    assert desk.row()["report"] == REPORT
    assert len(desk.provider.calls) == 3


def test_cut_streams_are_asked_for_again_as_often_as_attempts_allow(sqlite_desk: Desk) -> None:
    sqlite_desk.provider.play(answers(finish=None, usage=None, done=False))
    sqlite_desk.add_row()
    task = sqlite_desk.submit()
    for attempt in (1, 2, 3):
        with pytest.raises(Retry):
            sqlite_desk.run(task, attempt)


def test_doctor_names_providers_whose_answers_a_setting_would_save(desk: Desk) -> None:
    assert list(doctor(desk.runtime.settings)) == []
    desk.provider.play(answers(finish="banana"), answers(finish="banana"), *[CUT] * 2, answers())
    for id in (1, 2, 3):
        desk.add_row(id)
        with contextlib.suppress(Fail):
            desk.run(desk.submit(id))
    cut, unknown = doctor(desk.runtime.settings)
    assert {unknown.check, cut.check} == {"answers of scripted"}
    assert "2 of 5 answers since" in cut.said
    assert "were cut" in cut.said
    assert "raise max_tokens" in cut.todo
    assert "ended with a word that sytq does not know [other_finish_reason]" in unknown.said
    assert "providers.scripted.finish_reasons" in unknown.todo


# -- a provider that asks to wait for ever


def test_delay_that_is_asked_for_again_and_again_grows(desk: Desk) -> None:
    desk.configure(PROVIDERS__SCRIPTED__CIRCUIT_BREAKER__ENABLED="false")
    desk.provider.play(refuses(429, retry_after="1"))
    desk.add_row()
    task = desk.submit()
    delays = []
    for _ in range(9):
        with pytest.raises(Retry) as caught:
            desk.run(task)
        assert not caught.value.consumes_attempt
        delays.append(float(caught.value.after or 0))
    for delay, least in zip(delays, [1, 2, 4, 8, 16, 32, 60, 60, 60], strict=True):
        assert least <= delay <= least * 1.1
    assert desk.row()["failed_times"] == 0


def test_provider_that_asks_for_a_long_delay_gets_it(sqlite_desk: Desk) -> None:
    sqlite_desk.provider.play(refuses(429, retry_after="600"))
    sqlite_desk.add_row()
    task = sqlite_desk.submit()
    for _ in range(3):
        with pytest.raises(Retry) as caught:
            sqlite_desk.run(task)
        assert 600 <= float(caught.value.after or 0) <= 660


def test_waiting_for_a_provider_ends_after_a_day(desk: Desk) -> None:
    desk.provider.play(refuses(429, "slow down", retry_after="1"))
    desk.add_row()
    task = desk.submit()
    with pytest.raises(Retry):
        desk.run(task)
    with desk.runtime.database.connection_context():
        SpendRow.update(began_at=SpendRow.get().began_at - dt.timedelta(hours=25)).execute()
    with pytest.raises(Fail, match=r"HTTP 429 from the provider: slow down \(2 times in 25 h\) \[rate_limited\]"):
        desk.run(task)


def test_waits_of_one_node_do_not_delay_the_next(sqlite_desk: Desk) -> None:
    desk = sqlite_desk
    nodes = [{"name": name, "prompt": name} for name in ("a", "b")]
    desk.configure(LLM__PIPELINES=json.dumps({"p": nodes}), LLM__TABLES='{"valuation_records": {"pipeline": "p"}}')
    refused = refuses(429, retry_after="1")
    desk.provider.play(refused, refused, answers(), refused)
    desk.add_row()
    task = desk.submit()
    delays = []
    for _ in range(3):
        with pytest.raises(Retry) as caught:
            desk.run(task)
        delays.append(round(float(caught.value.after or 0), 1))
    assert delays == [pytest.approx(1, abs=0.2), pytest.approx(2, abs=0.3), pytest.approx(1, abs=0.2)]


def test_part_without_text_is_logged(
    sqlite_desk: Desk, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    async def with_a_part(stage: Stage) -> None:
        await stage.head()
        await stage.delta(content=[{"type": "text", "text": REPORT}, {"type": "hologram"}], finish="stop")
        await stage.end()

    sqlite_desk.provider.play(with_a_part)
    sqlite_desk.add_row()
    sqlite_desk.run(sqlite_desk.submit())
    assert sqlite_desk.row()["report"] == REPORT
    assert "hologram" in capsys.readouterr().out + caplog.text

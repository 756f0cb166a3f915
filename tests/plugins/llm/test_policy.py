"""Every row of the table in docs/llm.md is played by the scripted provider, over real sockets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
from sytq_plugins.llm.answer import Kind
from sytq_plugins.llm.policy import POLICIES

from sytq.errors import Fail, Retry
from tests.plugins.llm.desk import Desk
from tests.provider import (
    REPORT,
    Scene,
    ScriptedProvider,
    answers,
    drops,
    hangs,
    refuses,
    repeats,
    resets,
    says,
    then,
    trickles,
)

DOCUMENT = (Path(__file__).parents[3] / "docs" / "llm.md").read_text(encoding="utf-8")
PROMPT = "the secret prompt of a caller, which stands in no error"
PAGE = "<!doctype html><title>Bad gateway</title>"


class Row(NamedTuple):
    """A row of the table."""

    name: str
    happened: str
    calls: str
    fallback: str
    then: str
    limiter: str


def table() -> Iterator[Row]:
    lines = DOCUMENT.partition("| name | what happened | calls |")[2].partition("\n\n")[0].splitlines()
    for line in lines[2:]:
        yield Row(*(cell.strip().strip("`") for cell in line.strip("|").split("|")))


TABLE = {row.name: row for row in table()}

SCENES: dict[str, list[Scene]] = {
    "rejected": [refuses(status) for status in (400, 413, 414, 422)],
    "unauthorized": [refuses(401), refuses(403)],
    "no_credit": [refuses(402)],
    "no_model": [refuses(410), refuses(400, "Model Not Exist")],
    "bad_parameter": [refuses(400, "Unsupported parameter: 'max_tokens' is not supported with this model.")],
    "no_path": [refuses(404), refuses(405), refuses(501)],
    "rate_limited": [refuses(429)],
    "overloaded": [refuses(498), refuses(503), refuses(529)],
    "unavailable": [refuses(408), refuses(409), refuses(425), refuses(500), refuses(502), refuses(504)],
    "tls": [],  # test_outbound.py
    "proxy": [refuses(407)],
    "redirect": [refuses(307, location="http://127.0.0.1:1/")],
    "network": [resets, drops],
    "broken_off": [then("Some", resets), then("Some", drops)],
    "first_content": [hangs, then("", repeats(": keep-alive\n\n"))],
    "silence": [then("Some", hangs), then("Some", repeats("\n"))],
    "total": [then("Some", trickles)],
    "no_finish_reason": [answers(finish=None), says("data: [DONE]\n\n")],
    "no_resource": [answers(finish="insufficient_system_resource")],
    "other_finish_reason": [answers(finish="tool_calls")],
    "blank": [answers(" \n"), answers("")],
    "error_in_answer": [says('{"error": "overloaded"}', "application/json")],
    "not_json": [says("{", "application/json")],
    "malformed": [says("[]", "application/json")],
    "html": [says(PAGE, "text/html"), says(PAGE), says(PAGE, "text/html", 403)],
    "length": [answers(finish="length")],
    "content_filter": [answers(finish="content_filter")],
    "too_large": [then("", repeats("x" * 100_000, every=0))],
    "schema": [answers("no JSON"), answers('{"prize": 1}')],
}  # fmt: skip
PLAYED = [pytest.param(name, scene, id=f"{name}-{n}") for name in SCENES for n, scene in enumerate(SCENES[name])]


def configure(desk: Desk, name: str, **more: str) -> None:
    if name in ("first_content", "silence", "total"):
        limits = {"first_content": "60s", "silence": "60s", "total": "60s"} | {name: "1s"}
        more |= {f"PROVIDERS__SCRIPTED__{key.upper()}": value for key, value in limits.items()}
    if name == "schema":
        schema = {"type": "object", "required": ["price"]}
        node = {"name": "report", "prompt": "{{ row.user_message }}", "json_schema": schema}
        more |= {"LLM__PIPELINES": json.dumps({"p": [node]})}
        more |= {"LLM__TABLES": '{"valuation_records": {"pipeline": "p"}}'}
    desk.configure(**more)


def test_documented_table_lists_exactly_all_failures() -> None:
    assert sorted(TABLE) == sorted(get_args(Kind)) == sorted(SCENES)


@pytest.mark.parametrize(("name", "scene"), PLAYED)
def test_each_failure_is_handled_as_documented(sqlite_desk: Desk, name: str, scene: Scene) -> None:
    desk, row = sqlite_desk, TABLE[name]
    configure(desk, name)
    desk.provider.play(scene)
    desk.add_row(user_message=PROMPT)
    task = desk.submit()
    with pytest.raises((Fail, Retry)) as caught:
        desk.run(task)
    assert f"[{name}]" in str(caught.value)
    assert POLICIES[name].report == row.limiter  # type: ignore[index]
    assert len(desk.provider.calls) == int(row.calls)
    word = row.then.replace(",", " ").replace(":", " ").split()[0]
    dead = isinstance(caught.value, Fail)
    attempt = dead or caught.value.consumes_attempt
    assert (dead, attempt) == {
        "dead": (True, True),
        "retry": (False, True),
        "wait": (False, False),
        "pause": (False, False),
    }[word]
    if isinstance(caught.value, Retry) and word == "wait":
        assert 3 <= float(caught.value.after or 0) <= 10

    told = desk.row()
    assert (told["status"], told["report"], told["failed_times"]) == ("processing", None, int(attempt))
    assert told["progress_info" if word == "pause" else "failed_info"] == str(caught.value)
    assert "node-0" not in desk.steps(task), "a call that ended with an answer does not count as interrupted"
    for text in (told["failed_info"], told["progress_info"]):
        assert "sk-scripted" not in (text or "")
        assert PROMPT[4:30] not in (text or "")


@pytest.mark.parametrize("name", [name for name in SCENES if SCENES[name]])
def test_fallback_is_called_where_documented(sqlite_desk: Desk, name: str) -> None:
    desk = sqlite_desk
    second = ScriptedProvider()
    try:
        second.play(answers('{"price": 1}' if name == "schema" else REPORT))
        other = {"base_url": second.base_url, "model": "other-1"}
        more = {"LLM__PROVIDER": "scripted", "LLM__FALLBACK": '["other/other-2"]'}
        configure(desk, name, PROVIDERS__OTHER=json.dumps(other), **more)
        desk.provider.play(SCENES[name][0])
        desk.add_row()
        task = desk.submit()
        if TABLE[name].fallback == "yes":
            assert desk.run(task)["provider"] == "other"
            assert desk.row()["status"] == "completed"
            assert [call.body["model"] for call in second.calls] == ["other-2"]
        else:
            with pytest.raises(Fail):
                desk.run(task)
            assert second.calls == []
    finally:
        second.close()


@pytest.mark.parametrize(
    ("first", "second", "counts"),
    [(500, 429, False), (429, 500, False), (401, 500, False), (500, 400, True)],
)
def test_most_lenient_of_several_failures_decides(sqlite_desk: Desk, first: int, second: int, counts: bool) -> None:
    desk = sqlite_desk
    other = json.dumps({"base_url": desk.provider.base_url, "model": "valuer-2"})
    more = {"LLM__PROVIDER": "scripted", "LLM__FALLBACK": '["other"]'}
    desk.configure(PROVIDERS__OTHER=other, **more)
    desk.provider.play(refuses(first), refuses(second))
    desk.add_row()
    with pytest.raises(Retry) as caught:
        desk.run(desk.submit())
    assert caught.value.consumes_attempt is counts
    assert [call.body["model"] for call in desk.provider.calls] == ["valuer-1", "valuer-2"]
    assert f"HTTP {first}" in str(caught.value)
    if first != 401:  # a task that waits for a paused limiter gets the reason of the pause
        assert f"HTTP {second}" in str(caught.value)


DELAYS: dict[str, tuple[Scene, Any]] = {
    "429 with Retry-After": (refuses(429, retry_after="12"), (12, 13.3)),
    "503 with milliseconds": (refuses(503, retry_after_ms="2500"), (2.5, 2.8)),
    "429 with a reset": (refuses(429, x_ratelimit_reset_tokens="6m0s"), (360, 397)),
}


@pytest.mark.parametrize("name", DELAYS)
def test_provider_delay_is_the_minimum_retry_delay(sqlite_desk: Desk, name: str) -> None:
    scene, (shortest, longest) = DELAYS[name]
    sqlite_desk.provider.play(scene)
    sqlite_desk.add_row()
    with pytest.raises(Retry) as caught:
        sqlite_desk.run(sqlite_desk.submit())
    assert shortest <= float(caught.value.after or 0) <= longest


@pytest.mark.parametrize(
    ("scene", "outcome"),
    [
        (refuses(500, x_should_retry="false"), Fail),
        (refuses(429, x_should_retry="false"), Fail),
        (refuses(400, x_should_retry="true"), Retry),
        (refuses(401, x_should_retry="false"), Retry),
    ],
)
def test_provider_can_decide_whether_to_retry(sqlite_desk: Desk, scene: Scene, outcome: type[Exception]) -> None:
    sqlite_desk.provider.play(scene)
    sqlite_desk.add_row()
    with pytest.raises(outcome):
        sqlite_desk.run(sqlite_desk.submit())


def test_cut_answer_is_requested_again_with_double_max_tokens(sqlite_desk: Desk) -> None:
    sqlite_desk.configure(PROVIDERS__SCRIPTED__MAX_TOKENS="100")
    sqlite_desk.provider.play(answers("Half an", finish="length"), answers())
    sqlite_desk.add_row()
    sqlite_desk.run(sqlite_desk.submit())
    assert [call.body["max_tokens"] for call in sqlite_desk.provider.calls] == [100, 200]
    assert sqlite_desk.row()["report"] == REPORT

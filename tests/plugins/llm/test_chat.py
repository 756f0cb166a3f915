"""A call of a chat provider: the accepted answers, and the error kind of every other outcome."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
import tracemalloc
from typing import Any

import pytest
from sytq_plugins.llm.answer import MAX_CONTENT, Answer, ChatError, Reply
from sytq_plugins.llm.chat import Request, complete
from sytq_plugins.llm.config import Provider

from sytq.http.client import Client
from sytq.http.guard import Guard
from tests.provider import (
    REPORT,
    USAGE,
    Scene,
    ScriptedProvider,
    Stage,
    answers,
    drips_headers,
    drops,
    hangs,
    refuses,
    repeats,
    resets,
    says,
    then,
    trickles,
)

KEY = "sk-test-0123456789abcdef"
PROMPT = "A house of 120 square metres in the old town, two floors, built in 1931."
MESSAGES = [{"role": "system", "content": "You are a valuer."}, {"role": "user", "content": PROMPT}]
REQUEST = Request("valuer-1", MESSAGES, max_tokens=77, extra={"user_id": "u1", "temperature": None})


def new_answer() -> Answer:
    return Answer(REQUEST.model, KEY, [message["content"] for message in MESSAGES])


def ask(base_url: str, answer: Answer | None = None, **settings: Any) -> Reply:
    async def call() -> Reply:
        client = Client(Guard())
        try:
            return await complete(client, configured(base_url, **settings), REQUEST, answer or new_answer())
        finally:
            await client.close()

    return asyncio.run(call())


def configured(base_url: str, **settings: Any) -> Provider:
    deadlines = {"first_content": 60, "silence": 60, "total": 60}
    return Provider.model_validate({"base_url": base_url, "api_key": KEY, "model": "valuer-1", **deadlines, **settings})


def failure(base_url: str, **settings: Any) -> ChatError:
    with pytest.raises(ChatError) as caught:
        ask(base_url, **settings)
    assert KEY not in str(caught.value)
    assert PROMPT not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("stream", [True, False])
def test_answer_is_returned_complete_with_its_usage(provider: ScriptedProvider, stream: bool) -> None:
    reply = ask(provider.base_url, stream=stream)
    assert reply == {"content": REPORT, "model": "scripted-1", "finish_reason": "stop", "usage": USAGE}


@pytest.mark.parametrize("stream", [True, False])
def test_request_follows_the_contract(provider: ScriptedProvider, stream: bool) -> None:
    ask(provider.base_url, stream=stream)
    (asked,) = provider.calls
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    expected = {"model": "valuer-1", "messages": MESSAGES, "max_tokens": 77, "stream": stream, "user_id": "u1"}
    assert asked.body == expected | ({"stream_options": {"include_usage": True}} if stream else {})


def test_trailing_slash_of_base_url_is_ignored(provider: ScriptedProvider) -> None:
    ask(f"{provider.base_url}/")
    assert provider.calls[0].path == "/v1/chat/completions"


def test_provider_without_api_key_gets_no_authorization_header(provider: ScriptedProvider) -> None:
    ask(provider.base_url, api_key=None)
    assert "authorization" not in provider.calls[0].headers


def test_connection_is_reused_for_the_next_call(provider: ScriptedProvider) -> None:
    async def twice() -> None:
        client = Client(Guard())
        for _ in range(2):
            await complete(client, configured(provider.base_url), REQUEST, new_answer())
        await client.close()

    asyncio.run(twice())
    assert (len(provider.calls), provider.connections) == (2, 1)


def test_json_in_place_of_the_requested_stream_is_an_answer(provider: ScriptedProvider) -> None:
    choice = {"index": 0, "message": {"content": REPORT}, "finish_reason": "stop"}
    provider.play(says(json.dumps({"choices": [choice]}), "application/json"))
    assert ask(provider.base_url)["content"] == REPORT


def test_characters_split_across_chunks_are_joined(provider: ScriptedProvider) -> None:
    text = "估价报告 🏠 420万"

    async def in_pieces(stage: Stage) -> None:
        await stage.head()
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
        for byte in f"data: {json.dumps({'choices': [choice]}, ensure_ascii=False)}\r\n\r\n".encode():
            await stage.send(bytes([byte]))
        for half in ("\ud83d", "\ude00"):  # one character in two events
            await stage.delta(half)
        await stage.delta(finish="stop")
        await stage.end()

    provider.play(in_pieces)
    assert ask(provider.base_url)["content"] == f"{text}😀"


def test_lone_surrogate_becomes_storable_text(provider: ScriptedProvider) -> None:
    provider.play(answers("price \ud83d"))
    ask(provider.base_url)["content"].encode()


def test_only_the_first_of_several_choices_is_the_report(provider: ScriptedProvider) -> None:
    choices = [
        {"index": 1, "message": {"content": "second"}, "finish_reason": "length"},
        {"index": 0, "message": {"content": "first"}, "finish_reason": "stop"},
    ]
    provider.play(says(json.dumps({"choices": choices}), "application/json"))
    assert ask(provider.base_url, stream=False)["content"] == "first"


# -- unusable answers

PAGE = "<!doctype html><title>Bad gateway</title>"

NOT_AN_ANSWER: dict[str, tuple[Scene, str]] = {
    "length": (answers(finish="length"), "length"),
    "content_filter": (answers(finish="content_filter"), "content_filter"),
    "out of resources": (answers(finish="insufficient_system_resource"), "no_resource"),
    "tool_calls": (answers(finish="tool_calls"), "other_finish_reason"),
    "blank": (answers(" \n\t　"), "blank"),
    "empty": (answers(""), "blank"),
    "no finish_reason": (answers(finish=None), "no_finish_reason"),
    "an error in a 200": (
        says('{"error": {"message": "overloaded"}}', "application/json"),
        "error_in_answer",
    ),
    "an error as text in a 200": (says('{"error": "overloaded"}', "application/json"), "error_in_answer"),
    "HTML": (says(PAGE, "text/html"), "html"),
    "HTML said to be JSON": (says(PAGE, "application/json"), "html"),
    "truncated JSON": (says('{"choices": [{"index": 0, "mess', "application/json"), "not_json"),
    "not an object": (says("[]", "application/json"), "malformed"),
    "no choices": (says("{}", "application/json"), "no_finish_reason"),
    "choices of another kind": (says('{"choices": [7, null]}', "application/json"), "no_finish_reason"),
    "deeply nested": (says("[" * 100_000, "application/json"), "not_json"),
    "an endless body": (then(None, says("x" * (9 << 20), "application/json")), "too_large"),
}
ONLY_STREAMED: dict[str, tuple[Scene, str]] = {
    "an error in the stream": (
        says('data: {"error": {"message": "overloaded", "code": 503}}\n\n'),
        "error_in_answer",
    ),
    "HTML said to be a stream": (says(PAGE), "html"),
    "a truncated event": (says('data: {"choices": [{"index": 0, "del'), "not_json"),
    "an empty stream": (says("\n"), "no_finish_reason"),
    "done without a finish_reason": (says("data: [DONE]\n\n"), "no_finish_reason"),
    "a line without end": (then("", repeats("x" * 100_000, every=0)), "too_large"),
    "a reset in the middle": (then("Some content", resets), "broken_off"),
    "closed in the middle": (then("Some content", drops), "broken_off"),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", NOT_AN_ANSWER)
def test_unusable_answer_is_an_error(provider: ScriptedProvider, name: str, stream: bool) -> None:
    scene, kind = NOT_AN_ANSWER[name]
    provider.play(scene)
    assert failure(provider.base_url, stream=stream).kind == kind
    assert len(provider.calls) == 1


@pytest.mark.parametrize("name", ONLY_STREAMED)
def test_unusable_stream_is_an_error(provider: ScriptedProvider, name: str) -> None:
    scene, kind = ONLY_STREAMED[name]
    provider.play(scene)
    assert failure(provider.base_url).kind == kind


def test_endless_content_uses_bounded_memory(provider: ScriptedProvider) -> None:
    async def floods(stage: Stage) -> None:
        await stage.head()
        while True:
            await stage.delta("x" * 60_000)

    provider.play(floods)
    tracemalloc.start()
    try:
        assert failure(provider.base_url).kind == "too_large"
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * MAX_CONTENT


# -- statuses

STATUSES = {
    301: "redirect", 400: "rejected", 401: "unauthorized", 402: "no_credit", 403: "unauthorized",
    404: "no_path", 405: "no_path", 408: "unavailable", 409: "unavailable", 413: "rejected", 422: "rejected",
    406: "unavailable", 411: "no_path", 421: "no_path", 423: "unavailable", 424: "unavailable", 451: "unauthorized",
    497: "no_path", 499: "unavailable",
    429: "rate_limited", 500: "unavailable", 502: "unavailable", 503: "overloaded", 529: "overloaded",
}  # fmt: skip


@pytest.mark.parametrize("status", STATUSES)
def test_error_has_the_kind_of_its_status_and_the_providers_message(provider: ScriptedProvider, status: int) -> None:
    provider.play(refuses(status, "this\n is   why"))
    error = failure(provider.base_url)
    assert (error.kind, error.status) == (STATUSES[status], status)
    assert str(error) == f"HTTP {status} from the provider: this is why"


@pytest.mark.parametrize(
    "body",
    ["<html>", "{", "[]", "", '{"error": 7}', '{"error": null}', "[" * 100_000, "x" * 100_000],
    ids=["html", "cut", "list", "empty", "number", "null", "nested", "long"],
)
def test_error_without_a_message_shows_its_status(provider: ScriptedProvider, body: str) -> None:
    provider.play(says(body, "application/json", 500) if body else empty_500)
    assert str(failure(provider.base_url)) == "HTTP 500 from the provider"


@pytest.mark.parametrize("status", [400, 403, 418, 502])
def test_page_of_a_gateway_is_no_refusal_of_the_row_and_its_title_is_shown(
    provider: ScriptedProvider, status: int
) -> None:
    provider.play(says(PAGE.replace("Bad", "Bad &amp; sad"), "text/html", status))
    error = failure(provider.base_url)
    assert error.kind in ("html", "unavailable")
    assert str(error) == f"HTTP {status} from the provider with a web page: Bad & sad gateway"


#: The declared compression and the first bytes of a body that is not so.
COMPRESSIONS = [("br", b"\x1b\x00"), ("zstd", b"\x28\xb5"), ("gzip", b"{}"), ("x-gzip", b"\x1f\x8b")]


@pytest.mark.parametrize(("name", "data"), COMPRESSIONS)
def test_unreadable_compression_is_named_and_no_lost_connection(
    provider: ScriptedProvider, name: str, data: bytes
) -> None:
    provider.play(says(data, content_encoding=name))
    error = failure(provider.base_url)
    assert error.kind == "malformed"
    assert "Content-Encoding" in str(error)


async def empty_500(stage: Stage) -> None:
    await stage.head(500)
    await stage.end()


def test_error_carries_the_providers_retry_hints(provider: ScriptedProvider) -> None:
    provider.play(refuses(429, retry_after="7", x_should_retry="false"))
    error = failure(provider.base_url)
    assert (error.after, error.again) == (7, False)


def test_exceeded_quota_is_no_credit_and_not_a_rate_limit(provider: ScriptedProvider) -> None:
    body = {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}
    provider.play(says(json.dumps(body), "application/json", 429))
    assert failure(provider.base_url).kind == "no_credit"


def test_usage_of_a_failed_call_is_kept(provider: ScriptedProvider) -> None:
    provider.play(answers(finish="length"))
    answer = new_answer()
    failure(provider.base_url, answer=answer)
    assert answer.usage == USAGE


def test_error_without_retry_after_carries_no_delay(provider: ScriptedProvider) -> None:
    provider.play(refuses(503))
    error = failure(provider.base_url)
    assert (error.after, error.again) == (None, None)


@pytest.mark.parametrize("status", [200, 400])
def test_provider_message_is_short_and_hides_key_and_prompt(provider: ScriptedProvider, status: int) -> None:
    provider.play(refuses(status, f"bad key {KEY} for '{PROMPT[10:]}' " + "and so on " * 200))
    text = str(failure(provider.base_url))
    assert "bad key *** for '(here it quotes the prompt)" in text
    assert PROMPT[10:34] not in text

    for words in ("no " * 400 + KEY, "\n" * 1196 + KEY, "half a pair: \ud83d"):
        provider.play(refuses(status, words))
        said = str(failure(provider.base_url))
        assert len(said.encode()) < 350 and KEY[:4] not in said


# -- deadlines

LATE: dict[str, tuple[Scene, str]] = {
    "no headers": (hangs, "first_content"),
    "dripped headers": (drips_headers, "first_content"),
    "headers alone": (then("", hangs), "first_content"),
    "keep-alive comments": (then("", repeats(": keep-alive\n\n")), "first_content"),
    "blank lines": (then("", repeats("\n")), "first_content"),
    "empty deltas": (then("", repeats('data: {"choices": [{"delta": {"content": ""}}]}\n\n')), "first_content"),
    "silence": (then("Some", hangs), "silence"),
    "keep-alive after content": (then("Some", repeats(": keep-alive\n\n")), "silence"),
    "an unfinished line after content": (then("Some", repeats("x")), "silence"),
    "a trickle": (then("Some", trickles), "total"),
}  # fmt: skip


@pytest.mark.parametrize("name", LATE)
def test_unfinished_call_fails_at_its_deadline(provider: ScriptedProvider, name: str) -> None:
    scene, kind = LATE[name]
    limits = {"first_content": 60, "silence": 60, "total": 60} | {kind: 1.0}
    provider.play(scene)
    started = time.monotonic()
    error = failure(provider.base_url, **limits)
    assert error.kind == kind
    assert 1.0 <= time.monotonic() - started < 30
    assert provider.closed_by_client.wait(60), "the call goes on at the provider"


async def keep_alive_before_json(stage: Stage) -> None:
    await stage.head(kind="application/json")
    await repeats("\n")(stage)


@pytest.mark.parametrize("scene", [hangs, keep_alive_before_json, drips_headers])
def test_unstreamed_call_has_only_the_total_deadline(provider: ScriptedProvider, scene: Scene) -> None:
    provider.play(scene)
    error = failure(provider.base_url, stream=False, first_content=0.1, silence=0.1, total=0.5)
    assert error.kind == "total"


def test_keep_alive_comments_before_an_answer_are_skipped(provider: ScriptedProvider) -> None:
    async def late(stage: Stage) -> None:
        await stage.head()
        for _ in range(10):
            await stage.send(": keep-alive\n\n")
        await stage.delta(REPORT)
        await stage.delta(finish="stop")
        await stage.end()

    provider.play(late)
    assert ask(provider.base_url)["content"] == REPORT


def test_reasoning_is_neither_silence_nor_report(provider: ScriptedProvider) -> None:
    async def thinks(stage: Stage) -> None:
        await stage.head()
        for _ in range(9):  # 2.7 s, which is longer than the deadlines; each pause has 2 s of slack
            await stage.delta(reasoning_content="hm", content=None)
            await asyncio.sleep(0.3)
        await stage.delta(REPORT)
        await stage.delta(finish="stop")
        await stage.end()

    provider.play(thinks)
    assert ask(provider.base_url, first_content=2.3, silence=2.3, total=60)["content"] == REPORT


@pytest.mark.parametrize("ending", [hangs, resets, drops], ids=["hang", "reset", "drop"])
def test_failure_after_the_finish_reason_keeps_the_answer(provider: ScriptedProvider, ending: Scene) -> None:
    async def ends(stage: Stage) -> None:
        await stage.head()
        await stage.delta(REPORT, finish="stop")
        await ending(stage)

    provider.play(ends)
    assert ask(provider.base_url, silence=0.2)["content"] == REPORT


@pytest.mark.parametrize("ending", [hangs, resets, drops], ids=["hang", "reset", "drop"])
def test_failure_after_whole_json_keeps_the_answer(provider: ScriptedProvider, ending: Scene) -> None:
    async def ends(stage: Stage) -> None:
        await stage.head(kind="application/json")
        await stage.send(json.dumps({"choices": [{"message": {"content": REPORT}, "finish_reason": "stop"}]}))
        await ending(stage)

    provider.play(ends)
    assert ask(provider.base_url, first_content=0.5)["content"] == REPORT


def test_deadline_after_a_cut_answer_is_reported_as_length(provider: ScriptedProvider) -> None:
    async def cut(stage: Stage) -> None:
        await stage.head()
        await stage.delta("Some", finish="length")
        await stage.until_gone()

    provider.play(cut)
    assert failure(provider.base_url, silence=0.2).kind == "length"


# -- connections


def test_a_refused_connection_is_a_network_error() -> None:
    with socket.socket() as unused:  # bound, not listening
        unused.bind(("127.0.0.1", 0))
        error = failure(f"http://127.0.0.1:{unused.getsockname()[1]}/v1")
    assert error.kind == "network"
    assert re.search(r"no connection to 127\.0\.0\.1:\d+: Connection refused", str(error))


def test_an_unknown_host_is_a_network_error() -> None:
    error = failure("http://provider.invalid/v1")
    assert (error.kind, "the provider's host provider.invalid cannot be resolved" in str(error)) == ("network", True)


@pytest.mark.parametrize("ending", [resets, drops], ids=["reset", "closed"])
def test_connection_closed_without_an_answer_is_a_network_error(provider: ScriptedProvider, ending: Scene) -> None:
    provider.play(ending)
    assert failure(provider.base_url).kind == "network"


def test_non_http_answer_is_a_network_error(provider: ScriptedProvider) -> None:
    async def ssh(stage: Stage) -> None:
        await stage.raw(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")

    provider.play(ssh)
    error = failure(provider.base_url)
    assert error.kind == "network"
    assert "SSH-2.0" in str(error)


def test_cancelled_call_closes_its_connection_to_the_provider(provider: ScriptedProvider) -> None:
    async def cancelled() -> None:
        client = Client(Guard())
        call = asyncio.create_task(complete(client, configured(provider.base_url), REQUEST, new_answer()))
        while not provider.calls:
            await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await client.close()

    provider.play(then("Some", hangs))
    asyncio.run(cancelled())
    assert provider.closed_by_client.wait(60)

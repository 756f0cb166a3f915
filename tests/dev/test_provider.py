"""The practice provider: OpenAI's API with answers that are clearly not from a model."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import aiohttp
import pytest
from sytq_plugins.llm.answer import ChatError
from sytq_plugins.llm.chat import Request, complete
from sytq_plugins.llm.config import Provider

from sytq.dev.provider import MODEL, Running, serve
from sytq.http import Client, Guard

T = TypeVar("T")
KEY = {"Authorization": "Bearer anything"}
ASKED = {"model": MODEL, "messages": [{"role": "user", "content": "What is it worth?"}]}


def serving(use: Callable[[Running, aiohttp.ClientSession], Awaitable[T]], seconds: float = 0.02) -> T:
    async def run() -> T:
        provider = await serve(seconds=seconds)
        async with aiohttp.ClientSession(headers=KEY) as session:
            try:
                return await use(provider, session)
            finally:
                await provider.close()

    return asyncio.run(run())


async def ask(provider: Running, **settings: Any) -> Any:
    client = Client(Guard())
    config = {"base_url": provider.base_url, "api_key": "any", "model": MODEL, **settings}
    messages = [{"role": "user", "content": "What is it worth?"}]
    configured = Provider.model_validate(config)
    try:
        return await complete(client, configured, Request(configured.model, messages, configured.max_tokens))
    finally:
        await client.close()


@pytest.mark.parametrize("stream", [True, False])
def test_chat_client_gets_a_complete_answer(stream: bool) -> None:
    async def use(provider: Running, _: aiohttp.ClientSession) -> tuple[Any, int]:
        return await ask(provider, stream=stream), provider.calls

    reply, calls = serving(use)
    assert reply["content"].startswith("Practice valuation (no real model was asked): ")
    assert reply["finish_reason"] == "stop"
    assert reply["usage"]["prompt_tokens"] == 4
    assert reply["usage"]["total_tokens"] == 4 + reply["usage"]["completion_tokens"]
    assert calls == 1


def test_streamed_and_plain_answers_are_equal_and_repeatable() -> None:
    async def use(provider: Running, _: aiohttp.ClientSession) -> set[str]:
        return {(await ask(provider, stream=stream))["content"] for stream in (True, False, True)}

    assert len(serving(use)) == 1


@pytest.mark.parametrize("stream", [True, False])
def test_answer_takes_the_configured_time(stream: bool) -> None:
    async def use(provider: Running, _: aiohttp.ClientSession) -> float:
        started = time.monotonic()
        await ask(provider, stream=stream)
        return time.monotonic() - started

    assert 0.5 <= serving(use, seconds=0.5) < 10  # the time of the whole answer, not of each word


def test_words_arrive_one_by_one() -> None:
    async def use(provider: Running, session: aiohttp.ClientSession) -> list[float]:
        arrivals = []
        body = {**ASKED, "stream": True}
        async with session.post(f"{provider.base_url}/chat/completions", json=body) as response:
            assert response.content_type == "text/event-stream"
            async for line in response.content:
                if line.startswith(b"data: "):
                    arrivals.append(time.monotonic())
        return arrivals

    arrivals = serving(use, seconds=0.5)
    assert len(arrivals) > 20
    assert arrivals[-1] - arrivals[0] > 0.4


def test_max_tokens_ends_the_answer_with_reason_length() -> None:
    async def use(provider: Running, _: aiohttp.ClientSession) -> str:
        with pytest.raises(ChatError) as caught:
            await ask(provider, max_tokens=3)
        return caught.value.kind

    assert serving(use) == "length"


def test_abandoned_call_is_neither_counted_nor_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def use(provider: Running, session: aiohttp.ClientSession) -> int:
        body = {**ASKED, "stream": True}
        async with session.post(f"{provider.base_url}/chat/completions", json=body) as cut:
            await cut.content.readline()
        await ask(provider)  # takes as long as the abandoned call
        async with session.get(provider.base_url.replace("/v1", "/calls")) as answer:
            return int((await answer.json())["calls"])

    assert serving(use, seconds=0.3) == 1
    assert caplog.records == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("{", None),
        ("[]", None),
        (json.dumps({"messages": ASKED["messages"]}), "model"),
        (json.dumps({"model": "m"}), "messages"),
        (json.dumps({"model": "m", "messages": []}), "messages"),
        (json.dumps({"model": "m", "messages": ["hello"]}), "messages"),
        (json.dumps({"model": "m", "messages": [{"role": "user", "content": None}]}), "messages"),
        (json.dumps({**ASKED, "max_tokens": 0}), "max_tokens"),
        (json.dumps({**ASKED, "max_tokens": True}), "max_tokens"),
        (json.dumps({**ASKED, "stream_options": 1}), "stream_options"),
        (b"\xff\xfe{", None),
    ],
)
def test_bad_input_gets_openais_error_object(body: str | bytes, field: str | None) -> None:
    async def use(provider: Running, session: aiohttp.ClientSession) -> tuple[int, Any, int]:
        async with session.post(f"{provider.base_url}/chat/completions", data=body) as answer:
            return answer.status, await answer.json(), provider.calls

    status, answer, calls = serving(use)
    assert (status, calls) == (400, 0)
    assert (answer["error"]["type"], answer["error"]["param"]) == ("invalid_request_error", field)
    assert answer["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", "/v1/chat/completions", {"Authorization": ""}, 401),
        ("POST", "/v1/nothing", KEY, 404),
        ("GET", "/v1/chat/completions", KEY, 405),
    ],
)
def test_http_errors_have_openais_error_object(method: str, path: str, headers: dict[str, str], status: int) -> None:
    async def use(provider: Running, session: aiohttp.ClientSession) -> tuple[int, Any]:
        url = provider.base_url.removesuffix("/v1") + path
        async with session.request(method, url, headers=headers, json=ASKED) as answer:
            return answer.status, await answer.json()

    got, answer = serving(use)
    assert got == status
    assert "message" in answer["error"]


def test_models_endpoint_lists_the_practice_model() -> None:
    async def use(provider: Running, session: aiohttp.ClientSession) -> Any:
        async with session.get(f"{provider.base_url}/models") as answer:
            return await answer.json()

    assert [model["id"] for model in serving(use)["data"]] == [MODEL]


def test_taken_port_is_an_error_and_close_frees_the_port() -> None:
    async def use(provider: Running, _: aiohttp.ClientSession) -> None:
        port = int(provider.base_url.split(":")[2].split("/")[0])
        with pytest.raises(OSError):
            await serve(port=port)
        await provider.close()
        again = await serve(port=port)
        await again.close()

    serving(use)

"""The practice provider: OpenAI's API with answers that are clearly not from a model."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
import pytest
from sytq_plugins.llm.answer import Answer, ChatError
from sytq_plugins.llm.chat import Request, complete
from sytq_plugins.llm.config import Provider

from sytq.dev.listening import serving
from sytq.dev.provider import MODEL, PracticeProvider
from sytq.http.client import Client
from sytq.http.guard import Guard

T = TypeVar("T")
KEY = {"Authorization": "Bearer anything"}
ASKED = {"model": MODEL, "messages": [{"role": "user", "content": "What is it worth?"}]}


@dataclass
class Running:
    provider: PracticeProvider
    url: str
    session: aiohttp.ClientSession


def using(use: Callable[[Running], Awaitable[T]], seconds: float = 0.02) -> T:
    async def run() -> T:
        provider = PracticeProvider(seconds)
        async with serving(provider.app) as url, aiohttp.ClientSession(headers=KEY) as session:
            return await use(Running(provider, f"{url}/v1", session))

    return asyncio.run(run())


async def ask(at: Running, **settings: Any) -> Any:
    client = Client(Guard())
    config = {"base_url": at.url, "api_key": "any", "model": MODEL, **settings}
    messages = [{"role": "user", "content": "What is it worth?"}]
    configured = Provider.model_validate(config)
    try:
        request = Request(configured.model, messages, configured.max_tokens)
        return await complete(
            client, configured, request, Answer(configured.model, configured.key, ["What is it worth?"])
        )
    finally:
        await client.close()


@pytest.mark.parametrize("stream", [True, False])
def test_chat_client_gets_a_complete_answer(stream: bool) -> None:
    async def use(at: Running) -> tuple[Any, int]:
        return await ask(at, stream=stream), at.provider.calls

    reply, calls = using(use)
    assert reply["content"].startswith("Practice valuation (no real model was asked): ")
    assert reply["finish_reason"] == "stop"
    assert reply["usage"]["prompt_tokens"] == 4
    assert reply["usage"]["total_tokens"] == 4 + reply["usage"]["completion_tokens"]
    assert calls == 1


def test_streamed_and_plain_answers_are_equal_and_repeatable() -> None:
    async def use(at: Running) -> set[str]:
        return {(await ask(at, stream=stream))["content"] for stream in (True, False, True)}

    assert len(using(use)) == 1


@pytest.mark.parametrize("stream", [True, False])
def test_answer_takes_the_configured_time(stream: bool) -> None:
    async def use(at: Running) -> float:
        started = time.monotonic()
        await ask(at, stream=stream)
        return time.monotonic() - started

    assert 0.5 <= using(use, seconds=0.5) < 10  # the time of the whole answer, not of each word


def test_words_arrive_one_by_one() -> None:
    async def use(at: Running) -> list[float]:
        arrivals = []
        body = {**ASKED, "stream": True}
        async with at.session.post(f"{at.url}/chat/completions", json=body) as response:
            assert response.content_type == "text/event-stream"
            async for line in response.content:
                if line.startswith(b"data: "):
                    arrivals.append(time.monotonic())
        return arrivals

    arrivals = using(use, seconds=0.5)
    assert len(arrivals) > 20
    assert arrivals[-1] - arrivals[0] > 0.4


def test_max_tokens_ends_the_answer_with_reason_length() -> None:
    async def use(at: Running) -> str:
        with pytest.raises(ChatError) as caught:
            await ask(at, max_tokens=3)
        return caught.value.kind

    assert using(use) == "length"


def test_abandoned_call_is_neither_counted_nor_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def use(at: Running) -> int:
        body = {**ASKED, "stream": True}
        async with at.session.post(f"{at.url}/chat/completions", json=body) as cut:
            await cut.content.readline()
        await ask(at)  # takes as long as the abandoned call
        return at.provider.calls

    assert using(use, seconds=0.3) == 1
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
    async def use(at: Running) -> tuple[int, Any, int]:
        async with at.session.post(f"{at.url}/chat/completions", data=body) as answer:
            return answer.status, await answer.json(), at.provider.calls

    status, answer, calls = using(use)
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
    async def use(at: Running) -> tuple[int, Any]:
        url = at.url.removesuffix("/v1") + path
        async with at.session.request(method, url, headers=headers, json=ASKED) as answer:
            return answer.status, await answer.json()

    got, answer = using(use)
    assert got == status
    assert "message" in answer["error"]


def test_models_endpoint_lists_the_practice_model() -> None:
    async def use(at: Running) -> Any:
        async with at.session.get(f"{at.url}/models") as answer:
            return await answer.json()

    assert [model["id"] for model in using(use)["data"]] == [MODEL]

"""The practice provider: serves the OpenAI chat API on loopback, with deterministic text at the pace of a real one.

Failures are not simulated: the tests have a scripted provider for them.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncIterator
from typing import Any, Literal

from aiohttp import web
from pydantic import BaseModel, Field, ValidationError

from sytq import clock

MODEL = "practice"
_MAX_BODY = 16 << 20


class Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str


class StreamOptions(BaseModel):
    include_usage: bool | None = None


class Question(BaseModel):
    """A request; only fields that the answer needs are checked."""

    model: str = Field(min_length=1)
    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1, strict=True)
    stream: bool | None = None
    stream_options: StreamOptions | None = None


class PracticeProvider:
    """Each answer takes `seconds`, its words streamed one by one. `calls` counts the completed answers, as a provider
    would bill them."""

    def __init__(self, seconds: float = 2.0) -> None:
        self.calls = 0
        self.app = web.Application(client_max_size=_MAX_BODY, middlewares=[_errors_as_json])
        self.app.router.add_post("/v1/chat/completions", self._complete)
        self.app.router.add_get("/v1/models", self._models)
        self._seconds = seconds

    async def _models(self, _: web.Request) -> web.Response:
        model = {"id": MODEL, "object": "model", "owned_by": "sytq"}
        return web.json_response({"object": "list", "data": [model]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        asked = await _question(request)
        words = answer(asked.messages).split(" ")
        said = words[: asked.max_tokens]
        reason = "stop" if len(said) == len(words) else "length"
        prompt = sum(len(message.content.split()) for message in asked.messages)
        usage = {"prompt_tokens": prompt, "completion_tokens": len(said), "total_tokens": prompt + len(said)}
        head = {"id": f"practice-{self.calls}", "created": int(clock.now()), "model": asked.model}
        if asked.stream:
            wanted = asked.stream_options is not None and asked.stream_options.include_usage
            return await _stream(request, self._events(head, said, reason, usage if wanted else None))
        await asyncio.sleep(self._seconds)
        self.calls += 1
        message = {"role": "assistant", "content": " ".join(said)}
        choice = {"index": 0, "message": message, "finish_reason": reason}
        return web.json_response({**head, "object": "chat.completion", "choices": [choice], "usage": usage})

    async def _events(
        self, head: dict[str, Any], words: list[str], reason: str, usage: dict[str, int] | None
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield the chunks of a streamed answer, each at its time."""
        head = {**head, "object": "chat.completion.chunk"}

        def chunk(delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
            return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}

        yield chunk({"role": "assistant", "content": ""})
        for number, word in enumerate(words):
            await asyncio.sleep(self._seconds / len(words))
            yield chunk({"content": f" {word}" if number else word})
        yield chunk({}, reason)
        self.calls += 1
        if usage:
            yield {**head, "choices": [], "usage": usage}


def answer(messages: list[Message]) -> str:
    """The text for these messages: deterministic, and never mistaken for a real valuation."""
    asked = "\n".join(message.content for message in messages if message.role == "user")
    low = 100 + zlib.crc32(asked.encode("utf-8", "surrogatepass")) % 900
    return (
        f"Practice valuation (no real model was asked): the request has {len(asked)} characters in "
        f"{len(asked.split())} words. Estimated value: {low} to {low + low // 4}. These figures are made "
        "from the length and checksum of the request alone; configure a provider for a real answer."
    )


async def _stream(request: web.Request, events: AsyncIterator[dict[str, Any]]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    try:
        await response.prepare(request)
        async for event in events:
            await response.write(f"data: {json.dumps(event)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
    except ConnectionResetError:
        pass  # the client gave up; the call is not counted
    return response


async def _question(request: web.Request) -> Question:
    if not request.headers.get("Authorization", "").startswith("Bearer "):
        raise _refusal(web.HTTPUnauthorized, "no API key: send 'Authorization: Bearer <any key>'")
    try:
        return Question.model_validate(json.loads(await request.read()))
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0]) if first["loc"] else None
        raise _refusal(web.HTTPBadRequest, f"{field or 'the body'}: {first['msg']}", field) from None
    except ValueError:
        raise _refusal(web.HTTPBadRequest, "the body is not JSON") from None


def _refusal(kind: type[web.HTTPError], message: str, field: str | None = None) -> web.HTTPError:
    return kind(text=_error(message, field), content_type="application/json")


def _error(message: str, field: str | None = None) -> str:
    error = {"message": message, "type": "invalid_request_error", "param": field, "code": None}
    return json.dumps({"error": error})


@web.middleware
async def _errors_as_json(request: web.Request, handler: Any) -> web.StreamResponse:
    """Give the router's refusals (path, method, size) the format of all other errors."""
    try:
        refused: web.StreamResponse = await handler(request)
        return refused
    except web.HTTPError as error:
        if error.content_type == "application/json":
            raise
        message = f"{request.method} {request.path}: {error.reason}"
        return web.json_response(text=_error(message), status=error.status)

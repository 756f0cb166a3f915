"""The practice provider: serves the OpenAI chat API on loopback, with deterministic text at the pace of a real one.

Failures are not simulated: the tests have a scripted provider for them.
"""

from __future__ import annotations

import asyncio
import json
import time
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from aiohttp import web

MODEL = "practice"
_MAX_BODY = 16 << 20


@dataclass
class Running:
    """A running provider. `calls` counts the completed answers, as a provider would bill them."""

    base_url: str
    _runner: web.AppRunner
    _practice: _Practice

    @property
    def calls(self) -> int:
        return self._practice.calls

    async def close(self) -> None:
        """Stop serving and cut off calls in progress."""
        await self._runner.cleanup()


async def serve(host: str = "127.0.0.1", port: int = 0, seconds: float = 2.0) -> Running:
    """Serve on `port` (0: a free one); each answer takes `seconds`, its words streamed one by one.

    Raises OSError when the port is taken.
    """
    practice = _Practice(seconds)
    app = web.Application(client_max_size=_MAX_BODY, middlewares=[_errors_as_json])
    app.router.add_post("/v1/chat/completions", practice.complete)
    app.router.add_get("/v1/models", practice.models)
    app.router.add_get("/calls", practice.count)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError:
        await runner.cleanup()
        raise
    bound = runner.addresses[0][1]
    return Running(f"http://{host}:{bound}/v1", runner, practice)


def answer(messages: list[dict[str, Any]]) -> str:
    """The text for these messages: deterministic, and never mistaken for a real valuation."""
    asked = "\n".join(message["content"] for message in messages if message["role"] == "user")
    low = 100 + zlib.crc32(asked.encode("utf-8", "surrogatepass")) % 900
    return (
        f"Practice valuation (no real model was asked): the request has {len(asked)} characters in "
        f"{len(asked.split())} words. Estimated value: {low} to {low + low // 4}. These figures are made "
        "from the length and checksum of the request alone; configure a provider for a real answer."
    )


class _Practice:
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.calls = 0

    async def models(self, _: web.Request) -> web.Response:
        model = {"id": MODEL, "object": "model", "owned_by": "sytq"}
        return web.json_response({"object": "list", "data": [model]})

    async def count(self, _: web.Request) -> web.Response:
        return web.json_response({"calls": self.calls})

    async def complete(self, request: web.Request) -> web.StreamResponse:
        asked = await _question(request)
        words = answer(asked["messages"]).split(" ")
        limit = asked.get("max_tokens") or len(words)
        said = words[:limit]
        reason = "stop" if len(said) == len(words) else "length"
        prompt = sum(len(message["content"].split()) for message in asked["messages"])
        usage = {"prompt_tokens": prompt, "completion_tokens": len(said), "total_tokens": prompt + len(said)}
        head = {"id": f"practice-{self.calls}", "created": int(time.time()), "model": asked["model"]}
        if asked.get("stream"):
            wanted = (asked.get("stream_options") or {}).get("include_usage")
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


async def _question(request: web.Request) -> dict[str, Any]:
    """Parse the request's body; only fields that the answer needs are checked."""
    if not request.headers.get("Authorization", "").startswith("Bearer "):
        raise _refusal(web.HTTPUnauthorized, "no API key: send 'Authorization: Bearer <any key>'")
    try:
        asked = json.loads(await request.read())
    except ValueError:
        raise _refusal(web.HTTPBadRequest, "the body is not JSON") from None
    if not isinstance(asked, dict):
        raise _refusal(web.HTTPBadRequest, "the body is not a JSON object")
    if not isinstance(asked.get("model"), str) or not asked["model"]:
        raise _refusal(web.HTTPBadRequest, "model: required, a non-empty text", "model")
    messages = asked.get("messages")
    if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
        raise _refusal(web.HTTPBadRequest, "messages: required, a list of {role, content}", "messages")
    limit = asked.get("max_tokens")
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise _refusal(web.HTTPBadRequest, "max_tokens: not a whole number of at least 1", "max_tokens")
    options = asked.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise _refusal(web.HTTPBadRequest, "stream_options: not an object", "stream_options")
    return asked


def _is_message(message: object) -> bool:
    return (
        isinstance(message, dict)
        and message.get("role") in ("system", "developer", "user", "assistant", "tool")
        and isinstance(message.get("content"), str)
    )


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

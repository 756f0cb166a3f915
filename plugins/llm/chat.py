"""One chat completion of an OpenAI-compatible provider: request, deadlines, bounded memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from .answer import Answer, ChatError, Kind, Reply, parse
from .config import Provider
from .delay import asked_delay
from .envelope import error_in_body

if TYPE_CHECKING:
    import aiohttp

    from sytq.http import Client

Message = Mapping[str, str]  # {"role": ..., "content": ...}
Wait = Literal["first_content", "silence", "total"]

_MAX_LINE = 1 << 20
_MAX_BODY = 8 << 20
_MAX_ERROR_BODY = 64 << 10
_AFTERGLOW = 5.0  # seconds for the usage numbers after the answer is complete
_CLOSING = 0.1  # seconds for the rest of the body after that: a connection read to its end can be reused


@dataclass(frozen=True, slots=True)
class Request:
    """A model and its messages; `extra` is added to the request's body unchanged."""

    model: str
    messages: Sequence[Message]
    max_tokens: int
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of the messages."""
        return sum(len(message["content"].encode("utf-8", "replace")) for message in self.messages)

    @property
    def most_tokens(self) -> int:
        """The requested limit of the answer in tokens, under any name that providers use."""
        named = [self.extra.get(name) for name in ("max_tokens", "max_completion_tokens")]
        return max([self.max_tokens, *(value for value in named if isinstance(value, int))])

    def body(self, stream: bool) -> str:
        fields: dict[str, Any] = {
            "model": self.model,
            "messages": list(self.messages),
            "max_tokens": self.max_tokens,
            "stream": stream,
            "stream_options": {"include_usage": True} if stream else None,
        }
        # A null in `extra` removes a field, for providers that reject it.
        return json.dumps({name: value for name, value in (fields | dict(self.extra)).items() if value is not None})


async def complete(client: Client, provider: Provider, request: Request, answer: Answer) -> Reply:
    """Ask once, fill in `answer` as it arrives, and return it whole. Raises ChatError only."""
    import aiohttp

    clock = _Clock(provider)
    try:
        async with (
            clock.timer,
            client.stream(
                "POST",
                f"{provider.base_url.rstrip('/')}/chat/completions",
                headers={
                    "Content-Type": "application/json",
                    "Accept": "text/event-stream" if provider.stream else "application/json",
                    **provider.authorization,
                },
                body=request.body(provider.stream),
                connect_timeout=min(10.0, provider.first_content),
                trusted=True,
            ) as response,
        ):
            if not 200 <= response.status < 300:
                raise await _refusal(response, answer)
            if not provider.stream or response.content_type == "application/json":
                answer.take(parse(await _body(response, _MAX_BODY)))
            else:
                await _stream(response, answer, clock)
    except TimeoutError:
        if answer.finish_reason is None:
            raise clock.error() from None
    except (aiohttp.ClientError, OSError) as error:
        if answer.finish_reason is None:
            raise _broken(error, answer) from None
    # The answer was complete; a stream that hangs or breaks afterwards loses at most its usage numbers.
    return answer.reply()


class _Clock:
    """One timer from DNS to the last byte; each piece of content extends it, up to the total."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._now = asyncio.get_running_loop().time
        self._end = self._now() + provider.total
        # An unstreamed answer has no first content: it arrives when the reasoning is over.
        first = provider.first_content if provider.stream else provider.total
        self._wait: Wait = "first_content" if first < provider.total else "total"
        self.timer = asyncio.timeout(min(first, provider.total))

    def content(self, last: bool) -> None:
        silence = self._provider.silence
        self.move("silence", min(silence, _AFTERGLOW) if last else silence)

    def move(self, wait: Wait, seconds: float) -> None:
        """Let the timer end in `seconds`, or at the total if that is sooner."""
        at = self._now() + seconds
        self._wait = wait if at < self._end else "total"
        self.timer.reschedule(min(at, self._end))

    def error(self) -> ChatError:
        """The deadline that passed."""
        if not self.timer.expired():
            return ChatError("network", "no connection to the provider in time")
        provider = self._provider
        said = {
            "first_content": f"no content within {provider.first_content:g} s",
            "silence": f"no further content within {provider.silence:g} s",
            "total": f"not finished within {provider.total:g} s",
        }
        return ChatError(self._wait, said[self._wait])


async def _stream(response: aiohttp.ClientResponse, answer: Answer, clock: _Clock) -> None:
    """Read server-sent events until the provider marks the end or closes."""
    async for line in _lines(response.content):
        if line.lstrip()[:1] == b"<":
            raise ChatError("html", "the provider answered with a web page", status=response.status)
        field, _, value = line.partition(b":")
        if field != b"data":
            continue  # comments (keep-alive), event names and ids do not extend the timer
        if value.strip() != b"[DONE]":
            if answer.take(parse(value)):
                answer.chunks += 1
                clock.content(last=answer.finish_reason is not None)
        elif answer.finish_reason is None:
            return
        else:
            clock.move("silence", _CLOSING)


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines without their line ends; the last line needs none."""
    rest = b""
    while chunk := await content.readany():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line
        if len(rest) > _MAX_LINE:
            raise ChatError("too_large", f"a line of the stream is longer than {_MAX_LINE} bytes")
    yield rest


async def _body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    body = bytearray()
    while chunk := await response.content.readany():
        body += chunk
        if len(body) > limit:
            raise ChatError("too_large", f"the answer's body is longer than {limit} bytes")
    return bytes(body)


async def _refusal(response: aiohttp.ClientResponse, answer: Answer) -> ChatError:
    """The error for a response that is not a 2xx."""
    import aiohttp

    status, kind = response.status, _kind(response.status)
    said = ""
    try:
        async with asyncio.timeout(10):
            error = error_in_body(await _body(response, _MAX_ERROR_BODY))
        if error is not None:
            said = f": {answer.say(error.words)}"
            if "insufficient_quota" in error.codes:
                kind = "no_credit"  # OpenAI reports missing credit with a 429, others with a 402
    except (TimeoutError, aiohttp.ClientError, OSError, ChatError):
        pass  # the status is enough; an HTML page adds nothing
    return ChatError(
        kind,
        f"HTTP {status} from the provider{said}",
        status=status,
        after=asked_delay(response.headers, datetime.now(UTC)),
        again={"true": True, "false": False}.get(response.headers.get("x-should-retry", "").strip().lower()),
    )


def _kind(status: int) -> Kind:
    if status in (401, 403):
        return "unauthorized"
    if status == 402:
        return "no_credit"
    if status == 429:
        return "rate_limited"
    if status in (503, 529):
        return "overloaded"
    if status >= 500 or status in (408, 409, 425):
        return "unavailable"
    return "rejected" if status >= 400 else "redirect"


def _broken(error: Exception, answer: Answer) -> ChatError:
    """The error for a broken connection, without the library's text, which may quote the URL or the answer."""
    import aiohttp

    if answer.has_content or isinstance(error, aiohttp.ClientPayloadError):
        return ChatError("broken_off", "the connection broke in the middle of the answer")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return ChatError("network", "the provider's host cannot be resolved")
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return ChatError("network", "the provider closed the connection without an answer")
    return ChatError("network", f"no connection to the provider ({type(error).__name__})")

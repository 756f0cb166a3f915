"""One chat completion of an OpenAI-compatible provider: request, deadlines, bounded memory."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from sytq import clock
from sytq.errors import ProxyFailed
from sytq.tls import explain

from .answer import Answer, ChatError, Reply
from .body import fill, receive
from .config import Provider
from .delay import asked_delay, said_delay
from .envelope import error_in_body, page_title

if TYPE_CHECKING:
    import aiohttp

    from sytq.http.client import Client

Message = Mapping[str, str]  # {"role": ..., "content": ...}
Wait = Literal["first_content", "silence", "total"]

#: Parameters that bound an answer, also inside another one: `options` (Ollama), `generationConfig` (Gemini).
_BOUNDS = (
    "max_tokens", "max_completion_tokens", "max_output_tokens", "maxOutputTokens", "max_new_tokens", "num_predict",
)  # fmt: skip

_MAX_ERROR_BODY = 64 << 10
_AFTERGLOW = 1.0  # seconds for the usage numbers after the answer is complete, which is not checkpointed before
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
    def bounds(self) -> list[int]:
        """The limits of the answer in tokens, under every name that providers use."""
        found: list[int] = []
        _bounded({"max_tokens": self.max_tokens} | dict(self.extra), found.append)
        return found

    @property
    def most_tokens(self) -> int:
        """The requested limit of the answer in tokens."""
        return max(self.bounds, default=self.max_tokens)

    def roomier(self, limit: int | None = None) -> Request | None:
        """The same question with twice the room for its answer, or `limit` tokens; None where nothing bounds it."""
        wider = _bounded(
            {"max_tokens": self.max_tokens} | dict(self.extra), lambda n: 2 * n if limit is None else limit
        )
        return replace(self, extra=wider) if self.bounds else None

    def body(self, stream: bool) -> bytes:
        fields: dict[str, Any] = {
            "model": self.model,
            "messages": list(self.messages),
            "max_tokens": self.max_tokens,
            "stream": stream,
            "stream_options": {"include_usage": True} if stream else None,
        }
        # A null in `extra` removes a field, for providers that reject it.
        sent = {name: value for name, value in (fields | dict(self.extra)).items() if value is not None}
        return json.dumps(sent).encode()


def _bounded(fields: Mapping[str, Any], change: Callable[[int], Any]) -> dict[str, Any]:
    """The fields, with `change` applied to each bound of the answer."""
    changed: dict[str, Any] = {}
    for name, value in fields.items():
        if name in _BOUNDS and isinstance(value, int) and value > 0:
            changed[name] = change(value)
        else:
            changed[name] = _bounded(value, change) if isinstance(value, Mapping) else value
    return changed


async def complete(client: Client, provider: Provider, request: Request, answer: Answer) -> Reply:
    """Ask once, fill in `answer` as it arrives, and return it whole. Raises ChatError only."""
    import aiohttp

    clock = _Clock(provider)
    try:
        async with (
            clock.timer,
            client.stream(
                "POST",
                provider.address("/chat/completions"),
                headers={
                    "Content-Type": "application/json",
                    "Accept": "text/event-stream" if provider.stream else "application/json",
                    **provider.authorization,
                },
                body=request.body(provider.stream),
                connect_timeout=min(10.0, provider.first_content),
                trusted=True,
                proxy=provider.proxy,
            ) as response,
        ):
            if not 200 <= response.status < 300:
                raise await _refusal(response, answer)
            await receive(_chunks(response.content), answer, partial(clock.progress, answer))
    except TimeoutError:
        if not answer.is_finished:
            raise clock.error(answer) from None
    except (aiohttp.ClientError, OSError, ProxyFailed) as error:
        if not answer.is_finished:
            raise broken(error, answer) from None
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

    def progress(self, answer: Answer) -> None:
        """Extend the timer for the next piece of the answer, or for what may follow it, up to the total."""
        silence = self._provider.silence if self._provider.stream else self._provider.total
        if answer.is_finished:
            silence = _CLOSING if answer.ended else min(silence, _AFTERGLOW)
        at = self._now() + silence
        self._wait = "silence" if at < self._end else "total"
        self.timer.reschedule(min(at, self._end))

    def error(self, answer: Answer) -> ChatError:
        """The deadline that passed."""
        if not self.timer.expired():
            return ChatError("network", "no connection to the provider in time")
        provider = self._provider
        said = {
            "first_content": f"no content within {provider.first_content:g} s",
            "silence": f"no further content within {provider.silence:g} s",
            "total": f"not finished within {provider.total:g} s",
        }
        return ChatError(self._wait, f"{said[self._wait]}{answer.heard()}")


async def _chunks(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    while chunk := await content.readany():
        yield chunk


async def _refusal(response: aiohttp.ClientResponse, answer: Answer) -> ChatError:
    """The error for a response that is not a 2xx."""
    import aiohttp

    status, error, said, is_page = response.status, None, "", False
    body = bytearray()
    try:
        async with asyncio.timeout(10):
            await fill(body, _chunks(response.content), _MAX_ERROR_BODY)
        error = error_in_body(body)
        is_page = error is None and body.lstrip()[:1] == b"<"
        title = answer.say(page_title(body)) if is_page else ""
        said = (
            f" with a web page: {title or 'of a gateway or a firewall?'}" if title or (is_page and status < 500) else ""
        )
    except (TimeoutError, aiohttp.ClientError, OSError, ChatError):
        pass  # the status is enough
    if location := response.headers.get("Location"):
        said = f": it leads to {answer.say(location.partition('?')[0])}"
    words = answer.say(error.words) if error is not None else ""
    after = asked_delay(response.headers, clock.utc())
    kind = answer.classify(status, error, words)
    if is_page and (status == 403 or (kind == "rejected" and status != 413)):
        kind = "html"  # of a firewall, about this prompt alone, or of a proxy: nothing that the provider says
    return ChatError(
        kind,
        f"HTTP {status} from the provider{f': {words}' if words else said}",
        status=status,
        after=said_delay(words) if after is None else after,
        again={"true": True, "false": False}.get(response.headers.get("x-should-retry", "").strip().lower()),
    )


def broken(error: Exception, answer: Answer) -> ChatError:
    """The error for a broken connection, without the library's text, which may quote the URL or the answer."""
    import aiohttp

    if "content-encoding" in str(error).lower():
        return ChatError("malformed", "the answer is not compressed as its Content-Encoding says, or not with gzip")
    if answer.has_content or isinstance(error, aiohttp.ClientPayloadError):
        return ChatError("broken_off", f"the connection broke in the middle of the answer{answer.heard()}")
    if isinstance(error, ProxyFailed):
        status = getattr(error.__cause__, "status", None)
        return ChatError("proxy", f"{error}{f': HTTP {status}' if status else ''}")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        said = f"the proxy does not connect to the provider: HTTP {error.status}"
        return ChatError("proxy" if error.status < 500 else "network", said)
    if isinstance(error, aiohttp.ClientResponseError):
        return ChatError("network", f"what answered is no HTTP that can be read: {answer.say(error.message)}")
    if why := explain(error):
        return ChatError("tls", f"no TLS with the provider: {why}")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return ChatError("network", f"the provider's host {error.host} cannot be resolved")
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return ChatError("network", "the provider closed the connection without an answer")
    if isinstance(error, aiohttp.ClientConnectorError) and error.errno:
        return ChatError("network", f"no connection to {error.host}:{error.port}: {os.strerror(error.errno)}")
    return ChatError("network", f"no connection to the provider ({type(error).__name__})")

"""The HTTP client of the service, with a total deadline, bounded memory and guarded addresses.

The client does not retry, log, follow redirects, keep cookies or read proxies from the environment.
"""

from __future__ import annotations

import asyncio
import json as jsonlib
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from multidict import CIMultiDict
from yarl import URL

from sytq.errors import InvalidInput, ProxyFailed
from sytq.http.guard import Guard, as_given
from sytq.http.head import first_line, read_head, receiving
from sytq.http.headers import MANAGED_HEADERS, TOKEN, check_headers
from sytq.http.measuring import Measured
from sytq.http.timing import Timing, current
from sytq.observability import tracing

if TYPE_CHECKING:
    import aiohttp

    from sytq.http.sessions import Sessions

# The charsets of the web; some other codecs of Python take minutes for a hostile megabyte.
_TEXT_CHARSETS = frozenset(
    ("us-ascii", "iso-8859-1", "windows-1252", "gbk", "gb2312", "gb18030", "big5", "shift_jis", "euc-jp", "euc-kr")
)
_DEFAULT_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A response. `headers` are case-insensitive; `truncated` means that `content` is not the whole body, and `cut`
    says why; `elapsed` is in seconds, from the first DNS query to the last byte read."""

    status_code: int
    headers: Mapping[str, str] = field(repr=False)
    content: bytes = field(repr=False)
    truncated: bool
    elapsed: float
    charset: str = "utf-8"
    cut: str = ""

    @property
    def ok(self) -> bool:
        return 200 <= self.status_code < 300

    @property
    def text(self) -> str:
        return self.content.decode(self.charset, "replace")

    def json(self) -> Any:
        """The body as JSON. Raises ValueError."""
        return jsonlib.loads(self.content)


def _of_the_proxy(error: Exception) -> bool:
    """Whether a fault before the connection to the target is the proxy's own: a proxy answers 502 to 504 for an
    unreachable target."""
    import aiohttp

    if isinstance(error, aiohttp.ClientHttpProxyError):
        return error.status == 407
    # A proxy that takes long may wait for the target.
    return not isinstance(error, TimeoutError | aiohttp.ClientSSLError | aiohttp.ClientConnectorCertificateError)


class Client:
    """`ctx.http`. Belongs to the event loop of its first call, which imports aiohttp; `close()` in the same loop."""

    def __init__(self, guard: Guard, proxy: str | None = None, sessions: Sessions | None = None) -> None:
        self._guard = guard
        self._proxy = proxy
        if sessions is not None:
            self._sessions = sessions

    @cached_property
    def _sessions(self) -> Sessions:
        from sytq.http.sessions import Sessions

        return Sessions(self._guard, self._proxy)

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | str | None = None,
        json: Any = None,
        timeout: float = _DEFAULT_TIMEOUT,
        max_bytes: int = 1 << 20,
        trusted: bool = False,
        partial_body: bool = False,
        proxy: str | None = None,
        certificate: tuple[Path, Path] | None = None,
        timing: Timing | None = None,
    ) -> Answer:
        """Send one request and return the response, whatever its status.

        `timeout` (seconds) covers DNS, connecting, TLS, sending, headers and body. The decompressed body is
        read up to `max_bytes`. `partial_body` gives an Answer once there is a status, also when what follows
        is no valid HTTP, breaks off or takes too long. `trusted` skips the guard and the proxy, for URLs from the
        configuration only; these have a `proxy` of their own (a URL, or `environment`). `certificate` is a client
        certificate and its key (PEM). `timing` is filled in, also when this raises.

        Raises OutboundRefused, InvalidInput (method, headers), TimeoutError, aiohttp.ClientError, ProxyFailed (no
        fault of the target) and CertificateUnusable.
        """
        import aiohttp

        started = time.monotonic()
        timing = Timing() if timing is None else timing
        response: aiohttp.ClientResponse | None = None
        head: tuple[int, Mapping[str, str]] | None = None
        content, received = bytearray(), bytearray()
        with Measured(trusted) as measured:
            target, options = self._prepare(method, url, headers, body, json, trusted)
            before = current.set(timing), receiving.set(received)
            try:
                with tracing.call(method, target, options["headers"]) as answered:
                    try:
                        async with asyncio.timeout(timeout):
                            response = await self._send(method, target, options, trusted, certificate, proxy)
                            head = response.status, response.headers
                            answered(response.status)
                            measured.answered(response.status)
                            timing.first_byte = timing.end()
                            cut = await _read(response, content, max_bytes)
                    except (TimeoutError, aiohttp.ClientError) as error:
                        if head is None and timing.connected:  # without a connection, a proxy may have answered
                            head = read_head(received)
                        if not partial_body or head is None:
                            raise
                        answered(head[0])
                        measured.answered(head[0])
                        cut = _why_cut(error, "head" if response is None else "body", timeout)
            except (TimeoutError, aiohttp.ClientError) as error:
                if isinstance(error, TimeoutError):
                    raise TimeoutError(f"timed out after {timeout:g}s") from None
                if partial_body and received and timing.connected:
                    from sytq.http.sessions import NotHttp

                    raise NotHttp(f"answered {first_line(received)!r} and no final HTTP status") from error
                raise
            finally:
                current.reset(before[0])
                receiving.reset(before[1])
                timing.total = time.monotonic() - started
                if response is not None and not response.closed:  # at its end it releases its connection itself
                    response.close()
        charset = ((content and response and response.charset) or "utf-8").lower()
        return Answer(
            status_code=head[0],
            headers=head[1],
            content=bytes(content),
            truncated=bool(cut),
            elapsed=timing.total,
            charset=charset if charset in _TEXT_CHARSETS else "utf-8",
            cut=cut,
        )

    async def get(self, url: str, **options: Any) -> Answer:
        return await self.request("GET", url, **options)

    async def post(self, url: str, **options: Any) -> Answer:
        return await self.request("POST", url, **options)

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | str | None = None,
        json: Any = None,
        connect_timeout: float = 10.0,
        trusted: bool = False,
        proxy: str | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response as it arrives; `trusted` and `proxy` as in `request`. `connect_timeout` (seconds) covers DNS,
        connecting and TLS only: the caller owes a deadline for headers and body, and a bound on what it keeps."""
        import aiohttp

        with Measured(trusted) as measured:
            target, options = self._prepare(method, url, headers, body, json, trusted)
            options["timeout"] = aiohttp.ClientTimeout(connect=connect_timeout)
            with tracing.call(method, target, options["headers"]) as answered:
                before = current.set(Timing())
                try:
                    response = await self._send(method, target, options, trusted, None, proxy)
                finally:
                    current.reset(before)
                answered(response.status)
                measured.answered(response.status)
                try:
                    yield response
                finally:
                    response.close()

    async def close(self) -> None:
        """Close every connection; running calls fail."""
        if "_sessions" in vars(self):
            await self._sessions.close()

    def _prepare(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        body: bytes | str | None,
        json: Any,
        trusted: bool,
    ) -> tuple[URL, dict[str, Any]]:
        if not TOKEN.fullmatch(method):
            raise InvalidInput("method", f"{method!r:.40} is not an HTTP method")
        check_headers(headers or {})
        sent = CIMultiDict(headers or {})
        for name in sent:
            if name.lower() in MANAGED_HEADERS:
                raise InvalidInput("headers", f"{name} is set by the client and cannot be given")
        if json is not None:
            if body is not None:
                raise ValueError("give either body or json, not both")
            body = jsonlib.dumps(json, ensure_ascii=False, separators=(",", ":"))
            sent.setdefault("Content-Type", "application/json")
        data = body.encode() if isinstance(body, str) else body
        target = as_given(url) if trusted else self._guard.check_url(url)
        return target, {"headers": sent, "data": data, "allow_redirects": False}

    async def _send(
        self,
        method: str,
        target: URL,
        options: dict[str, Any],
        trusted: bool,
        certificate: tuple[Path, Path] | None,
        proxy: str | None,
    ) -> aiohttp.ClientResponse:
        import aiohttp

        session = self._sessions.get(trusted)
        options |= await self._sessions.options(target, trusted, certificate, proxy)
        try:
            response: aiohttp.ClientResponse = await session.request(method, target, **options)
            return response
        except aiohttp.ClientError as error:
            timing = current.get()
            if "proxy" in options and not (timing and timing.connected) and _of_the_proxy(error):
                raise ProxyFailed("the outbound proxy cannot be used") from error
            raise


async def _read(response: aiohttp.ClientResponse, content: bytearray, max_bytes: int) -> str:
    """Add the body up to `max_bytes` to `content`; return what is left out."""
    async for chunk in response.content.iter_any():
        room = max_bytes - len(content)
        content += chunk[:room]
        if len(chunk) > room:
            return f"the body is longer than {max_bytes} bytes"
    return ""


def _why_cut(error: Exception, part: Literal["head", "body"], timeout: float) -> str:
    """Say what became of a response behind its status line, without a word of it."""
    import aiohttp

    if isinstance(error, TimeoutError):
        why = f"the {part} did not end within {timeout:g}s"
    elif part == "body":
        why = "the body breaks off or cannot be decoded"
    elif isinstance(error, aiohttp.ClientPayloadError):
        why = "the connection ended within the head"
    else:
        why = "the head cannot be read as HTTP"
    return f"{why}; no body was read" if part == "head" else why


class BlockingClient:
    """The client for a plain task, which runs on a thread; `wait` runs a coroutine on the event loop of `client`.

    No call takes longer than the seconds that remain.
    """

    def __init__(
        self,
        client: Client,
        wait: Callable[[Coroutine[Any, Any, Answer]], Answer],
        remaining: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self._client = client
        self._wait = wait
        self._remaining = remaining

    def request(self, method: str, url: str, **options: Any) -> Answer:
        """Send a request with the options of `Client.request`."""
        options["timeout"] = max(0.001, min(options.get("timeout", _DEFAULT_TIMEOUT), self._remaining()))
        return self._wait(self._client.request(method, url, **options))

    def get(self, url: str, **options: Any) -> Answer:
        return self.request("GET", url, **options)

    def post(self, url: str, **options: Any) -> Answer:
        return self.request("POST", url, **options)

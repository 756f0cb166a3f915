"""The one HTTP client of the service: deadlines over everything, bounded memory, guarded addresses.

Owns sessions, name resolution and the limits of a call. Must not retry, log, follow redirects, keep cookies
or read proxies from the environment; what an answer means is the caller's business.
"""

from __future__ import annotations

import asyncio
import json as jsonlib
import math
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from multidict import CIMultiDict
from yarl import URL

from sytq.errors import InvalidInput
from sytq.http.guard import Guard

# Headers that belong to the connection or are computed from the request; a caller's would only break it.
MANAGED_HEADERS = frozenset(
    {
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
# Python knows codecs that take minutes for a hostile megabyte; these are the ones seen on the web.
_TEXT_CHARSETS = frozenset(
    {
        "us-ascii",
        "iso-8859-1",
        "windows-1252",
        "gbk",
        "gb2312",
        "gb18030",
        "big5",
        "shift_jis",
        "euc-jp",
        "euc-kr",
    }
)
_DNS_THREADS = 32
_DEFAULT_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. `headers` ignore case; `truncated` tells that `content` is not the whole body;
    `elapsed` is in seconds, from the first DNS query to the last byte read."""

    status_code: int
    headers: Mapping[str, str] = field(repr=False)
    content: bytes = field(repr=False)
    truncated: bool
    elapsed: float
    charset: str = "utf-8"

    @property
    def ok(self) -> bool:
        return 200 <= self.status_code < 300

    @property
    def text(self) -> str:
        return self.content.decode(self.charset, "replace")

    def json(self) -> Any:
        """The body as JSON; ValueError when it is none."""
        return jsonlib.loads(self.content)


def check_headers(headers: Mapping[str, str]) -> None:
    """InvalidInput, naming the header, for a name or value that HTTP cannot carry."""
    for name, value in headers.items():
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise InvalidInput("headers", f"{name!r:.80} is not a header name")
        if not isinstance(value, str) or _CONTROL.search(value):
            raise InvalidInput("headers", f"the value of {name:.80} must be text without line breaks or NUL")


class Client:
    """`ctx.http`. Belongs to the event loop of its first call; `close()` in the same loop."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        # Apart, so that no trusted connection or DNS answer is ever used again for a caller's URL.
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._threads: dict[bool, ThreadPoolExecutor] = {}

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
    ) -> Answer:
        """One request and its answer, whatever the status.

        `timeout` (seconds) covers DNS, connecting, TLS, sending, headers and body. The decompressed body is
        read up to `max_bytes`. `partial_body` gives an Answer once there is a status, also when the body
        then breaks off or takes too long. `trusted` skips the guard, for URLs from the configuration only.

        Raises OutboundRefused, InvalidInput (method, headers), TimeoutError and aiohttp.ClientError.
        """
        started = time.monotonic()
        target, options = self._prepare(method, url, headers, body, json, trusted)
        response: aiohttp.ClientResponse | None = None
        content = bytearray()
        truncated = False
        try:
            async with asyncio.timeout(timeout):
                response = await self._session(trusted).request(method, target, **options)
                async for chunk in response.content.iter_any():
                    room = max_bytes - len(content)
                    content += chunk[:room]
                    if len(chunk) > room:
                        truncated = True
                        break
        except (TimeoutError, aiohttp.ClientError) as error:
            if response is None or not partial_body:
                if isinstance(error, TimeoutError):
                    raise TimeoutError(f"timed out after {timeout:g}s") from None
                raise
            truncated = True
        finally:
            if response is not None:
                response.close()  # a body read to its end has already given its connection back
        charset = (response.charset or "utf-8").lower()
        return Answer(
            status_code=response.status,
            headers=response.headers,
            content=bytes(content),
            truncated=truncated,
            elapsed=time.monotonic() - started,
            charset=charset if charset in _TEXT_CHARSETS else "utf-8",
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
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response as it arrives. `connect_timeout` (seconds) covers DNS, connecting and TLS only: the
        caller owes a deadline for headers and body, and a bound on what it keeps."""
        target, options = self._prepare(method, url, headers, body, json, trusted)
        options["timeout"] = aiohttp.ClientTimeout(connect=connect_timeout)
        response = await self._session(trusted).request(method, target, **options)
        try:
            yield response
        finally:
            response.close()

    async def close(self) -> None:
        """Close every connection; running calls fail."""
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()
        pools, self._threads = self._threads, {}
        for pool in pools.values():
            pool.shutdown(wait=False, cancel_futures=True)

    def _prepare(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        body: bytes | str | None,
        json: Any,
        trusted: bool,
    ) -> tuple[URL, dict[str, Any]]:
        if not _TOKEN.fullmatch(method):
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
        target = URL(url) if trusted else self._guard.check_url(url)
        return target, {"headers": sent, "data": data, "allow_redirects": False}

    def _session(self, trusted: bool) -> aiohttp.ClientSession:
        if trusted not in self._sessions:
            # Names that callers made up and nobody answers must not hold up the look-up of a provider.
            self._threads[trusted] = ThreadPoolExecutor(_DNS_THREADS, thread_name_prefix="sytq-dns")
            resolver = _Resolver(None if trusted else self._guard, self._threads[trusted])
            self._sessions[trusted] = aiohttp.ClientSession(
                # No limits here: how much runs at once is decided by queues and lanes, not by a hidden 100.
                connector=aiohttp.TCPConnector(resolver=resolver, limit=0, limit_per_host=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": f"sytq/{_version()}"},
                timeout=aiohttp.ClientTimeout(),
                trust_env=False,
            )
        return self._sessions[trusted]


class _Resolver(AbstractResolver):
    """getaddrinfo in threads of its own: dead name servers hold up neither each other nor asyncio.to_thread.

    Every address must pass the guard, and aiohttp connects to what is returned here, so a name that
    answers differently the second time gains nothing. aiohttp does not ask for literal addresses:
    `Guard.check_url` has judged those.
    """

    def __init__(self, guard: Guard | None, threads: ThreadPoolExecutor) -> None:
        self._guard = guard
        self._threads = threads

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        lookup = partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, lookup)
        results = []
        for found_family, _, protocol, _, address in found:
            ip = str(address[0])
            if self._guard is not None:
                self._guard.check(host, ip)
            results.append(
                ResolveResult(
                    hostname=host,
                    host=ip,
                    port=port,
                    family=found_family,
                    proto=protocol,
                    flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
                )
            )
        return results

    async def close(self) -> None:
        pass


class BlockingClient:
    """The same client for a `def` task, which runs in a thread; `loop` is the one `client` belongs to."""

    def __init__(
        self, client: Client, loop: asyncio.AbstractEventLoop, remaining: Callable[[], float] = lambda: math.inf
    ) -> None:
        self._client = client
        self._loop = loop
        self._remaining = remaining

    def within(self, remaining: Callable[[], float]) -> BlockingClient:
        """The same client, whose calls end when no seconds remain."""
        return BlockingClient(self._client, self._loop, remaining)

    def request(self, method: str, url: str, **options: Any) -> Answer:
        """As `Client.request`."""
        # A thread that waits here cannot be interrupted.
        options["timeout"] = max(0.001, min(options.get("timeout", _DEFAULT_TIMEOUT), self._remaining()))
        call = asyncio.run_coroutine_threadsafe(self._client.request(method, url, **options), self._loop)
        try:
            # The call ends itself on time; the margin is for a loop that has died.
            return call.result(options["timeout"] + 5)
        except BaseException:
            call.cancel()
            raise

    def get(self, url: str, **options: Any) -> Answer:
        return self.request("GET", url, **options)

    def post(self, url: str, **options: Any) -> Answer:
        return self.request("POST", url, **options)


def _version() -> str:
    try:
        return metadata.version("sytq")
    except metadata.PackageNotFoundError:
        return "source"

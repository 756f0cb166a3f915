"""The fake HTTP peer of a harness: replies that the test gives, and a record of the requests.

The client is the service's own, with its guard, deadlines and limits; a real server on loopback sends the replies. No
name is resolved and no other connection is made.
"""

from __future__ import annotations

import json as jsonlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import aiohttp
from aiohttp import web
from yarl import URL

from sytq.http.guard import Guard
from sytq.http.protocol import Connector
from sytq.http.sessions import Sessions

_MARK = "X-Sytq-Fake-Http"
_NOBODY = "http://127.0.0.1:1/"  # nothing listens there


@dataclass(frozen=True, slots=True)
class Reply:
    """A response: a status with `json` or `body`, or an `error` instead."""

    status: int = 200
    json: Any = None
    body: bytes | str = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    error: Literal["refused", "timeout"] | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """A request that the task made."""

    method: str
    url: str
    headers: Mapping[str, str]  # case-insensitive
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return jsonlib.loads(self.body)


class FakeHttp(Sessions):
    """`harness.http`: sends the given replies and records the requests."""

    def __init__(self, guard: Guard) -> None:
        super().__init__(guard)
        self.calls: list[Call] = []
        self.unexpected: list[str] = []  # calls without a reply
        self._given: dict[tuple[str, str], list[Reply]] = {}
        self._otherwise: Reply | None = None
        self._pending: dict[str, Reply] = {}
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None

    def answer(self, url: str, *replies: Reply | int, method: str = "") -> None:
        """Give the replies to calls of a URL, in order; the last one repeats. A number is a reply with that status.

        Without a `method` they are for every method.
        """
        self._given[method.upper(), str(URL(url))] = [_reply(each) for each in replies] or [Reply()]

    def otherwise(self, reply: Reply | int | None) -> None:
        """Give the reply to every other call; with None, such a call fails the test."""
        self._otherwise = None if reply is None else _reply(reply)

    def forget(self) -> None:
        """Forget all replies and calls."""
        self._given.clear()
        self.calls.clear()
        self._otherwise = None

    # -- the interface of Sessions

    def get(self, trusted: bool) -> Any:
        """Return this object, which makes the requests."""
        return self

    async def options(
        self, target: URL, trusted: bool, certificate: tuple[Path, Path] | None, proxy: str | None
    ) -> dict[str, Any]:
        """Return no options: there is neither proxy nor TLS."""
        return {}

    async def request(self, method: str, target: URL, **options: Any) -> aiohttp.ClientResponse:
        """Send a request to the loopback server, which answers with its reply."""
        headers = options["headers"]
        self.calls.append(Call(method, str(target), headers.copy(), options["data"] or b""))
        reply = self._reply(method, str(URL(str(target))))
        if reply.error == "timeout":
            raise TimeoutError
        session, address = await self._serve()
        if reply.error == "refused":
            address = _NOBODY
        mark = uuid.uuid4().hex
        self._pending[mark] = reply
        headers[_MARK] = mark
        return await session.request(method, address, **options)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
        if self._runner is not None:
            await self._runner.cleanup()

    def _reply(self, method: str, url: str) -> Reply:
        given = self._given.get((method, url)) or self._given.get(("", url))
        if given:
            return given.pop(0) if len(given) > 1 else given[0]
        if self._otherwise is None:
            self.unexpected.append(f"{method} {url}")
            raise AssertionError(f"no reply was given for {method} {url}")
        return self._otherwise

    async def _serve(self) -> tuple[aiohttp.ClientSession, str]:
        if self._runner is None or self._session is None:
            app = web.Application()
            app.router.add_route("*", "/", self._respond)
            self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await self._runner.setup()
            await web.TCPSite(self._runner, "127.0.0.1", 0).start()
            self._session = aiohttp.ClientSession(
                connector=Connector(), cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout()
            )
        return self._session, f"http://127.0.0.1:{self._runner.addresses[0][1]}/"

    async def _respond(self, request: web.Request) -> web.Response:
        reply = self._pending.pop(request.headers[_MARK])
        await request.read()
        if reply.json is not None:
            return web.json_response(reply.json, status=reply.status, headers=reply.headers)
        body = reply.body.encode() if isinstance(reply.body, str) else reply.body
        return web.Response(status=reply.status, body=body, headers=reply.headers)


def _reply(given: Reply | int) -> Reply:
    return Reply(given) if isinstance(given, int) else given

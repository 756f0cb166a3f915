"""The app as the server sees it: what is settled before and after Falcon.

Owns the request id, the bounds on a request body (size and time) and the last answer when all else fails.
Must not know any endpoint.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import falcon.asgi
import structlog
from structlog.contextvars import bind_contextvars

from sytq.api import problems

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

log = structlog.get_logger(__name__)

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@,~-]{1,128}")
#: A body that is not there after this many seconds is not waited for, however it drips.
BODY_SECONDS = 20.0
#: Of a body that is too large so much more is read (and dropped), so that its sender gets to read the answer.
_DRAINED = 8
#: gunicorn closes a connection on which a body was left unread; the client should know.
_CLOSE = ((b"connection", b"close"),)


class Refused(Exception):
    """The request is answered here and goes no further."""

    def __init__(self, status: int, message: str, *, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


class ClientGone(Exception):
    """There is nobody to answer."""


class Door(falcon.asgi.App[falcon.asgi.Request, falcon.asgi.Response]):
    """A Falcon app whose resources get requests with a complete body and an id."""

    def __init__(self, *, max_body: int, **options: Any) -> None:
        super().__init__(**options)
        self._max_body = max_body

    async def __call__(  # type: ignore[override]  # Falcon says the same of its own, which extends the WSGI one
        self, scope: dict[str, Any], receive: Receive, send: Send
    ) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        request_id = _request_id(scope["headers"])
        bind_contextvars(request_id=request_id.decode())
        started = False

        async def answer(event: dict[str, Any]) -> None:
            nonlocal started
            if event["type"] == "http.response.start":
                started = True
                event["headers"] = [*event["headers"], (b"x-request-id", request_id)]
            await send(event)

        try:
            if not scope["query_string"].isascii():
                raise Refused(400, "query string: must be percent-encoded ASCII")
            body = await self._read(scope["headers"], receive)
            await super().__call__(scope, _whole(body, receive), answer)
        except Refused as refusal:
            await _refuse(scope["path"], refusal, answer)
        except ClientGone:
            pass
        except Exception:
            log.exception("request failed outside of its resource", path=scope["path"])
            if not started:
                await _refuse(scope["path"], Refused(500, "internal error"), answer)

    async def _read(self, headers: list[tuple[bytes, bytes]], receive: Receive) -> bytes:
        """The whole body. Raises Refused (413, 408) and ClientGone."""
        declared = dict(headers)
        if b"expect" in declared and int(declared.get(b"content-length") or 0) > self._max_body:
            raise self._too_large(ended=False)  # the sender asked first
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    event = await receive()
                    if event["type"] == "http.disconnect":
                        raise ClientGone
                    chunk = event.get("body", b"")
                    size += len(chunk)
                    if size <= self._max_body:
                        chunks.append(chunk)
                    elif size > self._max_body * _DRAINED:
                        raise self._too_large(ended=False)
                    if not event.get("more_body", False):
                        break
        except TimeoutError:
            if size > self._max_body:
                raise self._too_large(ended=False) from None
            raise Refused(408, f"body: not complete within {BODY_SECONDS:g} s", headers=_CLOSE) from None
        if size > self._max_body:
            raise self._too_large(ended=True)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _too_large(self, *, ended: bool) -> Refused:
        message = f"body: larger than {self._max_body} bytes (api.max_body)"
        return Refused(413, message, headers=() if ended else _CLOSE)


def _request_id(headers: list[tuple[bytes, bytes]]) -> bytes:
    for name, value in headers:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return value
    return os.urandom(16).hex().encode()


def _whole(body: bytes, receive: Receive) -> Receive:
    given = False

    async def one_event() -> Mapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return one_event


async def _refuse(path: str, refusal: Refused, send: Send) -> None:
    text = problems.body(path, refusal.status, str(refusal))
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(text)).encode()),
        *refusal.headers,
    ]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": text})

"""The ASGI app around Falcon: what proxies say, request id, trace, limits on bodies, the response if all else fails."""

from __future__ import annotations

import asyncio
import math
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import falcon.asgi
import structlog
from falcon.constants import COMBINED_METHODS
from structlog.contextvars import bind_contextvars

from sytq.api import problems
from sytq.api.forwarded import Forwarded
from sytq.observability.metrics import Histogram

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
#: Begins a span of a request (method, trace parent); yields a callback for route and status, and the new trace parent.
Trace = Callable[[str, str | None], AbstractContextManager[tuple[Callable[[str, int], None], str | None]]]

log = structlog.get_logger(__name__)

SECONDS = Histogram(
    "sytq_http_seconds", "Requests to the API until their answer, by route.", ("method", "route", "status")
)
#: The key of the request's route in its ASGI scope, set by routing.
ROUTE = "sytq.route"
_METHODS = frozenset(COMBINED_METHODS)
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@,~-]{1,128}")
#: Version 00 of W3C Trace Context; neither id is all zeros.
_TRACEPARENT = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
#: Maximum seconds for a whole request body.
BODY_SECONDS = 20.0
#: A body up to this many times the limit is read and dropped, so that its sender reads the response.
_DRAINED = 8
#: gunicorn closes a connection with an unread body; this tells the client.
_CLOSE = {"Connection": "close"}
#: How a request through a proxy begins its target; every server accepts it (RFC 9112, 3.2.2).
_ABSOLUTE = re.compile(r"https?://[^/]*", re.IGNORECASE)
#: Paths that are polled every few seconds: not traced.
_PROBES = ("/health", "/metrics")


class Origin(NamedTuple):
    """The ids of a request and of its trace; in the ASGI scope as `sytq.origin`."""

    request_id: str
    traceparent: str | None


class ClientGone(Exception):
    """The client has disconnected."""


class RequestContext(falcon.asgi.App[falcon.asgi.Request, falcon.asgi.Response]):
    """A Falcon app whose resources get requests with a complete body and an id."""

    def __init__(self, *, max_body: int, trace: Trace | None, forwarded: Forwarded, **options: Any) -> None:
        super().__init__(**options)
        self._trace = trace
        self._forwarded = forwarded
        self._max_body = max_body
        self._reading = _Deadlines()
        self._answered = _Answered()

    def add_route(self, uri_template: str, resource: Any, **options: Any) -> None:
        """Add a resource; GET also answers HEAD, without the body, except for endless streams."""
        if hasattr(resource, "on_get") and not getattr(resource, "streams", False):
            resource.on_head = resource.on_get
        super().add_route(uri_template, resource, **options)

    async def __call__(  # type: ignore[override]  # Falcon says the same of its own, which extends the WSGI one
        self, scope: dict[str, Any], receive: Receive, send: Send
    ) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        if (absolute := _ABSOLUTE.match(scope["path"])) is not None:
            scope["path"] = scope["path"][absolute.end() :] or "/"
        self._forwarded.apply(scope)
        if scope["path"].startswith("//"):
            # The router takes these slashes for one: whatever decides by the path has to see the same.
            scope["path"] = "/" + scope["path"].lstrip("/")
        origin = _origin(scope["headers"])
        bind_contextvars(request_id=origin.request_id)
        if self._trace is None or scope["path"].startswith(_PROBES):
            await self._serve(scope, receive, send, origin)
            return
        with self._trace(_method(scope), origin.traceparent) as (answered, traceparent):
            # The spans of the request's tasks are children of this span.
            await self._serve(scope, receive, send, origin._replace(traceparent=traceparent), answered)

    async def _serve(
        self,
        scope: dict[str, Any],
        receive: Receive,
        send: Send,
        origin: Origin,
        answered: Callable[[str, int], None] | None = None,
    ) -> None:
        scope["sytq.origin"] = origin
        ids = [(b"x-request-id", origin.request_id.encode())]
        if origin.traceparent is not None:
            bind_contextvars(trace_id=origin.traceparent.split("-")[1])
            ids.append((b"traceparent", origin.traceparent.encode()))
        started = False
        since = time.perf_counter()

        async def answer(event: dict[str, Any]) -> None:
            nonlocal started
            if event["type"] == "http.response.start":
                started = True
                route, status = scope.get(ROUTE, "none"), event["status"]
                self._answered.add(time.perf_counter() - since, (_method(scope), route, str(status)))
                if answered is not None:
                    answered(route, status)
                event["headers"] = [*event["headers"], *ids]
            await send(event)

        try:
            if not scope["query_string"].isascii():
                raise falcon.HTTPBadRequest(description="query string: must be percent-encoded ASCII")
            body = await self._read(scope["headers"], receive)
            scope["sytq.body"] = body  # for body.py and the fingerprint of an Idempotency-Key
            await super().__call__(scope, _replay(body, receive), answer)
        except falcon.HTTPError as error:  # before Falcon, which handles its own
            await _refuse(scope, error, answer)
        except ClientGone:
            pass
        except Exception:
            log.exception("request failed outside its resource", path=scope["path"])
            if not started:
                await _refuse(scope, falcon.HTTPInternalServerError(description="internal error"), answer)

    async def _read(self, headers: list[tuple[bytes, bytes]], receive: Receive) -> bytes:
        """Return the whole body. Raises HTTPError (413, 408) and ClientGone."""
        declared = dict(headers)
        if b"expect" in declared and int(declared.get(b"content-length") or 0) > self._max_body:
            raise self._too_large(ended=False)  # before the client sends it
        chunks: list[bytes] = []
        size = 0
        task = self._reading.begin()
        try:
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
        except asyncio.CancelledError:
            if not self._reading.is_late(task):
                raise
            task.uncancel()
            if size > self._max_body:
                raise self._too_large(ended=False) from None
            said = f"body: not complete within {BODY_SECONDS:g} s"
            raise falcon.HTTPError(408, description=said, headers=_CLOSE) from None
        finally:
            self._reading.end(task)
        if size > self._max_body:
            raise self._too_large(ended=True)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _too_large(self, *, ended: bool) -> falcon.HTTPError:
        said = f"body: larger than {self._max_body} bytes (api.max_body)"
        return falcon.HTTPError(413, description=said, headers={} if ended else _CLOSE)


class _Answered:
    """Counts the requests that are answered in one turn of the event loop together: those of a batch of submissions."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, str, str], list[float]] = {}

    def add(self, seconds: float, labels: tuple[str, str, str]) -> None:
        if not self._seconds:
            asyncio.get_running_loop().call_soon(self._count)
        self._seconds.setdefault(labels, []).append(seconds)

    def _count(self) -> None:
        answered, self._seconds = self._seconds, {}
        for labels, seconds in answered.items():
            SECONDS.observe_all(seconds, *labels)


class _Deadlines:
    """Cancels tasks that read a body for longer than BODY_SECONDS, with one timer: one for each is too costly."""

    def __init__(self) -> None:
        self._since: dict[asyncio.Task[Any], float] = {}  # the oldest first; -inf was cancelled
        self._scheduled = False

    def begin(self) -> asyncio.Task[Any]:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        self._since[task] = loop.time()
        if not self._scheduled:
            self._scheduled = True
            loop.call_later(BODY_SECONDS / 20, self._expire, loop)
        return task

    def is_late(self, task: asyncio.Task[Any]) -> bool:
        return self._since[task] == -math.inf

    def end(self, task: asyncio.Task[Any]) -> None:
        del self._since[task]

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        late = loop.time() - BODY_SECONDS
        for task in [task for task, since in self._since.items() if -math.inf < since <= late]:
            self._since[task] = -math.inf
            task.cancel()
        self._scheduled = bool(self._since)
        if self._scheduled:
            loop.call_later(BODY_SECONDS / 20, self._expire, loop)


def _method(scope: Mapping[str, Any]) -> str:
    return scope["method"] if scope["method"] in _METHODS else "other"


def _origin(headers: list[tuple[bytes, bytes]]) -> Origin:
    request_id = traceparent = None
    for name, value in headers:
        if name == b"x-request-id" and request_id is None and _REQUEST_ID.fullmatch(value):
            request_id = value.decode()
        elif name == b"traceparent" and _TRACEPARENT.fullmatch(value):
            traceparent = value.decode()
    # Not secret; unlike the system's generator this one keeps the interpreter's lock.
    return Origin(request_id or f"{random.getrandbits(128):032x}", traceparent)


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def one_event() -> Mapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return one_event


async def _refuse(scope: dict[str, Any], error: falcon.HTTPError, send: Send) -> None:
    request_id, said = scope["sytq.origin"].request_id, error.description or ""
    media_type, text = problems.refusal(scope["path"], error.status_code, said, request_id)
    headers = {"Content-Type": media_type, "Content-Length": str(len(text))} | dict(error.headers or {})
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status_code, "headers": encoded})
    await send({"type": "http.response.body", "body": text})

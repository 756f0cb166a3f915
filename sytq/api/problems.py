"""How a refusal looks: the JSON of every error, by the contract that owns the path.

Owns the two error shapes and which exception becomes which status. Must not decide whether something is an
error, and never puts a traceback, a payload or a secret into an answer.
"""

from __future__ import annotations

import json
from typing import Any

import falcon
import falcon.asgi
import peewee
import structlog

from sytq.api.threads import Busy, Threads
from sytq.errors import DatabaseUnavailable, InvalidInput
from sytq.migrations import pending

log = structlog.get_logger(__name__)

#: Seconds after which a caller may try again while the database is away.
_DATABASE_RETRY_AFTER = 5


def body(path: str, status: int, message: str) -> bytes:
    """The JSON of an error: contract A's envelope under /api/ but not /api/v1/, else `{"error": ...}`."""
    if path.startswith("/api/") and not path.startswith("/api/v1/"):
        return encode({"code": status, "message": message})
    return encode({"error": message})


def encode(answer: object) -> bytes:
    """Any answer as JSON bytes."""
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode()


class Problems:
    """The error handlers of one app."""

    def __init__(self, database: peewee.Database, threads: Threads) -> None:
        self._database = database
        self._threads = threads

    def install(self, app: falcon.asgi.App[Any, Any]) -> None:
        """Make every exception of a resource one of our answers."""
        app.set_error_serializer(_serialize)
        app.add_error_handler(InvalidInput, self._invalid)
        app.add_error_handler(DatabaseUnavailable, self._database_away)
        app.add_error_handler(Busy, self._busy)
        app.add_error_handler(peewee.ProgrammingError, self._schema)
        app.add_error_handler(peewee.OperationalError, self._schema)
        app.add_error_handler(Exception, self._unexpected)

    async def _invalid(
        self,
        req: falcon.asgi.Request,
        resp: falcon.asgi.Response,
        error: InvalidInput,
        params: dict[str, Any],
    ) -> None:
        raise falcon.HTTPBadRequest(description=str(error))

    async def _busy(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, error: Busy, params: dict[str, Any]
    ) -> None:
        raise falcon.HTTPServiceUnavailable(description=str(error), retry_after=1)

    async def _database_away(
        self,
        req: falcon.asgi.Request,
        resp: falcon.asgi.Response,
        error: DatabaseUnavailable,
        params: dict[str, Any],
    ) -> None:
        log.warning("request refused: the database is away", error=str(error), path=req.path)
        raise falcon.HTTPServiceUnavailable(
            description="the database does not answer; nothing was accepted, try again later",
            retry_after=_DATABASE_RETRY_AFTER,
        )

    async def _schema(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, error: Exception, params: dict[str, Any]
    ) -> None:
        """A statement that cannot work: most likely tables that are not there yet."""
        try:
            missing = await self._threads.run(pending, self._database)
        except (DatabaseUnavailable, Busy):
            missing = []
        if not missing:
            await self._unexpected(req, resp, error, params)
        log.error("request refused: run `sytq db migrate`", pending=missing)
        raise falcon.HTTPServiceUnavailable(
            description="the database is not set up yet (`sytq db migrate`); nothing was accepted",
            retry_after=_DATABASE_RETRY_AFTER,
        )

    async def _unexpected(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, error: Exception, params: dict[str, Any]
    ) -> None:
        log.error("request failed", method=req.method, path=req.path, exc_info=error)
        raise falcon.HTTPInternalServerError(description="internal error; the log has more under this request id")


def _serialize(req: falcon.asgi.Request, resp: falcon.asgi.Response, error: falcon.HTTPError) -> None:
    if isinstance(error, falcon.HTTPMethodNotAllowed):
        message = "method not allowed"
    elif isinstance(error, falcon.HTTPRouteNotFound):
        message = "no such endpoint"
    else:
        message = error.description or error.title or str(error.status)
    resp.content_type = falcon.MEDIA_JSON
    resp.data = body(req.path, error.status_code, message)

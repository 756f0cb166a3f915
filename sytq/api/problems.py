"""Error responses: the status of each exception, and its JSON by the contract of the path.

Must never put a traceback, a payload or a secret into a response.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import falcon.asgi
import peewee
import structlog
from pydantic_core import PydanticSerializationError, to_json

from sytq.api.threads import Threads
from sytq.errors import DatabaseUnavailable, InvalidInput, InvalidQuery, Overloaded, RedisUnavailable
from sytq.ledger.refusals import code_of
from sytq.observability.outages import DATABASE, log_failure
from sytq.tasktypes.payload import encode as as_text

log = structlog.get_logger(__name__)

#: Seconds after which a caller may try again while the database is unavailable.
_DATABASE_RETRY_AFTER = 5

#: status -> the stable last part of a problem's type, and its title; docs/problems.md lists the types.
TYPES: dict[int, tuple[str, str]] = {
    400: ("invalid-request", "Bad Request"),
    401: ("unauthorized", "Unauthorized"),
    403: ("forbidden", "Forbidden"),
    404: ("not-found", "Not Found"),
    405: ("method-not-allowed", "Method Not Allowed"),
    408: ("body-too-slow", "Request Timeout"),
    409: ("conflict", "Conflict"),
    413: ("body-too-large", "Content Too Large"),
    415: ("unsupported-media-type", "Unsupported Media Type"),
    422: ("idempotency-key-reused", "Idempotency-Key Reused"),
    429: ("too-many-requests", "Too Many Requests"),
    500: ("internal-error", "Internal Server Error"),
    503: ("unavailable", "Service Unavailable"),
}
#: Other types of some statuses.
INVALID_QUERY = ("invalid-query", "Invalid Query")
TAKEN = ("unique-key-taken", "Unique Key Taken")
IN_USE = ("idempotency-key-in-use", "Idempotency-Key In Use")


def field_errors(error: InvalidInput) -> list[dict[str, Any]]:
    """The errors of a 400, one per field."""
    if isinstance(error, InvalidQuery):
        return [{"field": "q", "message": error.message, "position": error.position}]
    return [{"field": field, "message": message} for field, message in error.fields]


class Invalid(falcon.HTTPBadRequest):
    """A 400 with its invalid fields: `{"field", "message"}` each, and for a query the `position`."""

    def __init__(self, error: InvalidInput) -> None:
        super().__init__(description=str(error))
        self.errors = field_errors(error)
        self.type = INVALID_QUERY if isinstance(error, InvalidQuery) else TYPES[400]


class InUse(falcon.HTTPConflict):
    """A 409: another request with the same Idempotency-Key is still running."""

    type = IN_USE

    def __init__(self) -> None:
        said = "Idempotency-Key: a request with this key is still running; try again"
        super().__init__(description=said, headers={"Retry-After": "1"})


class Taken(falcon.HTTPConflict):
    """A 409: an unfinished task that the caller may not see has the unique key."""

    type = TAKEN
    said = "the unique key belongs to another owner's unfinished task; submit again once that task has ended"

    def __init__(self) -> None:
        super().__init__(description=f"{self.said} (nothing was accepted)")


def refusal(
    path: str,
    status: int,
    message: str,
    request_id: str,
    *,
    type: tuple[str, str] | None = None,
    errors: list[dict[str, Any]] | None = None,
) -> tuple[str, bytes]:
    """Return the media type and the JSON of an error: RFC 9457 under /v2, contract A's envelope under /api/ except
    /api/v1/, else `{"error": ...}`."""
    if path == "/v2" or path.startswith("/v2/"):
        slug, title = type or TYPES.get(status, ("other", "Error"))
        problem: dict[str, Any] = {"type": f"urn:sytq:problem:{slug}", "title": title, "status": status}
        problem |= {"detail": message, "request_id": request_id}
        return "application/problem+json", encode(problem | ({"errors": errors} if errors else {}))
    if path.startswith("/api/") and not path.startswith("/api/v1/"):
        return falcon.MEDIA_JSON, encode({"code": status, "message": message})
    return falcon.MEDIA_JSON, encode({"error": message})


def encode(answer: object) -> bytes:
    """Return a response as JSON bytes."""
    try:
        return to_json(answer)
    except PydanticSerializationError:  # half of a surrogate pair
        return as_text(answer).encode()


def install(app: falcon.asgi.App[Any, Any], missing: Callable[[], list[str]], threads: Threads) -> None:
    """Turn every exception of a resource into an error response. `missing` names the pending migrations."""

    async def handle(
        req: falcon.asgi.Request, resp: falcon.asgi.Response, error: Exception, params: dict[str, Any]
    ) -> None:
        pending: list[str] = []
        # A statement that the database rejects: most likely its tables are missing.
        if isinstance(error, peewee.ProgrammingError | peewee.OperationalError):
            with suppress(Exception):  # the database may reject this too
                pending = await threads.run(missing)
        raise response(req, error, pending)

    app.set_error_serializer(serialize)
    app.add_error_handler(Exception, handle)  # Falcon handles its own errors before


def response(req: falcon.asgi.Request, error: Exception, pending: list[str]) -> falcon.HTTPError:
    if isinstance(error, InvalidInput):
        return Invalid(error)
    if isinstance(error, Overloaded):
        return _unavailable(str(error), 1)
    if isinstance(error, RedisUnavailable):
        log_failure(log, "request refused: Redis unavailable", error, path=req.path)
        return _unavailable("Redis does not answer; try again later", 2)
    if isinstance(error, DatabaseUnavailable):
        log_failure(log, "request refused: database unavailable", error, path=req.path)
        return _unavailable("the database does not answer; nothing was accepted, try again later")
    if pending:
        log_failure(log, "request refused: migrations pending, run `sytq db migrate`", error, "error", pending=pending)
        return _unavailable("the database is not set up yet (run `sytq db migrate`); nothing was accepted")
    if isinstance(error, peewee.PeeweeException):
        # With its number alone: its text quotes values.
        fault = type(error)(code_of(error)).with_traceback(error.__traceback__)
        said = "request refused by the database"
        DATABASE.failed(log, said, fault, "error", method=req.method, path=req.path, exc_info=fault)
        return _unavailable("the database does not take this now; nothing was accepted, try again later")
    log.error("request failed", method=req.method, path=req.path, exc_info=error)
    return falcon.HTTPInternalServerError(description="internal error; the log has more under this request id")


def _unavailable(said: str, retry_after: int = _DATABASE_RETRY_AFTER) -> falcon.HTTPError:
    return falcon.HTTPServiceUnavailable(description=said, retry_after=retry_after)


def serialize(req: falcon.asgi.Request, resp: falcon.asgi.Response, error: falcon.HTTPError) -> None:
    """Write an error as JSON by the contract of its path."""
    # Falcon's frame keeps the error whose traceback keeps the frame: all of the request would wait for the collector.
    error.__traceback__ = None
    if isinstance(error, falcon.HTTPMethodNotAllowed):
        message = "method not allowed"
    elif isinstance(error, falcon.HTTPRouteNotFound):
        message = "no such endpoint"
    else:
        message = error.description or error.title or str(error.status)
    type, errors = getattr(error, "type", None), getattr(error, "errors", None)
    request_id = req.scope["sytq.origin"].request_id
    resp.content_type, resp.data = refusal(req.path, error.status_code, message, request_id, type=type, errors=errors)

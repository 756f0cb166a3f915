"""Types with the key `http`: task types that make one HTTP request, declared in the configuration alone.

The payload never reaches the host of the URL, and enters a path or query only as one encoded part. The URL is the
operator's and may therefore lead anywhere.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import quote, urlsplit

from pydantic import BaseModel, Field, model_validator

from sytq import AsyncContext, Declaration, Fail, Retry, clock, task
from sytq.blocks import Block, Code, Fields, Json
from sytq.config import Section
from sytq.config.values import problem
from sytq.durations import Duration
from sytq.errors import InvalidInput
from sytq.http.headers import MANAGED_HEADERS
from sytq.ledger.values import parsed
from sytq.tasktypes.configured import PayloadFields, TypeFactory, check_places, payload_model
from sytq.tasktypes.templates import fill, fill_text, places, text

from .webhook.verdict import retry_after, what_broke

_KEPT_BYTES = 16 * 1024  # of a response, kept in the result


class Request(Section):
    """The request; every text may have placeholders such as `{order_id}`."""

    url: str = Field(min_length=1)
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "POST"
    headers: dict[str, str] = Field(default={})
    body: Any = None  # a mapping or list is sent as JSON, a text unchanged; not given: the payload as JSON
    timeout: Annotated[Duration, Field(gt=0)] = 30.0
    dead_on: list[Annotated[int, Field(ge=300, le=599)]] = Field(default=[400, 404, 410, 422])


class HttpType(Section):
    """`types.<name>` with `http`."""

    http: Request
    payload: PayloadFields | None = None

    @model_validator(mode="after")
    def _makes_sense(self) -> HttpType:
        try:
            parts = urlsplit(self.http.url)
            good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and "@" not in parts.netloc
        except ValueError:
            good = None
        valid = "http://host/... or https://host/..., with places behind the host only"
        if not good or "{" in parts.netloc:
            raise problem("not such a URL", valid, key="http.url", value=self.http.url)
        for name in self.http.headers:
            if name.lower() in MANAGED_HEADERS:
                raise problem(f"{name} is set by the client", "other headers", key=f"http.headers.{name}", value="***")
        for key in ("url", "headers", "body"):
            check_places(places(getattr(self.http, key)), self.payload, f"http.{key}")
        return self


def _make(name: str, config: HttpType) -> Declaration:
    return task(name, payload=payload_model(name, config.payload), config=HttpType, show=_show)(_request)


http = TypeFactory("http", HttpType, _make)


async def _request(ctx: AsyncContext, payload: BaseModel) -> dict[str, Any]:
    """Make the configured request; 2xx is success, `dead_on` the end, everything else is tried again."""
    import aiohttp

    template: Request = ctx.config.http
    fields = payload.model_dump(mode="json")
    # A value is one part of a path or query, with `/`, `?` and `&` encoded.
    url = fill_text(template.url, fields, lambda value: quote(text(value), safe=""))
    if _dots(url) != _dots(template.url):
        raise Fail("a value would be '.' or '..' in the URL's path")
    headers = fill_headers(template.headers, fields)
    if not any(name.lower() == "idempotency-key" for name in headers):
        headers["Idempotency-Key"] = ctx.idempotency_key
    body = fields if template.body is None and template.method != "GET" else fill(template.body, fields)
    host = urlsplit(template.url).netloc
    try:
        answer = await ctx.http.request(
            template.method,
            url,
            headers=headers,
            **({"body": body} if isinstance(body, str) else {"json": body}),
            timeout=template.timeout,
            max_bytes=_KEPT_BYTES,
            partial_body=True,
            trusted=True,
        )
    except (TimeoutError, aiohttp.ClientError) as error:
        raise Retry(reason=what_broke(error, host)[1]) from None
    if not answer.ok:
        reason = f"HTTP {answer.status_code} from {host}"
        if answer.status_code in template.dead_on:
            raise Fail(reason)
        raise Retry(after=retry_after(answer.headers.get("Retry-After"), clock.utc()), reason=reason)
    result = {"status": answer.status_code, "body": parsed(answer.text)}
    return result | {"cut": answer.cut} if answer.truncated else result


def _show(payload: BaseModel, result: Any) -> list[Block]:
    if not isinstance(result, dict):
        return []
    body = result.get("body")
    return [Fields({"status": result.get("status")}), Code(body) if isinstance(body, str) else Json(body)]


def fill_headers(template: dict[str, str], fields: dict[str, Any]) -> dict[str, str]:
    """Fill the placeholders. Raises InvalidInput for a value with a line break."""
    filled = {name: fill_text(value, fields) for name, value in template.items()}
    for name, value in filled.items():
        if any(ord(character) < 32 or ord(character) == 127 for character in value):
            raise InvalidInput(f"headers.{name}", "line breaks and control characters cannot stand in a header")
    return filled


def _dots(url: str) -> int:
    return sum(part in (".", "..") for part in urlsplit(url).path.split("/"))

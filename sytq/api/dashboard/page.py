"""What every page has: rendering, ETags, forms and their errors."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import parse_qsl, quote, unquote

import falcon.asgi
from multidict import MultiDict

from sytq.api import problems
from sytq.api.caller import Caller
from sytq.api.dashboard import csrf
from sytq.api.dashboard.rendering import Rendering, url
from sytq.api.parts import Parts, Resource
from sytq.api.v2.waiting import add_etag
from sytq.errors import DatabaseUnavailable, InvalidInput, Overloaded, RedisUnavailable

_FIELDS_MAX = 5000
#: Carries the message of a form that was acted on to the page that it leads to.
_SAID = "sytq_said"
_SAID_MAX = 500


@dataclass(frozen=True, slots=True)
class Done:
    """A form was acted on: the browser is led to `location` (below /dashboard), where `message` is shown once."""

    location: str
    message: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A form was acted on: the page is shown at once with these names, for what is to be seen this one time."""

    names: dict[str, Any]
    status: str = falcon.HTTP_200


class Page(Resource):
    """A page. GET shows `template` with what `read` returns; a request of htmx gets its block `content` alone.

    A page with a form has `act` too. What it raises as InvalidInput or HTTPError is shown in the page: `errors` is
    field -> message ("" for what concerns no field), `form` is what was sent.
    """

    template: ClassVar[str]
    section: ClassVar[str] = ""  # the path of its entry in the navigation
    is_shared: ClassVar[bool] = False  # whether callers with the same rights are shown the same
    scopes: ClassVar[Mapping[str, str]] = {"GET": "read", "POST": "operate"}

    def __init__(self, parts: Parts, rendering: Rendering) -> None:
        super().__init__(parts)
        self._rendering = rendering

    async def read(self, req: falcon.asgi.Request, **path: str) -> dict[str, Any]:
        """Return the names of the template."""
        return {}

    def audience(self, caller: Caller) -> Hashable:
        """All of a caller that decides what it is shown: polls of equal ones share an answer. None: they do not."""
        return caller.rights if self.is_shared else None

    async def act(self, req: falcon.asgi.Request, form: MultiDict[str], **path: str) -> Done | Answer:
        """Do what the form says. Raises InvalidInput, HTTPError."""
        raise falcon.HTTPMethodNotAllowed(["GET"])

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, **path: str) -> None:
        since = time.perf_counter()
        if req.get_header("HX-Request"):
            await self._poll(req, resp, path)
        else:
            names: dict[str, Any] = {}
            if (said := req.cookies.get(_SAID)) is not None:
                names["message"] = unquote(said)[:_SAID_MAX]
                resp.unset_cookie(_SAID, path=f"{req.root_path}/dashboard")
            await self._show(req, resp, names, path)
        resp.set_header("Server-Timing", f"app;dur={(time.perf_counter() - since) * 1000:.1f}")
        add_etag(req, resp, "no-store")

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, **path: str) -> None:
        form = _form(req)
        csrf.check(req, form)
        try:
            done = await self.act(req, form, **path)
        except InvalidInput as error:
            status, errors = falcon.HTTP_400, dict(error.fields)
        except falcon.HTTPMethodNotAllowed:
            raise
        except (falcon.HTTPError, DatabaseUnavailable, RedisUnavailable, Overloaded) as error:
            known = error if isinstance(error, falcon.HTTPError) else problems.response(req, error, [])
            said = known.description or str(known.title)
            if isinstance(error, DatabaseUnavailable | RedisUnavailable):
                store = "Redis" if isinstance(error, RedisUnavailable) else "The database"
                said = f"{store} has not answered. This may have been done all the same: look before you repeat it."
            status, errors = str(known.status), {"": said}
            resp.set_headers(known.headers or {})
        else:
            self._rendering.polls.forget()
            if isinstance(done, Answer):
                await self._show(req, resp, done.names, path)
                resp.status = done.status
                return
            resp.status = falcon.HTTP_303
            resp.set_header("Location", url(req.root_path, done.location))
            if done.message:
                below, secure = f"{req.root_path}/dashboard", req.scheme == "https"
                said = quote(done.message[:_SAID_MAX])
                resp.set_cookie(_SAID, said, path=below, max_age=60, http_only=True, secure=secure, same_site="Strict")
            return
        req.context.audit_detail = None  # nothing was changed
        await self._show(req, resp, {"errors": errors, "form": form}, path)
        resp.status = status

    async def _show(
        self,
        req: falcon.asgi.Request,
        resp: falcon.asgi.Response,
        names: dict[str, Any],
        path: dict[str, str],
        block: str | None = None,
    ) -> None:
        self._rendering.render(req, resp, self.template, await self._names(req, path) | names, block)

    async def _names(self, req: falcon.asgi.Request, path: dict[str, str]) -> dict[str, Any]:
        return {"section": self.section} | await self.read(req, **path)

    async def _poll(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, path: dict[str, str]) -> None:
        audience = self.audience(req.context.caller)
        if audience is None:
            await self._show(req, resp, {}, path, "content")
            return

        async def make() -> str:
            names = await self._names(req, path) | {"csrf_token": lambda: csrf.PLACE}
            return self._rendering.text(req, self.template, names, "content")

        where = req.scheme, req.netloc, req.root_path, req.path, req.query_string
        text = await self._rendering.polls.shared((audience, where), make)
        if csrf.PLACE in text:
            text = text.replace(csrf.PLACE, csrf.token(req, resp))
        self._rendering.send(resp, text)


def _form(req: falcon.asgi.Request) -> MultiDict[str]:
    """The fields of a form. Raises HTTPUnsupportedMediaType, InvalidInput."""
    if (req.content_type or "").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise falcon.HTTPUnsupportedMediaType(description="a form (application/x-www-form-urlencoded) is needed")
    try:
        text = req.scope["sytq.body"].decode("ascii")
        return MultiDict(parse_qsl(text, keep_blank_values=True, max_num_fields=_FIELDS_MAX, errors="strict"))
    except ValueError as error:
        raise InvalidInput("body", f"not a form: {error}") from None

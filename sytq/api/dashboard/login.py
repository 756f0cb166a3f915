"""The login form."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import falcon.asgi
import structlog
from multidict import MultiDict

from sytq.api.dashboard.page import Done, Page
from sytq.api.guesses import address_of
from sytq.api.parameters import parameter
from sytq.api.sessions import session_of, set_cookie
from sytq.errors import InvalidInput

log = structlog.get_logger(__name__)

#: A page below /dashboard, with its query: what follows the host, so that it cannot be another one.
_NEXT = re.compile(r"(/(?!\.)[^/?\\\x00-\x1f\x7f]+)*(\?[!-\[\]-~]*)?")
_NEXT_MAX = 2000


class LogIn(Page):
    """GET, POST /dashboard/login, which is open to everyone"""

    template = "login.html"
    parameters: ClassVar = {"GET": ("next",), "POST": ()}

    async def read(self, req: falcon.asgi.Request, **path: str) -> dict[str, Any]:
        needed = self._parts.runtime.settings.auth.enabled
        return {"next": _next(parameter(req, "next") or ""), "needed": needed}

    async def act(self, req: falcon.asgi.Request, form: MultiDict[str], **path: str) -> Done:
        req.context.audit_detail = None  # the session's beginning has an entry of its own
        user, secret, client = form.get("user", "").strip(), form.get("secret", ""), req.scope.get("client")
        if not secret.strip():
            raise InvalidInput("secret", "a password or a key is needed")
        sessions = self._parts.sessions
        try:
            token = await sessions.log_in(user, secret if user else secret.strip(), client, req.user_agent)
        except falcon.HTTPUnauthorized:
            log.warning("login failed", address=address_of(client))
            no_key = "no valid key: it does not exist, is revoked or has expired"
            said = "wrong user name or password" if user else no_key
            # The API's refusal would make the browser ask for a password itself.
            raise falcon.HTTPUnauthorized(description=said, challenges=["Bearer"]) from None
        if before := session_of(req):
            await sessions.end(before)
        req.context.begun = token
        return Done(_next(form.get("next", "")), "")

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, **path: str) -> None:
        await super().on_post(req, resp, **path)
        if (token := getattr(req.context, "begun", None)) is not None:
            set_cookie(req, resp, token)


def _next(wanted: str) -> str:
    """The page that was wanted before the login; the overview where this is none."""
    return wanted if len(wanted) <= _NEXT_MAX and _NEXT.fullmatch(wanted) else ""

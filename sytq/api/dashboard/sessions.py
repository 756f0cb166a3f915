"""The page of sessions: where one is logged in, for admins where everybody is; and the ends of sessions."""

from __future__ import annotations

from typing import Any, ClassVar

import falcon.asgi
from multidict import MultiDict

from sytq.api.caller import Caller
from sytq.api.dashboard.page import Done, Page
from sytq.api.sessions import login_of, set_cookie
from sytq.ledger.sessions import SHOWN, Login, is_current

_MAX_SHOWN = 500


class SessionsPage(Page):
    """GET /dashboard/sessions"""

    template = "sessions.html"
    section = "/sessions"
    scopes: ClassVar = {"GET": "read", "POST": "read"}  # everyone may end their own

    async def read(self, req: falcon.asgi.Request, **path: str) -> dict[str, Any]:
        token = req.context.session
        rows = await self._parts.sql.run(self._parts.sessions.store.latest, _visible(req), _MAX_SHOWN + 1)
        sessions = [
            (row.id[:SHOWN], who, row, token is not None and is_current(row, token)) for row, who in rows[:_MAX_SHOWN]
        ]
        return {"sessions": sessions, "more": len(rows) > _MAX_SHOWN, "max": _MAX_SHOWN}


class RevokeSession(SessionsPage):
    """POST /dashboard/sessions/{shown}/revoke"""

    async def act(self, req: falcon.asgi.Request, form: MultiDict[str], **path: str) -> Done:
        store = self._parts.sessions.store
        await self._parts.sql.finish(store.revoke, path["shown"], req.context.caller.name, _visible(req))
        self._parts.sessions.forget()
        req.context.audit_detail = None  # the ledger has written it
        return Done("/sessions", f"The session {path['shown']} has ended.")


class LogOut(SessionsPage):
    """POST /dashboard/logout: ends this session, or with the field `everywhere` all of the caller."""

    async def act(self, req: falcon.asgi.Request, form: MultiDict[str], **path: str) -> Done:
        caller: Caller = req.context.caller
        if "everywhere" in form:
            await self._parts.sql.finish(self._parts.sessions.store.revoke_all, login_of(caller), caller.name)
            self._parts.sessions.forget()
        elif req.context.session is not None:
            await self._parts.sessions.end(req.context.session)
        return Done("/login", "You are logged out.")

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, **path: str) -> None:
        await super().on_post(req, resp, **path)
        set_cookie(req, resp, None)


def _visible(req: falcon.asgi.Request) -> Login | None:
    """Whose sessions the caller may see; None for everybody's."""
    caller: Caller = req.context.caller
    return None if caller.is_admin else login_of(caller)

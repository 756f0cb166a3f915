"""Cross-site request forgery: a POST carries a token that a page was given, which another site cannot read.

The token of a session follows from it; without a session it is in a cookie, which a neighbouring host could set.
`sytq.api.auth` refuses other origins before.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping

import falcon.asgi

FIELD = "csrf"
_COOKIE = "sytq_csrf"
#: Stands for the token in a page that several people are shown.
PLACE = secrets.token_urlsafe(24)


def token(req: falcon.asgi.Request, resp: falcon.asgi.Response) -> str:
    """The token for the forms of a page; sets the cookie where the browser has neither it nor a session."""
    if req.context.session is not None:
        return _of_session(req.context.session)
    given = req.cookies.get(_COOKIE)
    if given:
        return given
    made: str | None = getattr(req.context, "csrf", None)
    if made is None:
        made = req.context.csrf = secrets.token_urlsafe(24)
        path = f"{req.root_path}/dashboard"
        resp.set_cookie(_COOKIE, made, path=path, http_only=True, secure=req.scheme == "https", same_site="Strict")
    return made


def check(req: falcon.asgi.Request, form: Mapping[str, str]) -> None:
    """Raise HTTPForbidden for a form that no page of ours was given."""
    session, given = req.context.session, form.get(FIELD, "")
    known = _of_session(session) if session is not None else req.cookies.get(_COOKIE, "")
    if not known or not hmac.compare_digest(known.encode(), given.encode()):
        raise falcon.HTTPForbidden(description="this form is too old, or not of this dashboard; load the page again")


def _of_session(session: str) -> str:
    return hmac.new(session.encode(), FIELD.encode(), hashlib.sha256).hexdigest()

"""Cross-site request forgery: a POST carries the token that a page was given, in a field and in a cookie.

Another site can make a browser send the cookie, and cannot read it. `sytq.api.auth` refuses other origins before.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping

import falcon
import falcon.asgi

FIELD = "csrf"
_COOKIE = "sytq_csrf"


def token(req: falcon.asgi.Request, resp: falcon.asgi.Response, path: str) -> str:
    """The token for the forms of a page; sets the cookie for `path` where the browser has none."""
    given = req.cookies.get(_COOKIE)
    if given:
        return given
    made: str | None = getattr(req.context, "csrf", None)
    if made is None:
        made = req.context.csrf = secrets.token_urlsafe(24)
        resp.set_cookie(_COOKIE, made, path=path, http_only=True, secure=req.scheme == "https", same_site="Strict")
    return made


def check(req: falcon.asgi.Request, form: Mapping[str, str]) -> None:
    """Raise HTTPForbidden for a form that no page of ours was given."""
    known, given = req.cookies.get(_COOKIE, ""), form.get(FIELD, "")
    if not known or not hmac.compare_digest(known.encode(), given.encode()):
        raise falcon.HTTPForbidden(description="this form is too old, or not of this dashboard; load the page again")

"""Renders the templates, with what every page has: navigation, the caller's rights, URLs below the base path."""

from __future__ import annotations

from functools import partial
from typing import Any
from urllib.parse import quote, urlencode

import falcon.asgi
import jinja2

import sytq
from sytq.api.caller import Caller
from sytq.api.dashboard import csrf, polls
from sytq.api.dashboard.assets import Assets
from sytq.api.dashboard.filters import FILTERS
from sytq.api.dashboard.navigation import Entry

#: Nothing from elsewhere, no script or style inside a page, and no frame around it.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    # A page has what its caller alone may see; app.js keeps the ETag of the page that it shows.
    "Cache-Control": "no-store",
}
_THEMES = ("light", "dark")


class Rendering:
    """The templates of one API process, read at its start."""

    def __init__(self, assets: Assets, entries: tuple[Entry, ...], *, read_only: bool) -> None:
        self._entries = entries
        self._read_only = read_only
        self.polls = polls.Polls()
        self._environment = jinja2.Environment(
            loader=jinja2.PackageLoader("sytq.api.dashboard"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._environment.filters |= FILTERS
        self._environment.globals |= {"version": sytq.__version__, "asset_version": assets.version}
        self._environment.globals |= {"poll_seconds": polls.INTERVAL}

    def render(
        self,
        req: falcon.asgi.Request,
        resp: falcon.asgi.Response,
        template: str,
        names: dict[str, Any],
        block: str | None = None,
    ) -> None:
        """Write the template, or one block of it, with `names` as the response."""
        self.send(resp, self.text(req, template, names | {"csrf_token": partial(csrf.token, req, resp)}, block))

    def text(self, req: falcon.asgi.Request, template: str, names: dict[str, Any], block: str | None = None) -> str:
        """The template, or one block of it; `names` has the `csrf_token` of its forms."""
        caller: Caller = req.context.caller
        known = {
            "here": relative(req),
            "section": None,
            "message": None,
            "errors": {},
            "form": {},
            "theme": next((name for name in _THEMES if name == req.cookies.get("sytq_theme")), None),
            "caller": caller,
            # Whether the caller may use what needs a scope, here.
            "may": lambda scope: caller.may(scope) and (scope == "read" or not self._read_only),
            "read_only": self._read_only,
            "session": req.context.session is not None,
            "entries": [entry for entry in self._entries if caller.may(entry.scope)],
            "base": req.root_path,  # the prefix below which a proxy serves this, such as `/ops/sytq`, or ""
            "url": partial(url, req.root_path),
        } | names
        found = self._environment.get_template(template)
        # A block alone does not run the imports at the top of its template.
        known["ui"] = self._environment.get_template("macros.html").make_module(known)
        return found.render(known) if block is None else "".join(found.blocks[block](found.new_context(known)))

    def send(self, resp: falcon.asgi.Response, text: str) -> None:
        """Make a page the response."""
        resp.content_type = "text/html; charset=utf-8"
        resp.set_headers(_HEADERS)
        resp.data = text.encode("utf-8", "replace")


def relative(req: falcon.asgi.Request) -> str:
    """The path and query of a request below /dashboard."""
    path = req.path.removeprefix("/dashboard")
    return f"{path}?{req.query_string}" if req.query_string else path


def url(base: str, path: str, **parameters: object) -> str:
    """The URL of a page (`path` below /dashboard); parameters that are None are left out."""
    before, mark, query = path.partition("?")
    found = f"{base}/dashboard{quote(before)}{mark}{query}"
    given = urlencode({name: value for name, value in parameters.items() if value is not None})
    return f"{found}{'&' if mark else '?'}{given}" if given else found

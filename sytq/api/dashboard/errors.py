"""Errors below /dashboard, as pages."""

from __future__ import annotations

import falcon.asgi

from sytq.api import problems
from sytq.api.caller import NOBODY
from sytq.api.dashboard.rendering import Rendering


def is_page(path: str) -> bool:
    """Whether a path belongs to the dashboard."""
    return path == "/dashboard" or path.startswith("/dashboard/")


def serialize(
    rendering: Rendering, req: falcon.asgi.Request, resp: falcon.asgi.Response, error: falcon.HTTPError
) -> None:
    """Render errors of the dashboard's paths; those of other paths stay as they are."""
    if not is_page(req.path):
        problems.serialize(req, resp, error)
        return
    if getattr(req.context, "caller", None) is None:
        req.context.caller, req.context.session = NOBODY, None
    if isinstance(error, falcon.HTTPRouteNotFound):
        said = "There is no such page."
    else:
        said = error.description or error.title or str(error.status)
    names = {"status": error.status, "said": said, "request_id": req.scope["sytq.origin"].request_id}
    rendering.render(req, resp, "error.html", names)

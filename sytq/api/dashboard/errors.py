"""Errors below /dashboard, as pages."""

from __future__ import annotations

from collections.abc import Callable

import falcon
import falcon.asgi

from sytq.api.caller import NOBODY
from sytq.api.dashboard.rendering import Rendering

Serialize = Callable[[falcon.asgi.Request, falcon.asgi.Response, falcon.HTTPError], None]


def is_page(path: str) -> bool:
    """Whether a path belongs to the dashboard."""
    return path == "/dashboard" or path.startswith("/dashboard/")


def serializer(rendering: Rendering, otherwise: Serialize) -> Serialize:
    """Render errors of the dashboard's paths; those of other paths go to `otherwise`."""

    def serialize(req: falcon.asgi.Request, resp: falcon.asgi.Response, error: falcon.HTTPError) -> None:
        if not is_page(req.path):
            otherwise(req, resp, error)
            return
        if getattr(req.context, "caller", None) is None:
            req.context.caller, req.context.session = NOBODY, None
        if isinstance(error, falcon.HTTPRouteNotFound):
            said = "There is no such page."
        else:
            said = error.description or error.title or str(error.status)
        names = {"status": error.status, "said": said, "request_id": req.scope["sytq.origin"].request_id}
        rendering.render(req, resp, "error.html", names)

    return serialize

"""Request bodies of the old paths, which are read as Go read them whatever their Content-Type; `/v2` is strict."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import falcon.asgi

from sytq import gojson
from sytq.errors import InvalidInput


def read_object(req: falcon.asgi.Request, names: Set[str], *, required: bool = True) -> dict[str, Any]:
    """Return the JSON object of a request, in which keys of `names` may be sent in any case; unless required, a missing
    body is an empty object.

    Raises InvalidInput.
    """
    data: bytes = req.scope["sytq.body"]  # read by RequestContext
    if not data and not required:
        return {}
    try:
        value = gojson.parse(data)
    except ValueError as error:
        raise InvalidInput("body", str(error)) from None
    if not isinstance(value, dict):
        raise InvalidInput("body", "a JSON object is needed")
    return gojson.with_names(value, names)

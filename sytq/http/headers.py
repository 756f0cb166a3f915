"""Names and values of request headers."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sytq.errors import InvalidInput

# Headers of the connection, or computed from the request; a caller's value would break the request.
MANAGED_HEADERS = frozenset(
    {
        *("connection", "content-length", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"),
        *("proxy-authenticate", "proxy-authorization", "proxy-connection"),
    }
)
#: A method or a header's name.
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")


def check_headers(headers: Mapping[str, str]) -> None:
    """Raise InvalidInput, naming the header, for a name or value that is invalid in HTTP."""
    for name, value in headers.items():
        if not isinstance(name, str) or not TOKEN.fullmatch(name):
            raise InvalidInput("headers", f"{name!r:.80} is not a header name")
        if not isinstance(value, str) or _CONTROL.search(value):
            raise InvalidInput("headers", f"the value of {name:.80} must be text without line breaks or NUL")

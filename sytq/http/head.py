"""The head of a response as it arrives, and what can be read of one that aiohttp refuses or that breaks off."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextvars import ContextVar

from multidict import CIMultiDict

from sytq.config.masking import mask_text
from sytq.http.headers import TOKEN

#: What the connection of the current call has received, until aiohttp has read the head of the final response.
receiving: ContextVar[bytearray | None] = ContextVar("sytq_http_receiving", default=None)

_STATUS = re.compile(rb"^[ \t]*HTTP/\d{1,2}(?:\.\d{1,2})?[ \t]+([1-9]\d\d)(?!\d)", re.IGNORECASE | re.MULTILINE)


def is_final(status: int) -> bool:
    """Whether no other response follows one with this status."""
    return status == 101 or not 100 <= status < 200


def could_be_http(received: bytearray) -> bool:
    """Whether this is, or may become, a response of any version of HTTP/1."""
    return b"HTTP/".startswith(received[:64].lstrip()[:5].upper())


def read_head(received: bytearray) -> tuple[int, Mapping[str, str]] | None:
    """Return the final status and the readable headers; None without a status, whatever the rest is."""
    if not could_be_http(received):
        return None
    for found in _STATUS.finditer(received):
        if is_final(status := int(found[1])):
            return status, _headers(received[found.end() :].split(b"\n")[1:-1])  # the last line may be cut
    return None


def first_line(received: bytearray) -> str:
    """Return the start of what is not HTTP, for a person."""
    start = bytes(received[:200]).strip().split(b"\n")[0].rstrip().decode("utf-8", "replace")
    return mask_text("".join(c if c.isprintable() else "\ufffd" for c in start))[:60]


def _headers(lines: list[bytearray]) -> Mapping[str, str]:
    headers: CIMultiDict[str] = CIMultiDict()
    for line in lines:
        name, colon, value = line.strip().decode("utf-8", "replace").partition(":")
        if not name:
            break
        if colon and TOKEN.fullmatch(name):
            headers.add(name, value.strip())
    return headers

"""The head of a response as it arrives: made readable for aiohttp, or, where that fails, read for its status alone."""

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
_PLAIN_STATUS = re.compile(rb"HTTP/1\.[01] \d{3}(?!\d)")
# A field that aiohttp takes; it refuses the last one, of a draft of WebSocket, wherever it occurs.
_FIELD = re.compile(rb"(?!sec-websocket-key1:)([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*:([^\x00\r]*)", re.IGNORECASE)
_PLAIN_FIELD = rb"(?!content-length|transfer-encoding|sec-websocket-key1)[!#$%&'*+.^_`|~0-9a-z-]+:[^\x00\r\n]*\r\n"
#: A whole head of a final response that needs no repair, as nearly all are.
PLAIN = re.compile(
    rb"(?-i:HTTP)/1\.[01] [2-5]\d\d(?: [^\x00\r\n]*)?\r\n(?:" + _PLAIN_FIELD + rb")*"
    rb"(?:(?:content-length: \d{1,15}|transfer-encoding: chunked)\r\n(?:" + _PLAIN_FIELD + rb")*)?\r\n",
    re.IGNORECASE,
)


class HeadLines:
    """Repairs heads line by line, where their meaning is beyond doubt.

    Lines that are no field are dropped, and so are all statements of the body's length but one, as RFC 9112 (6.3) says:
    chunks override a length, and equal lengths are one. Everything else is aiohttp's to accept or refuse.
    """

    def __init__(self) -> None:
        self.repaired = False
        self._status_next = True
        self._dropping = False
        self._lengths: list[bytes] = []
        self._codings: list[bytes] = []

    def passed(self, line: bytes) -> bytes:
        """Return what of the head may be parsed now."""
        text = line.rstrip(b"\r\n")
        if self._status_next:
            self._status_next = not text
            found = _STATUS.match(text)
            if found is None or _PLAIN_STATUS.match(text):
                return line if text else b""
            return b"HTTP/1.1 %b\r\n" % found[1]
        if not text:
            self._status_next = True  # after an interim response
            return self._framing() + line
        if line[:1] not in b" \t":  # else it continues the line before
            field = _FIELD.fullmatch(text)
            name = field[1].lower() if field else b""
            if field and name == b"content-length":
                self._lengths += field[2].split(b",")
            elif field and name == b"transfer-encoding":
                self._codings.append(field[2].strip())
            self._dropping = name in (b"", b"content-length", b"transfer-encoding")
            self.repaired |= not name
        return b"" if self._dropping else line

    def _framing(self) -> bytes:
        lengths = list(dict.fromkeys(length.strip() for length in self._lengths))
        codings = [coding for coding in self._codings if coding.lower() != b"identity"]
        self.repaired |= len(self._lengths) + len(self._codings) > 1
        self._lengths, self._codings = [], []
        name, values = (b"Transfer-Encoding", codings) if codings else (b"Content-Length", lengths)
        return b"".join(b"%b: %b\r\n" % (name, value) for value in values)


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

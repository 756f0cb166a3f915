"""Reads what a provider says went wrong out of the envelope it comes in, with whatever status.

Decides nothing about what follows. The words may quote the key and the prompt: `Answer.say` makes them safe to show.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# Keys, without regard to case, underscores and hyphens. docs/llm.md says whose they are.
_ERRORS = ("error", "errors", "err", "fault", "baseresp")
_WORDS = ("message", "msg", "errormsg", "errmsg", "errormessage", "retmsg", "statusmsg", "statusmessage", "detail",
          "details", "errordescription", "description", "faultstring", "title", "reason")  # fmt: skip
_CODES = ("code", "type", "status", "errorcode", "errcode", "errortype", "statuscode", "retcode")
_NUMBERED = ("code", "errorcode", "errcode", "statuscode", "retcode")
_SUCCESS = ("", "0", "200", "ok", "success", "succeeded", "none", "null", "true")
_FAILED = ("error", "failed", "fail", "failure")
_DEPTH = 6
_NAMED = frozenset(("error", "errors", "err", "fault", "base_resp"))


@dataclass(frozen=True, slots=True)
class ProviderError:
    """The provider's words, on one or several lines, and its codes (`code`, `type`, `status`) in lower case."""

    words: str
    codes: frozenset[str]

    @property
    def status(self) -> int | None:
        """The HTTP status that the body names."""
        return next((int(code) for code in sorted(self.codes) if code.isascii() and code.isdigit()
                     and 400 <= int(code) < 600), None)  # fmt: skip


_TITLE = re.compile(rb"<title[^>]*>([^<]{1,300})", re.IGNORECASE)
_NO_WORDS = ProviderError("no message", frozenset())


def read_error(body: object) -> ProviderError | None:
    """What a body that is known to be an error says; None when it says nothing."""
    # Some APIs wrap an error once more: {"Response": {"Error": ...}}, {"data": {"error": ...}}
    wrapped = [value for value in body.values() if _reports(value)] if isinstance(body, dict) else []
    inner = [value for value in body.values() if isinstance(value, dict)] if isinstance(body, dict) else []
    for place in [body] if _reports(body) else [*wrapped, body, *inner]:
        codes: set[str] = set()
        words = _words(place, codes, _DEPTH) or next(iter(sorted(codes - set(_FAILED), key=str.isdigit)), "")
        if words:
            return ProviderError(words, frozenset(codes))
    return None


def error_in_body(body: bytes | bytearray) -> ProviderError | None:
    """What the body of a response that is known to be an error says: JSON, or plain text, but not a web page."""
    try:
        return read_error(json.loads(body))
    except (ValueError, RecursionError):
        text = body.decode("utf-8", "replace").strip()
        return ProviderError(text, frozenset()) if text[:1] not in ("", "<", "{", "[") else None


def page_title(body: bytes | bytearray) -> str:
    """The title of a web page: a gateway or a firewall says there what it refuses."""
    found = _TITLE.search(body)
    return html.unescape(found[1].decode("utf-8", "replace")).strip() if found else ""


def error_in(event: Mapping[str, Any]) -> ProviderError | None:
    """The error that an event of a stream, or a whole answer, carries in spite of its status 200."""
    choices = event.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None
    if choice is None:
        is_error = _failed(event) or any(map(_reports, (event, *event.values())))
        return read_error(event) or _NO_WORDS if is_error else None
    for place in (event, choice, choice.get("delta"), event.get("x_groq")):
        # Runs for each token: only an object that names an error is looked at more closely.
        if isinstance(place, dict) and not _NAMED.isdisjoint(place) and _reports(place):
            return read_error(place) or _NO_WORDS
    return None


def _reports(place: object) -> bool:
    """Whether an object has an error that is more than an empty form."""
    fields = ((key, value) for key, value in _plain(place) if key in _ERRORS)
    return any(_failed(value) if key == "baseresp" else _holds(value) for key, value in fields)


def _words(value: object, codes: set[str], depth: int) -> str:
    """The innermost message of an envelope; its codes are added to `codes`."""
    if depth == 0:
        return ""
    if isinstance(value, str):
        return _text(value.strip(), codes, depth)
    if isinstance(value, list):
        return "; ".join(filter(None, (_words(item, codes, depth - 1) for item in value[:5])))
    if not isinstance(value, dict):
        return ""
    fields = dict(_plain(value))
    for key in _CODES:
        code = fields.get(key)
        if isinstance(code, str | int) and not isinstance(code, bool) and str(code).lower() not in _SUCCESS:
            codes.add(str(code).strip().lower())
    found = next(filter(None, (_words(fields.get(key), codes, depth - 1) for key in (*_ERRORS, *_WORDS))), "")
    # A router keeps the words of the provider behind it apart from its own.
    behind = fields.get("metadata")
    raw = _words(behind.get("raw"), codes, depth - 1) if isinstance(behind, dict) else ""
    return f"{found}: {raw}" if found and raw and raw not in found else found or raw


def _text(text: str, codes: set[str], depth: int) -> str:
    """A message, or the one inside it where it is the JSON of another error."""
    if text[:1] in ("{", "["):
        try:
            return _words(json.loads(text), codes, depth - 1) or text
        except (ValueError, RecursionError):
            pass
    return text


def _failed(value: object) -> bool:
    """Whether an object without an answer says that it is a failure: heartbeats and notices have codes too."""
    for key, item in _plain(value):
        said = str(item).strip().lower()
        if key in ("success", "ok") and said == "false":
            return True
        if key in ("type", "object", "status", "event") and said in _FAILED:
            return True
        if key == "status" and said.isdigit() and int(said) >= 400:
            return True
        if key in _NUMBERED and isinstance(item, str | int) and said not in _SUCCESS:
            return True
    return False


def _holds(value: object) -> bool:
    """Whether an error is more than an empty form: some gateways send one with every answer."""
    if isinstance(value, dict | list):
        return any(map(_holds, value.values() if isinstance(value, dict) else value))
    return str(value).strip().lower() not in (*_SUCCESS, "false") or value is True


def _plain(value: object) -> Iterator[tuple[str, Any]]:
    """The items of an object, their keys in one spelling."""
    for key, item in value.items() if isinstance(value, dict) else ():
        yield str(key).replace("_", "").replace("-", "").lower(), item

"""Reads the body of an answer with a 2xx status into an `Answer`: as a stream of events, or as JSON.

The body's first character decides which: the content type of gateways is often another one.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from . import sse
from .answer import Answer, ChatError
from .envelope import ProviderError, error_in_body, page_title

_MAX_BODY = 8 << 20  # bytes, also of one event: some servers send a whole answer as one
_MAX_STRAYS = 64 << 10  # bytes of lines that belong to no event
_BLANK = b"\xef\xbb\xbf \t\r\n"
_SPACE = re.compile(r"\s*")


def _finite(number: str) -> float | None:
    """A number that JSON has: gateways in Python write NaN, which no checkpoint takes."""
    return value if math.isfinite(value := float(number)) else None


#: A raw tab or line feed in a text, or a number that is none, is not worth another call.
_DECODER = json.JSONDecoder(strict=False, parse_float=_finite, parse_constant=_finite)


async def receive(chunks: AsyncIterator[bytes], answer: Answer, progress: Callable[[], None]) -> None:
    """Fill in `answer`; call `progress` after each piece of it in a stream, and at its end. Raises ChatError.

    What comes after the answer is finished fails nothing: at most the usage numbers are lost.
    """
    start = b""
    while not start:
        try:
            start = (await anext(chunks)).lstrip(_BLANK)
        except StopAsyncIteration:
            return
    if start[:1] == b"<":
        raise _page(answer, page_title(start))
    if start[:1] == b"\x1f":  # of gzip, and of no text
        raise ChatError("malformed", "the answer is compressed, and its Content-Encoding is not gzip")
    if start[:1] in (b"{", b"["):
        await _document(start, chunks, answer)
        return
    stream = _Stream(answer)
    try:
        more: bytes | None = start
        while more is not None:
            for _ in stream.feed(more):
                progress()
            if answer.ended and not answer.is_finished:
                return
            more = await anext(chunks, None)
        for _ in stream.close():
            progress()
    except ChatError:
        if not answer.is_finished:
            raise


async def _document(start: bytes, chunks: AsyncIterator[bytes], answer: Answer) -> None:
    """A body of JSON: one document, or several on lines of their own."""
    body = bytearray(start)
    try:
        await fill(body, chunks, _MAX_BODY)
    except BaseException:
        # The caller sees whether the answer was whole before the connection broke or hung.
        with contextlib.suppress(ChatError):
            _take_all(body, answer)
        raise
    _take_all(body, answer)


def _take_all(body: bytearray, answer: Answer) -> None:
    try:
        count = 0
        for event in _events(body.decode("utf-8", "replace")):
            _take(event, answer)
            count += 1
        answer.ended = count == 1 or body[:1] == b"["  # of several lines nobody knows whether more were to come
    except ChatError:
        if not answer.is_finished:
            raise


async def fill(body: bytearray, chunks: AsyncIterator[bytes], limit: int) -> None:
    """Add all bytes to `body`. Raises ChatError (too_large)."""
    async for chunk in chunks:
        body += chunk
        if len(body) > limit:
            raise ChatError("too_large", f"the answer's body is longer than {limit} bytes")


class _Stream:
    """A stream of events; each method yields once for each event that made progress."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._parser = sse.Parser(_MAX_BODY, _is_whole)
        self._strays = ""

    def feed(self, chunk: bytes) -> Iterator[None]:
        try:
            for item in self._parser.feed(chunk):
                yield from self._take(item)
        except sse.TooLong:
            raise ChatError("too_large", f"an event of the stream is longer than {_MAX_BODY} bytes") from None

    def close(self) -> Iterator[None]:
        for item in self._parser.close():
            yield from self._take(item)
        if _is_whole(self._strays):
            yield from self._read(self._strays)
        elif self._strays and (error := error_in_body(self._strays.encode())) is not None:
            self._answer.note(error)

    def _take(self, item: sse.Event | sse.Stray) -> Iterator[None]:
        answer = self._answer
        if isinstance(item, sse.Stray):
            yield from self._stray(item.text)
            return
        data = _unquoted(item.data.strip())
        if item.name.strip().lower() == "error" and data:
            raise answer.reported(error_in_body(data.encode()) or ProviderError(data, frozenset()))
        if data.upper() == "[DONE]":
            answer.ended = True
            yield
        elif data[:1] == "<":
            raise _page(answer)
        elif data[:1] in ("{", "["):
            yield from self._read(data)
        elif (chunk := _chunk_in(data)) is not None:
            yield from self._read(chunk)
        elif data:
            answer.note(ProviderError(data, frozenset()))  # a heartbeat in words, or an error in plain text

    def _read(self, data: str) -> Iterator[None]:
        try:
            for event in _events(data):
                if _take(event, self._answer):
                    self._answer.chunks += 1
                    yield
        except ChatError as error:
            if error.kind != "not_json":
                raise
            if _is_whole(whole := f"{data}\n{self._strays}"):  # JSON over several lines, of which only one has `data:`
                self._strays = ""
                yield from self._read(whole)
                return
            # A gateway that breaks off may write its error into the event that it has begun.
            for line in data.split("\n")[1:]:
                if line[:1] == "{" and (cut := error_in_body(line.encode())) is not None:
                    raise self._answer.reported(cut) from None
            raise

    def _stray(self, text: str) -> Iterator[None]:
        """A line that belongs to no event: a web page, a chunk or an error without `data:`, or nothing."""
        field, _, value = text.partition(":")
        if text.lstrip()[:1] == "<":
            raise _page(self._answer)
        if field.strip().lower() == "error":
            yield from self._take(sse.Event(value, "error"))
        elif _is_whole(text := _unquoted(text)):
            yield from self._take(sse.Event(text))
        elif text[:1] != "{" and (chunk := _chunk_in(text)) is not None:
            yield from self._read(chunk)
        elif len(self._strays) < _MAX_STRAYS:
            self._strays += f"{text}\n"


def _take(event: dict[str, Any], answer: Answer) -> bool:
    try:
        return answer.take(event)
    except RecursionError:
        raise ChatError("malformed", "the answer is nested too deeply") from None


def _events(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects of a text, also those of a list. Raises ChatError (not_json, malformed), at the first fault."""
    at = 0
    while at < len(text):
        try:
            value, at = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            raise ChatError("not_json", "the answer is not whole JSON") from None
        at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
        found = value if isinstance(value, list) and value else [value]
        for item in found:
            if not isinstance(item, dict):
                raise ChatError("malformed", "the answer is not a JSON object")
            yield item


def _unquoted(data: str) -> str:
    """JSON that a gateway has encoded twice is a string."""
    if data[:1] != '"':
        return data
    try:
        return str(json.loads(data, strict=False)).strip()
    except (ValueError, RecursionError):
        return data


def _chunk_in(text: str) -> str | None:
    """A chunk of an answer behind something else: not to read it would be a gap in the text that nobody sees."""
    at = text.find("{")
    return text[at:] if 0 <= at < text.find('"choices"') else None


def _is_whole(data: str) -> bool:
    """Whether data is a JSON object or the mark of the end."""
    if data.strip() == "[DONE]":
        return True
    try:
        return isinstance(_DECODER.decode(data), dict)
    except (ValueError, RecursionError):
        return False


def _page(answer: Answer, title: str = "") -> ChatError:
    if answer.has_content:
        return ChatError("broken_off", "a web page came in the middle of the answer")
    said = answer.say(title) or "of a gateway or a firewall? does base_url lack its /v1?"
    return ChatError("html", f"the provider answered with a web page: {said}")

"""Reads server-sent events as the WHATWG standard says: bytes in, events out. Knows nothing of what the events say.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation. Departures are for streams
of gateways that are not written as the standard says, and each is marked as one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class Event:
    """A dispatched event. `name` is empty where the stream gives none; `data` may be empty, too."""

    data: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Stray:
    """Departure: a line that is no field of the standard, which ignores it; some gateways write an error so."""

    text: str


class TooLong(Exception):
    """A line, or the data of an event, is longer than the limit."""


class Parser:
    """Turns chunks, cut anywhere, into events; `limit` bounds the bytes that wait for the end of an event.

    Departure: `is_whole` says whether data can stand alone. Where it does and the next event begins without the blank
    line between them, the event is dispatched as if there were one.
    """

    def __init__(self, limit: int, is_whole: Callable[[str], bool] = lambda data: False) -> None:
        self._limit = limit
        self._is_whole = is_whole
        self._rest = bytearray()  # of a line without its end
        self._after_cr = False  # a CR ended the last chunk: a LF at the start of the next one belongs to it
        self._first = True
        self._name = ""
        self._data: list[str] = []
        self._size = 0

    def feed(self, chunk: bytes) -> Iterator[Event | Stray]:
        """The events that a chunk completes. Raises TooLong."""
        if not chunk:
            return
        if self._after_cr and chunk[:1] == b"\n":
            chunk = chunk[1:]
        self._after_cr = chunk[-1:] == b"\r"
        *lines, rest = _LINE_END.split(chunk)
        for line in lines:
            if self._rest:
                line, self._rest = bytes(self._rest) + line, bytearray()
            yield from self._line(line)
        self._rest += rest
        if len(self._rest) > self._limit:
            raise TooLong

    def close(self) -> Iterator[Event | Stray]:
        """What is left at the end of the stream. Departure: the standard drops an event without its blank line, but
        many streams end without one; the reader sees from the data whether it is whole."""
        yield from self._line(bytes(self._rest))
        yield from self._dispatch()

    def _line(self, line: bytes) -> Iterator[Event | Stray]:
        if self._first:
            self._first = False
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            yield from self._dispatch()
            return
        text = line.decode("utf-8", "replace")
        field, _, value = text.partition(":")
        value = value.removeprefix(" ")
        # Looked at for one line alone: for each of many it would take hours.
        if field in ("data", "event") and len(self._data) == 1 and self._is_whole(self._data[0]):
            yield from self._dispatch()
        if field == "data":
            self._data.append(value)
            self._size += len(line)
            if self._size > self._limit:
                raise TooLong
        elif field == "event":
            self._name = value
        elif field not in ("", "id", "retry"):  # a comment, and what is for a reconnection, which there is none of
            yield Stray(text)

    def _dispatch(self) -> Iterator[Event]:
        if self._data:
            yield Event("\n".join(self._data), self._name)
        self._name, self._data, self._size = "", [], 0

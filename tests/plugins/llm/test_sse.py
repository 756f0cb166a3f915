"""Server-sent events are read line by line as the WHATWG standard says, and however the bytes are cut into chunks."""

from __future__ import annotations

import tracemalloc

import pytest
from sytq_plugins.llm.sse import Event, Parser, Stray, TooLong


def read(*chunks: bytes, limit: int = 1 << 20) -> list[Event | Stray]:
    parser = Parser(limit, is_whole=lambda data: data.endswith("}"))
    return [item for chunk in chunks for item in parser.feed(chunk)] + list(parser.close())


#: A rule of the standard (or a departure from it) -> the stream, what comes out.
RULES: dict[str, tuple[bytes, list[Event | Stray]]] = {
    # The examples of the standard's section "Interpreting an event stream".
    "data lines are joined by line feeds": (b"data: YHOO\ndata: +2\ndata: 10\n\n", [Event("YHOO\n+2\n10")]),
    "comment, id and data": (
        b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
        [Event("first event"), Event("second event"), Event(" third event")]),
    "data without a value is empty data": (b"data\n\ndata\ndata\n\ndata:", [Event(""), Event("\n"), Event("")]),
    "one space after the colon is skipped": (b"data:test\n\ndata: test\n\n", [Event("test"), Event("test")]),
    # The grammar.
    "CR ends a line": (b"data: a\rdata: b\r\r", [Event("a\nb")]),
    "CRLF is one line end": (b"data: a\r\ndata: b\r\n\r\n", [Event("a\nb")]),
    "line ends may be mixed": (b"data: a\r\n\ndata: b\n\r\ndata: c\r\r", [Event("a"), Event("b"), Event("c")]),
    "only CR and LF end lines": ("data: a\x0b\x0c\x1c\x85\u2028b\n\n".encode(), [Event("a\x0b\x0c\x1c\x85\u2028b")]),
    "one byte order mark is skipped": (b"\xef\xbb\xbfdata: a\n\n", [Event("a")]),
    "a second byte order mark is text": (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", [Stray("\ufeffdata: a")]),
    "invalid UTF-8 is replaced": (b"data: a\xffb\xe4\xbb\n\n", [Event("a\ufffdb\ufffd")]),
    "event names are kept and reset": (b"event: error\ndata: a\n\ndata: b\n\n", [Event("a", "error"), Event("b")]),
    "an event without data is none": (b"event: ping\n\nid: 7\n\nretry: 10\n\n:\n\n\n\n", []),
    "the last event name counts": (b"event: a\nevent: b\ndata: c\n\n", [Event("c", "b")]),
    "a colon in the value is text": (b'data: {"a": 1}\n\n', [Event('{"a": 1}')]),
    "field names are exact": (b"Data: a\n data: b\ndata : c\n\n", [
        Stray("Data: a"), Stray(" data: b"), Stray("data : c")]),
    "an unknown field is no event": (b"foo: bar\ndata: a\n\n", [Stray("foo: bar"), Event("a")]),
    # Departures.
    "the last event needs no blank line": (b"data: a\n\ndata: b\n", [Event("a"), Event("b")]),
    "the last line needs no end": (b"data: a\n\ndata: b", [Event("a"), Event("b")]),
    "whole data needs no blank line": (b"data: {1}\ndata: {2}\nevent: x\ndata: {3}\n", [
        Event("{1}"), Event("{2}"), Event("{3}", "x")]),
    "a line of no field comes out": (b'data: a\n\n{"error": 1}\n', [Event("a"), Stray('{"error": 1}')]),
}  # fmt: skip


@pytest.mark.parametrize("name", RULES)
def test_stream_is_read_as_the_standard_says_wherever_it_is_cut(name: str) -> None:
    stream, expected = RULES[name]
    assert read(stream) == expected
    assert read(*(stream[n : n + 1] for n in range(len(stream)))) == expected
    for cut in range(len(stream) + 1):
        assert read(stream[:cut], b"", stream[cut:]) == expected, f"cut at {cut}"


def test_event_comes_out_with_its_blank_line_and_not_later() -> None:
    parser = Parser(1000)
    assert list(parser.feed(b"data: a\r\n\r")) == [Event("a")]
    assert list(parser.feed(b"\ndata: b\n")) == []
    assert list(parser.feed(b"\n")) == [Event("b")]


@pytest.mark.parametrize("stream", [b"data: " + b"x" * 2000, b"data: xxx\n" * 300, b"x" * 2000])
def test_waiting_bytes_are_bounded(stream: bytes) -> None:
    parser = Parser(1000)
    with pytest.raises(TooLong):
        for n in range(0, len(stream), 64):
            list(parser.feed(stream[n : n + 64]))


def test_event_of_many_lines_is_looked_at_once() -> None:
    looks: list[str] = []
    parser = Parser(1 << 20, lambda data: bool(looks.append(data)))
    assert list(parser.feed(b"data: a\n" * 5000 + b"\n")) == [Event("\n".join("a" * 5000))]
    assert looks == ["a"]


def test_long_stream_of_single_bytes_uses_bounded_memory() -> None:
    parser = Parser(1 << 20)
    tracemalloc.start()
    try:
        for _ in range(200_000):
            list(parser.feed(b"x"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 << 20

"""The connections of aiohttp's pool. aiohttp drops a whole response for a fault behind its status line; these keep it.

They also bound the head of a response, which aiohttp bounds by line only.
"""

from __future__ import annotations

import select
from functools import partial
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawResponseMessage

from sytq.http.head import PLAIN, HeadLines, could_be_http, is_final, read_head, receiving
from sytq.http.timing import current

# The parser's own limits, 8 KiB and 128, are below what some servers send of cookies and policies.
_LIMITS = {"max_line_size": 64 << 10, "max_field_size": 64 << 10, "max_headers": 1000}
_MAX_HEAD = 256 << 10  # bytes, interim responses included


class Connector(aiohttp.TCPConnector):
    """Makes each new connection a `Connection`, and notes in the call's `Timing` how it came to one.

    aiohttp's trace hooks would tell the same; they cost a call a fifth of its CPU.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        connection: type[ResponseHandler] = Connection
        self._factory = partial(connection, loop=self._loop)  # aiohttp has no public way

    async def connect(self, *args: Any, **options: Any) -> aiohttp.connector.Connection:
        timing = current.get()
        if timing is None:
            return await super().connect(*args, **options)
        timing.connected = False  # until then, as after the loss of a reused connection
        connection = await super().connect(*args, **options)
        if not timing.connected:  # it is a reused one
            timing.begin()
            timing.connected = True
        return connection

    async def _create_connection(self, *args: Any, **options: Any) -> ResponseHandler:
        timing = current.get()
        if timing is None:
            return await super()._create_connection(*args, **options)
        timing.begin()
        connection = await super()._create_connection(*args, **options)
        timing.connect = timing.end()
        timing.connected = True
        return connection


class Connection(ResponseHandler):
    """Gives the parser repaired heads, each apart from what follows, so that a fault there comes after the status."""

    _head: bytearray | None = None  # None: the head of the final response has been read
    _parsed = 0  # bytes of it
    _lines: HeadLines
    _poll: select.poll | None = None  # of its socket

    def set_response_params(self, **options: Any) -> None:
        """Expect a response."""
        head = receiving.get()
        self._head = bytearray() if head is None else head
        self._head.clear()  # aiohttp repeats some requests on another connection
        self._parsed = 0
        self._lines = HeadLines()
        super().set_response_params(**options | _LIMITS)

    def data_received(self, data: bytes) -> None:
        if (head := self._head) is not None:
            plain = None if head else PLAIN.match(data)
            head += data
            if plain:
                self._end_of_head(head, bytearray(plain[0]), plain.end())
            elif not could_be_http(head):
                super().data_received(data)
            else:
                self._lines_received(head)
        elif data and self._payload is not None and self._payload.is_eof() and not self._upgraded:
            self._give_up()  # not asked for: the next request would take it for its response
        else:
            super().data_received(data)

    def _lines_received(self, head: bytearray) -> None:
        passed = bytearray()
        while self._exception is None and (end := head.find(b"\n", self._parsed) + 1):
            line = bytes(head[self._parsed : end])
            self._parsed = end
            passed += self._lines.passed(line)
            if line in (b"\r\n", b"\n"):
                self._end_of_head(head, passed, end)
                if self._head is None:
                    return
        self._parse(passed)
        if self._exception is None and len(head) > _MAX_HEAD:
            self.set_exception(HttpProcessingError(message=f"a head of more than {_MAX_HEAD} bytes"))
            self._give_up()

    def _end_of_head(self, head: bytearray, passed: bytearray, end: int) -> None:
        """Parse what has passed of a head that ends here, and then, if it was the final response's, what follows."""
        self._parse(passed)
        if self._head is None:
            self._parse(head[end:])
            head.clear()

    def _parse(self, data: bytearray) -> None:
        if data and self._exception is None:
            super().data_received(bytes(data))
        if self._lines.repaired:
            self.force_close()
        data.clear()

    def feed_data(self, data: tuple[RawResponseMessage, aiohttp.StreamReader], size: int = 0) -> None:
        if is_final(data[0].code):
            self._head = None
        super().feed_data(data, size)

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        if isinstance(exc, HttpProcessingError) and self._payload is not None:
            # aiohttp would let the reader wait until its deadline; later, so that it gets what came before.
            self._loop.call_soon(_break_off, self._payload, exc.message)
        elif isinstance(exc, aiohttp.ClientConnectionError) and self._head and read_head(self._head):
            exc = aiohttp.ClientPayloadError("the connection ended")  # aiohttp repeats a request without a response
        super().set_exception(exc, *cause)

    def is_connected(self) -> bool:
        """Whether the connection can be reused: not when there is something to read, such as its end."""
        if self.transport is None or not super().is_connected():
            return False
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self.transport.get_extra_info("socket"), select.POLLIN)
        return not self._poll.poll(0)

    def _give_up(self) -> None:
        self.force_close()
        if self.transport is not None:
            self.transport.close()


def _break_off(body: aiohttp.StreamReader, why: str) -> None:
    if not body.is_eof():
        body.set_exception(aiohttp.ClientPayloadError(why))

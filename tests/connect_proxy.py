"""An HTTP proxy on loopback, as companies have them between their machines and the world."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Proxy:
    """Speaks CONNECT and absolute URIs; connects every name to loopback, and keeps the request lines."""

    def __init__(self, login: str | None = None, refuses: int | None = None) -> None:
        self.asked: list[str] = []
        self._login = base64.b64encode(login.encode()) if login else None
        self._refuses = refuses

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            line, _, _ = head.partition(b"\r\n")
            self.asked.append(line.decode())
            if self._login and b"Basic " + self._login not in head:
                writer.write(b"HTTP/1.1 407 Login\r\nContent-Length: 0\r\n\r\n")
                return
            if self._refuses:
                writer.write(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % self._refuses)
                return
            method, target, _ = line.split(b" ")
            port = int(target.rpartition(b":")[2].partition(b"/")[0])
            there, back = await asyncio.open_connection("127.0.0.1", port)
            if method == b"CONNECT":
                writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
            else:
                back.write(head)
            await asyncio.gather(_pipe(reader, back), _pipe(there, writer))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()

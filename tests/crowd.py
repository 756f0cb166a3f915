"""A service on loopback with limited concurrency: counts the calls in progress."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter


class Crowd:
    """A call is one connection: it sends its name, waits, and reads "ok" or, above `room` concurrent calls, "full".

    It waits for the current `seconds`: lowering them ends calls that have waited longer.
    """

    def __init__(self, seconds: float, room: int = 1_000_000) -> None:
        self.seconds = seconds
        self.room = room
        self.answer = b"ok"
        self.now = 0
        self.peak = 0
        self.calls: Counter[str] = Counter()
        self.answers: Counter[bytes] = Counter()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1000), self._loop
        ).result(60)
        self.port: int = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.now += 1
        self.peak = max(self.peak, self.now)
        full = self.now > self.room
        try:
            self.calls[(await reader.readline()).decode().strip()] += 1
            if not full:
                # Until the end or the disconnect of the caller: calls of a killed worker end with its sockets.
                began, gone = self._loop.time(), asyncio.ensure_future(reader.read())
                while not gone.done() and (left := began + self.seconds - self._loop.time()) > 0:
                    await asyncio.wait([gone], timeout=min(left, 0.05))
                if gone.done():
                    gone.result()  # or a broken connection
                else:
                    gone.cancel()
            answer = b"full" if full else self.answer
            self.answers[answer] += 1
            writer.write(answer)
        finally:
            self.now -= 1
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

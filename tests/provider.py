"""A scripted chat provider on loopback: plays scenes over real sockets and records the requests.

It runs in its own thread, so that plain tests, asyncio tests and worker processes can all call it.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

REPORT = "The house is worth 420 to 460 thousand."
USAGE = {"prompt_tokens": 21, "completion_tokens": 9, "total_tokens": 30}


@dataclass(frozen=True)
class Asked:
    """One request as it arrived; header names in lower case."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


class Stage:
    """One request, and the connection on which a scene answers it."""

    def __init__(self, asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked = asked
        self._reader = reader
        self._writer = writer

    async def raw(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def head(self, status: int = 200, kind: str = "text/event-stream", **headers: str) -> None:
        """Status and headers of a chunked answer. `retry_after="2"` is the header Retry-After."""
        lines = [f"HTTP/1.1 {status} Scripted", f"Content-Type: {kind}", "Transfer-Encoding: chunked"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.raw(("\r\n".join(lines) + "\r\n\r\n").encode())

    async def send(self, data: bytes | str) -> None:
        """A piece of the body."""
        data = data.encode() if isinstance(data, str) else data
        await self.raw(b"%x\r\n%s\r\n" % (len(data), data))

    async def event(self, **event: Any) -> None:
        await self.send(f"data: {json.dumps(event)}\n\n")

    async def delta(self, text: str | None = None, *, finish: str | None = None, **more: Any) -> None:
        delta = more if text is None else {"content": text, **more}
        await self.event(choices=[{"index": 0, "delta": delta, "finish_reason": finish}], model="scripted-1")

    async def end(self) -> None:
        """The end of the body; the connection stays usable."""
        await self.raw(b"0\r\n\r\n")

    async def until_gone(self) -> None:
        """Do nothing until the client has closed the connection."""
        while await self._reader.read(65536):
            pass

    def reset(self) -> None:
        """End the connection with RST."""
        raw = self._writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def drop(self) -> None:
        """Close the connection in the middle of the answer."""
        self._writer.transport.close()


Scene = Callable[[Stage], Awaitable[None]]


class ScriptedProvider:
    """Plays one scene per call, and the last one for every call after that; over TLS with a context for it."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.calls: list[Asked] = []
        self.connections = 0
        self.running = self.peak = 0  # calls at this moment, and their maximum
        self.closed_by_client = threading.Event()
        self._scenes: list[Scene] = [answers()]
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._serve(tls), self._loop).result(60)
        self.port = self._server.sockets[0].getsockname()[1]
        self.base_url = f"https://localhost:{self.port}/v1" if tls else f"http://127.0.0.1:{self.port}/v1"

    def play(self, *scenes: Scene) -> None:
        self._scenes = list(scenes)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()

    async def _serve(self, tls: ssl.SSLContext | None) -> asyncio.Server:
        return await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=tls)

    async def _close(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while True:
                asked = await _request(reader)
                self.calls.append(asked)
                scene = self._scenes.pop(0) if len(self._scenes) > 1 else self._scenes[0]
                self.running += 1
                self.peak = max(self.peak, self.running)
                try:
                    await scene(Stage(asked, reader, writer))
                finally:
                    self.running -= 1
                if writer.is_closing():
                    return
        except (OSError, asyncio.IncompleteReadError):
            self.closed_by_client.set()
        except asyncio.CancelledError:
            pass  # the test is over
        finally:
            writer.transport.abort()
            self._tasks.discard(task)


async def _request(reader: asyncio.StreamReader) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(first.split(" ")[1], headers, json.loads(body or b"{}"))


# -- scenes


def answers(
    text: str = REPORT, *, finish: str | None = "stop", usage: dict[str, int] | None = USAGE, done: bool = True
) -> Scene:
    """A normal answer in the requested form, streamed or whole."""

    async def scene(stage: Stage) -> None:
        if not stage.asked.body.get("stream"):
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": finish}
            await stage.head(kind="application/json")
            await stage.send(json.dumps({"model": "scripted-1", "choices": [choice], "usage": usage}))
            return await stage.end()
        await stage.head()
        await stage.delta("", role="assistant")
        for start in range(0, len(text), 16):
            await stage.delta(text[start : start + 16])
        if finish is not None:
            await stage.delta(finish=finish)
        if usage:
            await stage.event(choices=[], usage=usage)
        if done:
            await stage.send("data: [DONE]\n\n")
        await stage.end()

    return scene


def later(seconds: float, scene: Scene) -> Scene:
    """`scene` after `seconds`."""

    async def waits(stage: Stage) -> None:
        await asyncio.sleep(seconds)
        await scene(stage)

    return waits


def says(body: str | bytes, kind: str = "text/event-stream", status: int = 200, **headers: str) -> Scene:
    """These bytes as the whole body."""

    async def scene(stage: Stage) -> None:
        await stage.head(status, kind, **headers)
        await stage.send(body)
        await stage.end()

    return scene


def refuses(status: int, message: str = "as scripted", **headers: str) -> Scene:
    """An error answer in OpenAI's form."""
    return says(json.dumps({"error": {"message": message}}), "application/json", status, **headers)


def then(text: str | None, ending: Scene) -> Scene:
    """A stream that begins with `text` (None: without headers) and continues with `ending`."""

    async def scene(stage: Stage) -> None:
        if text is not None:
            await stage.head()
            if text:
                await stage.delta(text)
        await ending(stage)

    return scene


async def hangs(stage: Stage) -> None:
    await stage.until_gone()
    raise ConnectionResetError


async def resets(stage: Stage) -> None:
    stage.reset()


async def drops(stage: Stage) -> None:
    stage.drop()


def repeats(piece: str, every: float = 0.02) -> Scene:
    """The same bytes again and again, without end."""

    async def scene(stage: Stage) -> None:
        while True:
            await stage.send(piece)
            await asyncio.sleep(every)

    return scene


async def trickles(stage: Stage) -> None:
    """Content, a character at a time, without end."""
    while True:
        await stage.delta("x")
        await asyncio.sleep(0.02)


async def drips_headers(stage: Stage) -> None:
    """A header that is never finished."""
    await stage.raw(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while True:
        await stage.raw(b"x")
        await asyncio.sleep(0.02)

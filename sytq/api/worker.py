"""gunicorn's asgi worker with bounds on silent clients.

Owns two bounds that gunicorn 27's worker lacks: a connection must bring a whole request head within
HEAD_SECONDS, and a process holds no more than `worker_connections`. Must not know the app.
"""

from __future__ import annotations

import asyncio
from typing import Any

from gunicorn.asgi.protocol import ASGIProtocol  # type: ignore[import-untyped]
from gunicorn.workers import gasgi  # type: ignore[import-untyped]

#: A connection that stays idle after a request is closed by the worker itself (keepalive).
HEAD_SECONDS = 10.0


class _Protocol(ASGIProtocol):  # type: ignore[misc]
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self.worker.nr_conns > self.worker.worker_connections:
            self._send_error_response(503, "too many connections")
            self._close_transport()
            return
        # The timer of idle connections, which the first request's complete head cancels.
        self._keepalive_handle = self.worker.loop.call_later(HEAD_SECONDS, self._keepalive_timeout)


class Worker(gasgi.ASGIWorker):  # type: ignore[misc]
    """The worker class of `sytq.api.gunicorn_conf`."""

    def init_process(self) -> Any:
        # The worker offers no other way to choose its protocol; this process serves nothing else.
        gasgi.ASGIProtocol = _Protocol
        return super().init_process()

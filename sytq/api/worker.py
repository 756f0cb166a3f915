"""gunicorn's asgi worker with limits for silent clients and a graceful end.

gunicorn 27's worker lacks these: a connection must send a whole request head within HEAD_SECONDS, a process has at most
`worker_connections` connections, and a connection is closed only after a response that announced it. The event
`draining` in the ASGI state lets an app end long responses early.
"""

from __future__ import annotations

import asyncio
import gc
import resource
from functools import partial
from typing import Any

from gunicorn.asgi.protocol import ASGIProtocol  # type: ignore[import-untyped]
from gunicorn.workers import gasgi  # type: ignore[import-untyped]

#: Only for the first request: gunicorn's worker closes connections that stay idle after one (keepalive).
HEAD_SECONDS = 10.0
#: Open files of a process besides clients' connections: to the stores, the log, listening sockets.
_OTHER_FILES = 500
#: Seconds of `graceful_timeout` (then the master kills the worker) that are left for the app's shutdown.
_LAST_SECONDS = 2.0


def _allow_files(count: int) -> None:
    """Raise the soft limit (1,024 in a shell) if the hard one permits: at the limit no connection is accepted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _Protocol(ASGIProtocol):  # type: ignore[misc]
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self.worker.nr_conns > self.worker.worker_connections:
            self._send_error_response(503, "too many connections")
            self._close_transport()
            return
        # The timer of idle connections; the complete head of the first request cancels it.
        self._keepalive_handle = self.worker.loop.call_later(HEAD_SECONDS, self._keepalive_timeout)

    def _will_close(self, request: Any, response_requires_close: bool) -> bool:
        # Called when the head of a response is written. gunicorn checks the worker's `alive` after the response and
        # would close a keep-alive connection, perhaps with the next request on its way; so `alive` stays true while the
        # worker drains, and this method alone decides.
        return self.worker.draining.is_set() or bool(super()._will_close(request, response_requires_close))


class Worker(gasgi.ASGIWorker):  # type: ignore[misc]
    """The worker class set in `sytq.api.gunicorn_conf`."""

    def init_process(self) -> Any:
        # There is no other way to choose the protocol; this process serves nothing else.
        gasgi.ASGIProtocol = _Protocol
        self.draining = self.state["draining"] = asyncio.Event()
        _allow_files(self.cfg.worker_connections + _OTHER_FILES)
        return super().init_process()

    def _setup_event_loop(self) -> None:
        super()._setup_event_loop()
        # asyncio would listen again with a backlog of 100: too short for all clients during a reload.
        self.loop.create_server = partial(self.loop.create_server, backlog=self.cfg.backlog)

    def load_wsgi(self) -> None:
        super().load_wsgi()
        # Loaded modules stay: the collector need not scan them.
        gc.collect()
        gc.freeze()
        # Requests of waiting clients live long and are not frozen: a collection with a thousand takes 0.1 s, and
        # recurs under load.
        gc.set_threshold(10_000, 10, 10)

    def handle_exit_signal(self) -> None:
        """Handle SIGTERM (stop or reload): accept no more connections, and let the open ones end."""
        if not self.draining.is_set():
            self.draining.set()
            self._drainer = self.loop.create_task(self._drain())

    async def _drain(self) -> None:
        # In two steps: closing a server resets connections that are accepted but not yet set up.
        for server in self.servers:
            for listening in server.sockets:
                self.loop.remove_reader(listening)
        await asyncio.sleep(0.1)
        for server in self.servers:
            server.close()
        deadline = self.loop.time() + max(0.5, self.cfg.graceful_timeout - _LAST_SECONDS)
        # Idle connections keep their timeout: a request on its way is answered.
        while self.nr_conns > 0 and self.loop.time() < deadline and not self._quick_shutdown:
            await asyncio.sleep(0.05)
        self.cfg.set("graceful_timeout", 1)
        self.alive = False

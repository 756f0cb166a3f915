"""gunicorn's asgi worker with bounds on silent clients, and an end that breaks no request.

Owns what gunicorn 27's worker lacks: a connection must bring a whole request head within HEAD_SECONDS, a process holds
no more than `worker_connections`, and a connection is closed only after an answer that said so. Must not know the app;
one that wants to end long answers early finds the event `draining` in the ASGI state.
"""

from __future__ import annotations

import asyncio
import gc
import resource
from functools import partial
from typing import Any

from gunicorn.asgi.protocol import ASGIProtocol  # type: ignore[import-untyped]
from gunicorn.workers import gasgi  # type: ignore[import-untyped]

#: A connection that stays idle after a request is closed by the worker itself (keepalive).
HEAD_SECONDS = 10.0
#: Open files of a process besides its clients' connections: those to the stores, the log, the listening sockets.
_OTHER_FILES = 500
#: Of `graceful_timeout`, after which the master kills, so much is left for the app's own end.
_LAST_SECONDS = 2.0


def _allow_files(count: int) -> None:
    """Raise the soft limit as far as the hard one permits: a shell's is 1,024, and who is at it accepts nobody."""
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
        # The timer of idle connections, which the first request's complete head cancels.
        self._keepalive_handle = self.worker.loop.call_later(HEAD_SECONDS, self._keepalive_timeout)

    def _will_close(self, request: Any, response_requires_close: bool) -> bool:
        # Asked when the head of an answer is written. gunicorn looks again at the worker after the answer and closes
        # a connection that was promised to stay, with the client's next request perhaps on its way; so `alive` stays
        # true while the worker drains, and this alone decides.
        return self.worker.draining.is_set() or bool(super()._will_close(request, response_requires_close))


class Worker(gasgi.ASGIWorker):  # type: ignore[misc]
    """The worker class of `sytq.api.gunicorn_conf`."""

    def init_process(self) -> Any:
        # The worker offers no other way to choose its protocol; this process serves nothing else.
        gasgi.ASGIProtocol = _Protocol
        self.draining = self.state["draining"] = asyncio.Event()
        _allow_files(self.cfg.worker_connections + _OTHER_FILES)
        return super().init_process()

    def _setup_event_loop(self) -> None:
        super()._setup_event_loop()
        # asyncio would listen again with a queue of 100: too short for all clients while the processes change.
        self.loop.create_server = partial(self.loop.create_server, backlog=self.cfg.backlog)

    def load_wsgi(self) -> None:
        super().load_wsgi()
        # What was loaded stays: the collector need not go through it again and again.
        gc.collect()
        gc.freeze()
        # Not frozen are the requests of those who wait, which live long: looking through a thousand of them takes
        # 0.1 s, and came again and again under load.
        gc.set_threshold(10_000, 10, 10)

    def handle_exit_signal(self) -> None:
        """SIGTERM, of a stop or a reload: take no connection any more, and let those that are here end."""
        if not self.draining.is_set():
            self.draining.set()
            self._drainer = self.loop.create_task(self._drain())

    async def _drain(self) -> None:
        # In two steps: a server that is closed resets the connections that it has accepted and not yet set up.
        for server in self.servers:
            for listening in server.sockets:
                self.loop.remove_reader(listening)
        await asyncio.sleep(0.1)
        for server in self.servers:
            server.close()
        patience = max(0.5, self.cfg.graceful_timeout - _LAST_SECONDS)
        deadline = self.loop.time() + patience
        # Idle connections get their time as always: a request that is on its way on one of them is answered.
        while self.nr_conns > 0 and self.loop.time() < deadline and not self._quick_shutdown:
            await asyncio.sleep(0.05)
        self.cfg.set("graceful_timeout", 1)
        self.alive = False

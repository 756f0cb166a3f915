"""gunicorn's asgi worker with limits for silent clients and a graceful end.

gunicorn 27's worker lacks these: a connection must send a whole request head within HEAD_SECONDS, a process has at
most `worker_connections` connections (fewer where open files are short), and a connection is closed only after a
response that announced it. In the ASGI state, the event `draining` lets an app end long responses early, and
`max_waiting` is the number of clients that may wait.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import socket
from functools import partial
from typing import Any

from gunicorn.asgi.protocol import ASGIProtocol  # type: ignore[import-untyped]
from gunicorn.workers import gasgi  # type: ignore[import-untyped]

#: Only for the first request: gunicorn's worker closes connections that stay idle after one (keepalive).
HEAD_SECONDS = 10.0
#: Open files of a process besides clients' connections: to the stores, the log, listening sockets. At most half of all.
_OTHER_FILES = 500
#: Connections beyond the bound, for probes: what else they ask is refused.
_FOR_PROBES = 20
#: Connections that are accepted in one go, before those beyond the bound are closed.
_ACCEPTED_AT_ONCE = 16
#: The signals that stop a process. The master blocks them while it forks one, which keeps them until it has handlers.
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
#: Seconds of `graceful_timeout` (then the master kills the worker) that are left for the app's shutdown.
_LAST_SECONDS = 2.0


def _open_connections(wanted: int) -> int:
    """Raise the soft limit of open files (1,024 in a shell) for so many connections; return how many it permits.

    At the limit nothing could be accepted or answered, not even a probe.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    files = wanted + _OTHER_FILES
    if soft < files:
        soft = files if hard == resource.RLIM_INFINITY else min(files, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return min(wanted, max(soft - _OTHER_FILES, soft // 2))


class _Protocol(ASGIProtocol):  # type: ignore[misc]
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._for_probes = self.worker.nr_conns > self.worker.worker_connections
        if self.worker.nr_conns > self.worker.worker_connections + _FOR_PROBES:
            self._refuse()
            self._close_transport()
            return
        # The timer of idle connections; the complete head of the first request cancels it.
        self._keepalive_handle = self.worker.loop.call_later(HEAD_SECONDS, self._keepalive_timeout)

    async def _serve_http_request(self, request: Any, sockname: Any, peername: Any) -> Any:
        if self._for_probes and not request.path.startswith(("/healthz/", "/health", "/metrics")):
            self._refuse()
            return False
        return await super()._serve_http_request(request, sockname, peername)

    def _refuse(self) -> None:
        self.worker.report_full()
        self._send_error_response(503, "too many connections; try again", (("Retry-After", "1"),))

    def _will_close(self, request: Any, response_requires_close: bool) -> bool:
        # Called when the head of a response is written. gunicorn checks the worker's `alive` after the response and
        # would close a keep-alive connection, perhaps with the next request on its way; so `alive` stays true while the
        # worker drains, and this method alone decides.
        return self.worker.draining.is_set() or bool(super()._will_close(request, response_requires_close))


class Worker(gasgi.ASGIWorker):  # type: ignore[misc]
    """The worker class set in `sytq.api.gunicorn_conf`."""

    def init_process(self) -> Any:
        # This process has the handlers of the master, which only queue a signal. Until its event loop runs, which
        # notices no earlier signal, one that stops it ends it: else the master would kill it after `graceful_timeout`.
        for number in STOPS:
            signal.signal(number, lambda *_: os._exit(0))  # it serves nobody yet
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        # gunicorn notes its parser in C on the class of the connection that asks, and reads the note of its own class:
        # asked by a subclass alone it never uses that parser.
        ASGIProtocol._check_h1c_protocol_available()
        # There is no other way to choose the protocol; this process serves nothing else.
        gasgi.ASGIProtocol = _Protocol
        self.draining = self.state["draining"] = asyncio.Event()
        wanted = int(self.cfg.worker_connections)
        self.worker_connections = _open_connections(wanted)
        if self.worker_connections < wanted:
            said = "open files permit %d connections of %d: raise the hard limit (LimitNOFILE, ulimit -Hn)"
            self.log.warning(said, self.worker_connections, wanted)
        self.state["max_waiting"] = self.worker_connections * 2 // 3
        self._reported_full = float("-inf")
        return super().init_process()

    def init_signals(self) -> None:
        """Do nothing yet: `_serve` sets the handlers."""

    async def _serve(self) -> None:
        super().init_signals()
        await super()._serve()

    def report_full(self) -> None:
        """Log that connections are refused, once a minute."""
        if self.loop.time() - self._reported_full > 60:
            self._reported_full = self.loop.time()
            self.log.warning("connections beyond %d are refused", self.worker_connections)

    def _setup_event_loop(self) -> None:
        super()._setup_event_loop()
        self.loop.create_server = partial(self._listen, self.loop.create_server)

    async def _listen(self, create_server: Any, *args: Any, sock: socket.socket, **options: Any) -> asyncio.Server:
        server: asyncio.Server = await create_server(*args, sock=sock, backlog=_ACCEPTED_AT_ONCE, **options)
        sock.listen(self.cfg.backlog)  # else too short for all clients during a reload
        return server

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

"""Listening on this machine: checks the address of the API, builds the URL to reach it, and serves small helpers."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from collections.abc import AsyncIterator

from aiohttp import web

from sytq.dev.folder import DevError


def check_port(host: str, port: int) -> None:
    """Raise DevError, suggesting a free port, when no server can listen there."""
    if (problem := _no_bind(host, port)) is None:
        return
    free = next((other for other in range(port + 1, min(port + 100, 65536)) if _no_bind(host, other) is None), None)
    other = f"; another port: sytq dev --port {free} (or SYTQ_API__PORT={free})" if free else ""
    raise DevError(f"cannot listen on {host}:{port}: {problem}{other}")


def _no_bind(host: str, port: int) -> str | None:
    """Why gunicorn could not listen there, or None."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()  # two sockets may bind, only one may listen
    except OSError as error:
        return "the port is taken" if error.errno == errno.EADDRINUSE else str(error.strerror)
    return None


def url(host: str, port: int) -> str:
    """The address to reach a server on this machine at that listens on `host`."""
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_unspecified:
            host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    """Serve on a free port of loopback and yield the URL; the end cuts off calls in progress."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()

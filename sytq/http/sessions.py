"""Connection pools of the HTTP client, separate for URLs of callers and of the operator; DNS, TLS and the proxy."""

from __future__ import annotations

import asyncio
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import metadata
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from sytq.config.urls import ENVIRONMENT
from sytq.errors import CertificateUnusable
from sytq.http.guard import Guard
from sytq.http.protocol import Connector
from sytq.http.proxies import environment_proxy
from sytq.http.timing import current
from sytq.tcp import RESTED, client_socket
from sytq.tls import client_context

_DNS_THREADS = 32


class UnknownHost(aiohttp.ClientConnectionError):
    """The host name does not resolve."""


class NotHttp(aiohttp.ClientError):
    """The peer answered, but not with HTTP."""


class Sessions:
    """Sessions of one event loop (of the first use). `proxy` is used for URLs of callers."""

    def __init__(self, guard: Guard, proxy: str | None = None) -> None:
        self._guard = guard
        self._proxy = URL(proxy) if proxy else None
        # Separate, so that no trusted connection or DNS answer is ever reused for a caller's URL.
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._resolvers: dict[bool, _Resolver] = {}
        self._tls: dict[tuple[Path, Path, float, float], ssl.SSLContext] = {}

    def get(self, trusted: bool) -> aiohttp.ClientSession:
        """Return the session for trusted URLs or for callers' URLs."""
        if trusted not in self._sessions:
            self._resolvers[trusted] = resolver = _Resolver(None if trusted else self._guard)
            # With a proxy, only the proxy's own name is resolved here; `options` has checked the target.
            own = self._proxy is not None and not trusted
            # No limit: queues and slots limit concurrency, not a hidden default of 100.
            connector = Connector(
                resolver=_Resolver(None) if own else resolver,
                ssl=_tls_context(),
                limit=0,
                limit_per_host=0,
                keepalive_timeout=RESTED,
                socket_factory=client_socket,
            )
            self._sessions[trusted] = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": f"sytq/{_version()}"},
                timeout=aiohttp.ClientTimeout(),
                trust_env=False,
            )
        return self._sessions[trusted]

    async def options(
        self, target: URL, trusted: bool, certificate: tuple[Path, Path] | None, proxy: str | None
    ) -> dict[str, Any]:
        """Options of a request to this target; `proxy` is for a trusted one. Raises OutboundRefused, UnknownHost (for a
        target behind the proxy), ProxyFailed and CertificateUnusable."""
        options: dict[str, Any] = {}
        if certificate is not None:
            options["ssl"] = self._with_certificate(*certificate)
        if trusted:
            own = environment_proxy(str(target)) if proxy == ENVIRONMENT else proxy
            if own is not None:
                options["proxy"] = URL(own)
        elif self._proxy is not None:
            await self._judge(target.raw_host or "")
            options["proxy"] = self._proxy
        return options

    async def close(self) -> None:
        """Close all connections; running calls fail."""
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()
        for resolver in self._resolvers.values():
            await resolver.close()
        self._resolvers.clear()

    async def _judge(self, host: str) -> None:
        """Check the name's current addresses; the proxy resolves it again when it connects."""
        try:
            ip_address(host)  # checked by Guard.check_url
        except ValueError:
            try:
                await self._resolvers[False].look_up(host)
            except OSError:
                raise UnknownHost(f"{host} cannot be resolved") from None

    def _with_certificate(self, certificate: Path, key: Path) -> ssl.SSLContext:
        try:  # renewed files are loaded again
            known = (certificate, key, certificate.stat().st_mtime, key.stat().st_mtime)
            if known not in self._tls:
                context = _tls_context()
                context.load_cert_chain(certificate, key)
                for older in [entry for entry in self._tls if entry[:2] == known[:2]]:
                    del self._tls[older]
                self._tls[known] = context
        except OSError as error:  # includes ssl.SSLError
            raise CertificateUnusable(
                f"the client certificate {certificate} cannot be used: {error.strerror}"
            ) from None
        return self._tls[known]


class _Resolver(AbstractResolver):
    """Calls getaddrinfo in threads of its own: dead name servers hold up neither each other nor asyncio.to_thread, and
    callers' unanswered names do not hold up the look-up of a provider.

    Every address must pass the guard, and aiohttp connects to the returned addresses, so a name with another answer the
    second time gains nothing. aiohttp does not resolve literal addresses: `Guard.check_url` has checked them.
    """

    def __init__(self, guard: Guard | None) -> None:
        self._guard = guard
        self._threads = ThreadPoolExecutor(_DNS_THREADS, thread_name_prefix="sytq-dns")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        timing = current.get()
        found = await self.look_up(host, port, family)
        if timing is not None:
            timing.dns = timing.end()
        return found

    async def look_up(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        lookup = partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, lookup)
        results = []
        for found_family, _, protocol, _, address in found:
            ip = str(address[0])
            if self._guard is not None:
                self._guard.check(host, ip)
            results.append(
                ResolveResult(
                    hostname=host,
                    host=ip,
                    port=port,
                    family=found_family,
                    proto=protocol,
                    flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
                )
            )
        return results

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _tls_context() -> ssl.SSLContext:
    context = client_context()
    context.set_alpn_protocols(("http/1.1",))
    return context


def _version() -> str:
    try:
        return metadata.version("sytq")
    except metadata.PackageNotFoundError:
        return "source"

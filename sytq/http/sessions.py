"""The connections that calls are made over: one pool for URLs of callers, one for those of the operator.

Owns name resolution, TLS contexts and the proxy. Must not know what is sent.
"""

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

from sytq.http.guard import Guard
from sytq.http.timing import tracing

_DNS_THREADS = 32


class UnknownHost(aiohttp.ClientConnectionError):
    """A name that does not resolve."""


class ProxyFailed(Exception):
    """The configured proxy cannot be used; says nothing about the target."""


class CertificateUnusable(Exception):
    """A client certificate or its key cannot be loaded; the message names the file."""


class Sessions:
    """Belongs to the event loop of its first use. `proxy` is used for URLs of callers."""

    def __init__(self, guard: Guard, proxy: str | None = None) -> None:
        self._guard = guard
        self._proxy = URL(proxy) if proxy else None
        # Apart, so that no trusted connection or DNS answer is ever used again for a caller's URL.
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._resolvers: dict[bool, _Resolver] = {}
        self._tls: dict[tuple[Path, Path, float, float], ssl.SSLContext] = {}

    def get(self, trusted: bool) -> aiohttp.ClientSession:
        """The session for trusted URLs, or for those of callers."""
        if trusted not in self._sessions:
            self._resolvers[trusted] = resolver = _Resolver(None if trusted else self._guard)
            # With a proxy only its own name is left to resolve here; the target's was judged by `options`.
            own = self._proxy is not None and not trusted
            self._sessions[trusted] = aiohttp.ClientSession(
                # No limits here: how much runs at once is decided by queues and slots, not by a hidden 100.
                connector=aiohttp.TCPConnector(
                    resolver=_Resolver(None) if own else resolver, ssl=_tls_context(), limit=0, limit_per_host=0
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": f"sytq/{_version()}"},
                timeout=aiohttp.ClientTimeout(),
                trust_env=False,
                trace_configs=[tracing()],
            )
        return self._sessions[trusted]

    async def options(self, target: URL, trusted: bool, certificate: tuple[Path, Path] | None) -> dict[str, Any]:
        """What a request to this target needs beside the session. Raises OutboundRefused, UnknownHost (for a target
        behind the proxy) and CertificateUnusable."""
        options: dict[str, Any] = {}
        if certificate is not None:
            options["ssl"] = self._with_certificate(*certificate)
        if self._proxy is not None and not trusted:
            await self._judge(target.raw_host or "")
            options["proxy"] = self._proxy
        return options

    async def close(self) -> None:
        """Close every connection; running calls fail."""
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()
        for resolver in self._resolvers.values():
            await resolver.close()
        self._resolvers.clear()

    async def _judge(self, host: str) -> None:
        """The proxy connects, so here it can only be said where the name leads now."""
        try:
            ip_address(host)  # judged by Guard.check_url
        except ValueError:
            try:
                await self._resolvers[False].resolve(host)
            except OSError:
                raise UnknownHost(f"{host} cannot be resolved") from None

    def _with_certificate(self, certificate: Path, key: Path) -> ssl.SSLContext:
        try:  # files that were renewed are loaded again
            known = (certificate, key, certificate.stat().st_mtime, key.stat().st_mtime)
            if known not in self._tls:
                context = _tls_context()
                context.load_cert_chain(certificate, key)
                for older in [entry for entry in self._tls if entry[:2] == known[:2]]:
                    del self._tls[older]
                self._tls[known] = context
        except OSError as error:  # ssl.SSLError is one
            raise CertificateUnusable(
                f"the client certificate {certificate} cannot be used: {error.strerror}"
            ) from None
        return self._tls[known]


class _Resolver(AbstractResolver):
    """getaddrinfo in threads of its own: dead name servers hold up neither each other nor asyncio.to_thread, and
    names that callers made up and nobody answers do not hold up the look-up of a provider.

    Every address must pass the guard, and aiohttp connects to what is returned here, so a name that
    answers differently the second time gains nothing. aiohttp does not ask for literal addresses:
    `Guard.check_url` has judged those.
    """

    def __init__(self, guard: Guard | None) -> None:
        self._guard = guard
        self._threads = ThreadPoolExecutor(_DNS_THREADS, thread_name_prefix="sytq-dns")

    async def resolve(
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
    context = ssl.create_default_context()
    context.set_alpn_protocols(("http/1.1",))
    return context


def _version() -> str:
    try:
        return metadata.version("sytq")
    except metadata.PackageNotFoundError:
        return "source"

"""Mutual TLS and an outbound proxy: real servers, certificates made by openssl, and a proxy that speaks CONNECT."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sytq.http.guard import Guard
from tests.connect_proxy import Proxy
from tests.plugins.deliveries import Attempt, attempt, settings

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")


async def answer_ok(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
    writer.write(OK)


def pair(folder: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate and its key; the certificate is also its own authority."""
    cert, key = folder / f"{name}.crt", folder / f"{name}.key"
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "2",
            ),
            *("-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}", "-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


@pytest.fixture
def names_are_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *rest: Any, **more: Any) -> Any:
        return real("10.0.0.9" if host == "inside.example" else "127.0.0.1", *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_client_certificate_goes_only_to_servers_of_its_pattern(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names_are_loopback: None
) -> None:
    server, client, stranger = (pair(tmp_path, name) for name in ("hook.example", "we.example", "they.example"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*server)
    context.load_verify_locations(client[0])
    context.verify_mode = ssl.CERT_REQUIRED
    monkeypatch.setenv("SSL_CERT_FILE", str(server[0]))
    shown: list[Any] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        shown.append(writer.get_extra_info("peercert")["subject"])
        writer.write(OK)

    def given(*entries: tuple[str, tuple[Path, Path]]) -> Any:
        listed = [{"match": match, "cert": str(cert), "key": str(key)} for match, (cert, key) in entries]
        return settings(webhook__client_certificates=listed)

    async def main() -> list[Attempt]:
        async with serve(handler, tls=context) as port:
            payload = {"url": f"https://hook.example:{port}/"}
            return [
                await attempt(payload, given(("https://hook.example/", client), ("*", stranger))),
                await attempt(payload, given(("*", stranger))),
                await attempt(payload, given(("*.hook.example", client))),
                await attempt(payload, given(("*", (tmp_path / "missing.crt", client[1])))),
            ]

    good, wrong, none, missing = asyncio.run(main())
    assert good.outcome.kind == "done" and shown == [((("commonName", "we.example"),),)]
    assert wrong.outcome.kind == none.outcome.kind == "retry" and wrong.outcome.consumes_attempt
    assert (missing.outcome.kind, missing.outcome.consumes_attempt) == ("retry", False)
    assert "missing.crt cannot be used: No such file" in (missing.outcome.error or "")


def through(serve: Any, proxy: Proxy, url: str, tls: ssl.SSLContext | None = None, **options: Any) -> Attempt:
    """One attempt against a server behind the proxy; `url` has `{}` for its port; `login` goes into the proxy's URL."""
    login = options.pop("login", "")

    async def main() -> Attempt:
        async with serve(answer_ok, tls=tls) as port, proxy.serving() as address:
            given = settings(outbound__proxy=f"http://{login}{address}")
            return await attempt({"url": url.format(port)}, given, **options)

    return asyncio.run(main())


def test_requests_go_through_the_proxy_with_tls_to_the_target(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names_are_loopback: None
) -> None:
    certificate = pair(tmp_path, "hook.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    proxy = Proxy(login="me:pass")
    made = through(serve, proxy, "https://hook.example:{}/x?y", context, login="me:pass@")
    assert made.outcome.kind == "done", made
    assert [line.split(":")[0] for line in proxy.asked] == ["CONNECT hook.example"]
    assert made.detail["latency_ms"]["connect"] > 0
    proxy = Proxy()
    assert through(serve, proxy, "http://hook.example:{}/x").outcome.kind == "done"
    assert proxy.asked[0].startswith("GET http://hook.example") or proxy.asked[0].startswith("POST http://hook.example")
    other = through(serve, Proxy(), "https://other.example:{}/", context)
    assert other.outcome.consumes_attempt and other.detail["error"] == "certificate"


def test_guard_refuses_the_target_before_the_proxy_is_called(serve: Any, names_are_loopback: None) -> None:
    proxy = Proxy()
    for url in ("http://inside.example:{}/", "https://inside.example:{}/", "http://10.0.0.9:{}/"):
        made = through(serve, proxy, url)
        assert made.outcome.kind == "dead" and "not a public address" in (made.outcome.error or "")
    made = through(serve, proxy, "http://loop.example:{}/", guard=Guard())
    assert made.outcome.kind == "dead"
    assert proxy.asked == []


def test_proxy_at_a_private_address_is_allowed(serve: Any, names_are_loopback: None) -> None:
    """The guard is for URLs of callers: only the target's network is allowed here, not the proxy's."""

    async def main() -> Attempt:
        proxy = Proxy()
        async with serve(answer_ok) as port, proxy.serving() as address:
            given = settings(outbound__proxy=f"http://proxy.internal:{address.partition(':')[2]}")
            guard = Guard(allow_hosts=["hook.example"])
            return await attempt({"url": f"http://hook.example:{port}/"}, given, guard)

    assert asyncio.run(main()).outcome.kind == "done"


def test_proxy_failures_consume_no_attempt_and_target_failures_do(serve: Any, names_are_loopback: None) -> None:
    target = "https://hook.example:{}/"
    made = through(serve, Proxy(login="me:pass"), target)
    assert (made.outcome.kind, made.outcome.consumes_attempt, made.detail["error"]) == ("retry", False, "proxy")
    for status in (502, 503, 504, 403):
        made = through(serve, Proxy(refuses=status), target)
        assert (made.outcome.kind, made.outcome.consumes_attempt) == ("retry", True)
        assert f"the outbound proxy answered {status} for hook.example" in (made.outcome.error or "")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{free.getsockname()[1]}"
        for url in ("http://hook.example/", "https://hook.example/"):
            made = asyncio.run(attempt({"url": url}, settings(outbound__proxy=dead)))
            assert (made.outcome.kind, made.outcome.consumes_attempt) == ("retry", False)
            assert made.outcome.error == "the outbound proxy cannot be used"


def test_retries_for_a_broken_proxy_end_at_max_age() -> None:
    given = settings(outbound__proxy="http://127.0.0.1:1")
    made = asyncio.run(attempt({"url": "http://127.0.0.1/"}, given, age=86_400))
    assert made.outcome.kind == "dead" and "longer than 86400 s" in (made.outcome.error or "")


def test_the_password_of_the_proxy_is_never_shown() -> None:
    given = settings(outbound__proxy="http://me:hunter2@127.0.0.1:1")
    assert "hunter2" not in str(list(given.describe())) + repr(given)
    made = asyncio.run(attempt({"url": "http://127.0.0.1/"}, given))
    assert "hunter2" not in str(made)


@pytest.mark.parametrize("ending", [b"bad\r\n\r\n", b"X-A: a"], ids=["bad head", "cut head"])
def test_what_a_proxy_answers_to_connect_is_no_answer_of_the_target(serve: Any, ending: bytes) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        writer.write(b"HTTP/1.1 200 Connection established\r\n" + ending)
        writer.close()

    async def main() -> Attempt:
        async with serve(handler) as port:
            given = settings(outbound__proxy=f"http://127.0.0.1:{port}")
            return await attempt({"url": "https://127.0.0.1:1/", "method": "PUT"}, given)

    made = asyncio.run(main())
    assert (made.outcome.kind, made.outcome.consumes_attempt, made.detail["error"]) == ("retry", False, "proxy")

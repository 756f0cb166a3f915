"""Calls over real sockets: deadlines, size limits, and the guard at connection time."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sytq.errors import InvalidInput, OutboundRefused
from sytq.executor.portal import Portal
from sytq.http.client import BlockingClient, Client
from sytq.http.guard import Guard

LOOPBACK = Guard(["127.0.0.0/8", "::1/128"])
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def call(serve: Any, handler: Any, *, url: str = "http://127.0.0.1:{}/", guard: Guard = LOOPBACK, **options: Any):
    """One request to a server that answers by `handler`."""

    async def main() -> Any:
        async with serve(handler) as port:
            return await once(url.format(port), guard=guard, **options)

    return asyncio.run(main())


async def once(url: str, *, guard: Guard = LOOPBACK, method: str = "GET", **options: Any) -> Any:
    client = Client(guard)
    try:
        return await client.request(method, url, **options)
    finally:
        await client.close()


def answering(data: bytes) -> Any:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        writer.write(data)

    return handler


def sending(start: bytes, again: bytes, pause: float) -> Any:
    """Send `start`, then `again` for ever with `pause` seconds between."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        writer.write(start)
        while True:
            await asyncio.sleep(pause)
            writer.write(again)
            await writer.drain()

    return handler


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
    await asyncio.sleep(60)


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
    writer.transport.abort()


def resolve_as(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Make every name resolve to these addresses, one answer a query; return the queries."""
    queries: list[str] = []

    def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> list[Any]:
        queries.append(host)
        answer = answers[min(len(queries), len(answers)) - 1]
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (ip, port, 0, 0))
            if ":" in ip
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port))
            for ip in answer
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return queries


# Requests


def test_the_request_arrives_as_given(serve: Any) -> None:
    seen: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        seen.append(head + await reader.readexactly(4))
        writer.write(OK)

    answer = call(serve, handler, method="PUT", url="http://127.0.0.1:{}/a?b=c", body="grü", headers={"X-Own": "1"})
    assert answer.status_code == 200 and answer.text == "ok" and answer.ok and not answer.truncated
    head, _, body = seen[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"PUT /a?b=c HTTP/1.1" and b"X-Own: 1" in lines
    assert any(line.startswith(b"User-Agent: sytq/") for line in lines)
    assert body == "grü".encode()


def test_json_is_sent_as_json(serve: Any) -> None:
    seen: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        seen.append(head + await reader.readexactly(10))
        writer.write(b'HTTP/1.1 201 Created\r\nContent-Length: 8\r\n\r\n{"b": 2}')

    assert call(serve, handler, method="POST", json={"a": "é"}).json() == {"b": 2}
    assert b"\r\nContent-Type: application/json\r\n" in seen[0] and seen[0].endswith('{"a":"é"}'.encode()[-9:])


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        ({"X-A\r\nX-B": "1"}, "X-B"),
        ({"X A": "1"}, "X A"),
        ({"": "1"}, "''"),
        ({"X:": "1"}, "X:"),
        ({"Ü": "1"}, "Ü"),
        ({"X-A": "1\r\nX-B: 2"}, "X-A"),
        ({"X-A": "1\n2"}, "X-A"),
        ({"X-A": "1\x00"}, "X-A"),
        ({"X-A": "\ud800"}, "X-A"),
        ({"X-A": 7}, "X-A"),
        ({"Host": "internal"}, "Host"),
        ({"content-length": "3"}, "content-length"),
        ({"Transfer-Encoding": "chunked"}, "Transfer-Encoding"),
        ({"CONNECTION": "close"}, "CONNECTION"),
        ({"Proxy-Authorization": "x"}, "Proxy-Authorization"),
        ({"Upgrade": "h2c"}, "Upgrade"),
        ({"TE": "trailers"}, "TE"),
    ],
)
def test_invalid_header_is_refused_by_name(headers: dict[str, str], named: str) -> None:
    async def main() -> None:
        await once("http://127.0.0.1:9/", headers=headers)

    with pytest.raises(InvalidInput) as refused:
        asyncio.run(main())
    assert refused.value.field == "headers" and named in refused.value.message


@pytest.mark.parametrize("method", ["GET /\r\nX:", "", "GE T", "GET\x00"])
def test_invalid_method_is_refused(method: str) -> None:
    with pytest.raises(InvalidInput, match="method"):
        asyncio.run(once("http://127.0.0.1:9/", method=method))


def test_cookies_are_not_kept(serve: Any) -> None:
    heads: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        heads.append(head)
        writer.write(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n")

    async def main() -> None:
        client = Client(Guard(allow_hosts=["localhost"]))
        async with serve(handler) as port:
            for _ in range(2):
                await client.get(f"http://localhost:{port}/")
        await client.close()

    asyncio.run(main())
    assert len(heads) == 2 and b"cookie" not in b"".join(heads).lower()


def test_proxies_from_the_environment_are_not_used(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1/")
    assert call(serve, answering(OK)).status_code == 200


# Deadlines and size limits


@pytest.mark.parametrize(
    "handler",
    [
        hang,
        sending(b"HTTP/1.1 200 ", b"O", 0.05),
        sending(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n", 0.05),
        sending(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", 0.02),
        sending(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"x", 0.05),
        sending(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", 0.05),
    ],
    ids=["hang", "drip status", "drip headers", "endless 103", "drip body", "drip chunks"],
)
def test_slow_server_times_out_at_the_deadline(serve: Any, handler: Any) -> None:
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"timed out after 0\.4s"):
        call(serve, handler, timeout=0.4)
    assert time.monotonic() - started < 20


def test_silent_tls_handshake_times_out_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, pytest.raises(TimeoutError):
        asyncio.run(once(f"https://127.0.0.1:{listening.getsockname()[1]}/", timeout=0.3))


def test_hanging_name_server_delays_neither_the_call_nor_other_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    release = threading.Event()
    everyone = threading.Barrier(33)

    def getaddrinfo(*args: Any, **options: Any) -> list[Any]:
        everyone.wait(30)
        release.wait(120)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    watcher = threading.Thread(target=everyone.wait, args=(30,))

    async def main() -> None:
        client = Client(LOOPBACK)
        # As many as asyncio.to_thread has threads on the largest machine.
        urls = [f"http://dead{n}.example/" for n in range(32)]
        calls = [asyncio.create_task(client.get(url, timeout=0.5)) for url in urls]
        while watcher.is_alive():
            await asyncio.sleep(0.01)
        assert not everyone.broken
        await asyncio.wait_for(asyncio.to_thread(lambda: None), 20)
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [TimeoutError] * 32
        release.set()
        await client.close()

    watcher.start()
    try:
        asyncio.run(main())
    finally:
        release.set()


@pytest.mark.parametrize(
    "head",
    [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"],
    ids=["until close", "chunked"],
)
def test_endless_body_is_truncated_in_bounded_memory(serve: Any, head: bytes) -> None:
    chunk = b"x" * 65536
    if b"chunked" in head:
        chunk = b"10000\r\n" + chunk + b"\r\n"
    tracemalloc.start()
    try:
        answer = call(serve, sending(head, chunk, 0), max_bytes=100_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert answer.truncated and len(answer.content) == 100_000
    assert peak < 4_000_000


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_zip_bomb_is_truncated_in_bounded_memory(serve: Any, encoding: str) -> None:
    zeros = bytes(200_000_000)
    bomb = gzip.compress(zeros, 9) if encoding == "gzip" else zlib.compress(zeros, 9)
    del zeros
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: {len(bomb)}\r\n\r\n".encode()
    tracemalloc.start()
    try:
        answer = call(serve, answering(head + bomb), max_bytes=100_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert answer.truncated and answer.content == bytes(100_000)
    assert peak < 4_000_000


def test_body_of_exactly_the_limit_is_not_truncated(serve: Any) -> None:
    answer = call(serve, answering(OK), max_bytes=2)
    assert answer.content == b"ok" and not answer.truncated


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 2000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["not HTTP", "long header", "many headers", "negative length", "not gzip", "not chunked"],
)
def test_malformed_http_is_an_error_and_not_a_hang(serve: Any, data: bytes) -> None:
    with pytest.raises(aiohttp.ClientError):
        call(serve, answering(data), timeout=30)


def test_a_reset_and_a_refused_connection_are_client_errors(serve: Any) -> None:
    with pytest.raises(aiohttp.ClientError):
        call(serve, reset)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(aiohttp.ClientConnectorError):
            asyncio.run(once(f"http://127.0.0.1:{free.getsockname()[1]}/"))


@pytest.mark.parametrize(
    "handler",
    [
        sending(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\nfirst", b"", 0.05),
        sending(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n", b"zz\r\n", 0.05),
    ],
    ids=["hang", "broken"],
)
def test_partial_body_keeps_the_status_of_a_broken_answer(serve: Any, handler: Any) -> None:
    answer = call(serve, handler, timeout=2, partial_body=True)
    assert answer.status_code == 200 and answer.truncated
    with pytest.raises((TimeoutError, aiohttp.ClientError)):
        call(serve, handler, timeout=0.4)


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
def test_the_status_is_known_even_when_the_server_never_reads_the_body(serve: Any) -> None:
    answer = call(
        serve,
        answering(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"),
        method="POST",
        body=b"x" * 30_000_000,
    )
    assert answer.status_code == 413


def test_300_calls_run_concurrently(serve: Any) -> None:
    waiting = 0
    everyone = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        nonlocal waiting
        waiting += 1
        if waiting == 300:
            everyone.set()
        await everyone.wait()
        writer.write(OK)

    async def main() -> list[int]:
        client = Client(LOOPBACK)
        async with serve(handler) as port:
            calls = [client.get(f"http://127.0.0.1:{port}/", timeout=60) for _ in range(300)]
            answers = await asyncio.gather(*calls)
        await client.close()
        return [answer.status_code for answer in answers]

    assert asyncio.run(main()) == [200] * 300


# Targets


def test_redirects_are_not_followed(serve: Any) -> None:
    hits: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        hits.append(head)
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n")

    answer = call(serve, handler)
    assert answer.status_code == 302 and answer.headers["location"] == "http://169.254.169.254/"
    assert len(hits) == 1


@pytest.mark.parametrize("url", ["http://127.0.0.1:{}/", "http://[::ffff:127.0.0.1]:{}/", "http://2130706433:{}/"])
def test_a_literal_address_is_refused_before_connecting(serve: Any, url: str) -> None:
    with pytest.raises(OutboundRefused):
        call(serve, _unreachable, url=url, guard=Guard())


def test_name_resolving_to_a_private_address_is_refused(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for answer in (["127.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["::ffff:127.0.0.1"], ["fe80::1%lo"], ["::1"]):
        resolve_as(monkeypatch, answer)
        with pytest.raises(OutboundRefused, match=r"inside\.example is .* not a public address"):
            call(serve, _unreachable, url="http://inside.example:{}/", guard=Guard())


def test_rebinding_name_connects_to_the_checked_address(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = resolve_as(monkeypatch, ["127.0.0.1"], ["127.0.0.2"])
    guard = Guard(["127.0.0.1/32"])
    assert call(serve, answering(OK), url="http://rebind.example:{}/", guard=guard).status_code == 200
    assert queries == ["rebind.example"]  # one answer, checked and used; there is no second query
    with pytest.raises(OutboundRefused, match=r"127\.0\.0\.2"):
        call(serve, _unreachable, url="http://rebind.example:{}/", guard=guard)


def test_unusual_ipv4_notation_is_refused(serve: Any) -> None:
    for host in ("0x7f.1", "127.1", "0177.0.0.1", "2130706433"):
        with pytest.raises(OutboundRefused):
            call(serve, _unreachable, url=f"http://{host}:{{}}/", guard=Guard())


def test_guarded_call_does_not_reuse_a_trusted_connection(serve: Any) -> None:
    async def main() -> None:
        client = Client(Guard())
        async with serve(answering(OK)) as port:
            for host in ("127.0.0.1", "localhost"):
                url = f"http://{host}:{port}/"
                assert (await client.get(url, trusted=True)).status_code == 200
                with pytest.raises(OutboundRefused):
                    await client.get(url)
        await client.close()

    asyncio.run(main())


def test_guarded_call_does_not_reuse_a_trusted_name_lookup(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_as(monkeypatch, ["127.0.0.1"])

    async def main() -> None:
        client = Client(Guard())
        async with serve(answering(OK)) as port:
            assert (await client.get(f"http://provider.example:{port}/", trusted=True)).status_code == 200
            with pytest.raises(OutboundRefused):
                await client.get(f"http://provider.example:{port}/")
        await client.close()

    asyncio.run(main())


async def _unreachable(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
    raise AssertionError("a refused address was reached")


# TLS


# Self-signed for hook.example, with its key, good for 100 years; made with openssl for these tests alone.
CERTIFICATE = Path(__file__).with_name("hook.example.pem")

_TLS_CALLER = """
import asyncio, socket, sys
from sytq.http.client import Client
from sytq.http.guard import Guard
name, port = sys.argv[1], sys.argv[2]
def getaddrinfo(host, port, *args, **options):
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
socket.getaddrinfo = getaddrinfo
async def main():
    client = Client(Guard(["127.0.0.0/8"]))
    try:
        print((await client.get(f"https://{name}:{port}/", timeout=60)).status_code)
    except Exception as error:
        print(type(error).__name__)
    await client.close()
asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("name", "trusted", "outcome"),
    [
        ("hook.example", True, "200"),
        ("hook.example.", True, "200"),
        ("other.example", True, "ClientConnectorCertificateError"),
        ("127.0.0.1", True, "ClientConnectorCertificateError"),
        ("hook.example", False, "ClientConnectorCertificateError"),
    ],
)
def test_tls_sni_and_host_header_use_the_requested_name(serve: Any, name: str, trusted: bool, outcome: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    names: list[str | None] = []
    context.sni_callback = lambda _socket, server_name, _context: names.append(server_name)
    hosts: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        hosts.extend(line for line in head.split(b"\r\n") if line.lower().startswith(b"host:"))
        writer.write(OK)

    async def main() -> tuple[str, int]:
        async with serve(handler, tls=context) as port:
            caller = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                _TLS_CALLER,
                name,
                str(port),
                stdout=asyncio.subprocess.PIPE,
                env={
                    "SSL_CERT_FILE": str(CERTIFICATE) if trusted else "/dev/null",
                    "PYTHONPATH": str(Path(__file__).parents[2]),
                },
            )
            out, _ = await caller.communicate()
            return out.decode().strip(), port

    printed, port = asyncio.run(main())
    assert printed == outcome
    assert names == [None if name == "127.0.0.1" else name.rstrip(".")]
    if outcome == "200":
        assert hosts == [f"Host: hook.example:{port}".encode()]


# Answers


def test_repr_of_an_answer_hides_its_body_and_headers() -> None:
    from sytq.http.client import Answer

    answer = Answer(200, {"Set-Cookie": "secret"}, b"secret", False, 0.1)
    assert "secret" not in repr(answer) and "200" in repr(answer)


@pytest.mark.parametrize(
    ("charset", "content", "text"),
    [
        ("gbk", "完成".encode("gbk"), "完成"),
        ("ISO-8859-1", b"\xe9", "é"),
        ("utf-8", b"ok\xff", "ok\ufffd"),
        ("punycode", b"a-b", "a-b"),
        ("nonsense", b"ok", "ok"),
    ],
)
def test_text_follows_the_charset_and_never_fails(serve: Any, charset: str, content: bytes, text: str) -> None:
    head = f"HTTP/1.0 200 OK\r\nContent-Type: text/plain; charset={charset}\r\n"
    reply = head.encode() + b"Content-Length: %d\r\n\r\n" % len(content) + content
    assert call(serve, answering(reply)).text == text


def test_stream_yields_lines_as_they_arrive_and_can_be_left_early(serve: Any) -> None:
    async def main() -> list[bytes]:
        client = Client(Guard())
        async with serve(sending(b"HTTP/1.1 200 OK\r\n\r\n", b"data: x\n", 0.01)) as port:
            lines = []
            async with client.stream("POST", f"http://127.0.0.1:{port}/", json={}, trusted=True) as response:
                async for line in response.content:
                    lines.append(line)
                    if len(lines) == 3:
                        break
            with pytest.raises(OutboundRefused):
                async with client.stream("GET", f"http://127.0.0.1:{port}/"):
                    pass
        await client.close()
        return lines

    assert asyncio.run(main()) == [b"data: x\n"] * 3


def test_stream_fails_at_the_connect_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        client = Client(LOOPBACK)
        with socket.create_server(("127.0.0.1", 0)) as listening, pytest.raises(TimeoutError):
            url = f"https://127.0.0.1:{listening.getsockname()[1]}/"
            async with client.stream("GET", url, connect_timeout=0.3):
                pass
        await client.close()

    asyncio.run(main())


def test_blocking_client_calls_the_async_client_from_a_thread(serve: Any) -> None:
    body = json.dumps({"a": 1}).encode()
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    async def main() -> None:
        client = Client(LOOPBACK)
        blocking = BlockingClient(client, Portal(asyncio.get_running_loop()).wait)
        async with serve(answering(reply)) as port:
            answer = await asyncio.to_thread(blocking.get, f"http://127.0.0.1:{port}/")
            assert answer.json() == {"a": 1}
            with pytest.raises(OutboundRefused):
                await asyncio.to_thread(blocking.post, "http://10.0.0.1/", json={})
        async with serve(hang) as port:
            with pytest.raises(TimeoutError, match=r"0\.2s"):
                await asyncio.to_thread(blocking.get, f"http://127.0.0.1:{port}/", timeout=0.2)
        await client.close()

    asyncio.run(main())


def test_importing_opens_no_socket_and_starts_no_thread() -> None:
    code = (
        "import socket, threading; made = []; real = socket.socket.__init__\n"
        "socket.socket.__init__ = lambda self, *a, **k: (made.append(a), real(self, *a, **k))[1]\n"
        "import sytq.http.client, sytq.http.sessions; print(len(made), threading.active_count())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "1"]

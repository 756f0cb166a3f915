"""One attempt over a real socket: the outcome of each answer or error, and the recorded detail."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from sytq_plugins.webhook.hosts import limiter_of

from sytq.http.guard import Guard, parse_url
from tests.http.conftest import serve as serve  # the fixture
from tests.http.test_receivers import BROKEN, WHOLE
from tests.plugins.deliveries import TASK, Attempt, attempt, settings

CERTIFICATE = Path(__file__).parents[1] / "http/hook.example.pem"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def answer(status: str = "200 OK", *headers: str, body: bytes = b"") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def deliver(serve: Any, data: bytes | None, payload: dict[str, Any] | None = None, **given: Any) -> Attempt:
    """One attempt against a server that answers `data` (None: aborts the connection)."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        if data is None:
            writer.transport.abort()
        else:
            writer.write(data)

    async def main() -> Attempt:
        async with serve(handler) as port:
            return await attempt({"url": f"http://127.0.0.1:{port}/"} | (payload or {}), settings(**given))

    return asyncio.run(main())


@pytest.mark.parametrize("status", ["200 OK", "201 Created", "204 No Content", "299 Odd"])
def test_any_2xx_status_is_success(serve: Any, status: str) -> None:
    made = deliver(serve, answer(status))
    assert made.outcome.kind == "done" and made.result["status"] == int(status[:3])


@pytest.mark.parametrize("status", [301, 302, 304, 307, 400, 401, 403, 404, 409, 422, 429, 500, 502, 503, 504, 599])
def test_any_other_status_is_retried(serve: Any, status: int) -> None:
    made = deliver(serve, answer(f"{status} X", "Location: http://127.0.0.1:1/"))
    assert (made.outcome.kind, made.outcome.delay, made.outcome.consumes_attempt) == ("retry", 10.0, True)
    assert f"HTTP {status} from 127.0.0.1" in (made.outcome.error or "")
    assert made.detail["status"] == status


@pytest.mark.parametrize("name", ["header of 9,000 bytes", "140 headers", "length and chunks", "two lengths"])
def test_a_fault_behind_a_200_is_delivered_and_recorded(serve: Any, name: str) -> None:
    made = deliver(serve, (WHOLE | BROKEN)[name])
    assert made.outcome.kind == "done" and made.result["status"] == made.detail["status"] == 200
    assert made.detail.get("cut", "") == ("" if name in WHOLE else "the head cannot be read as HTTP; no body was read")
    assert made.limiters[0][1] == "ok"


def test_a_refused_head_keeps_its_retry_after_and_its_finality(serve: Any) -> None:
    made = deliver(serve, answer("503 X", "Retry-After: 77", "Content-Length: 7"))
    assert (made.outcome.kind, made.outcome.delay, made.limiters[0][1]) == ("retry", 77, "overloaded")
    assert deliver(serve, answer("410 Gone", "Content-Length: 7")).outcome.kind == "dead"


def test_another_protocol_is_quoted_in_the_error(serve: Any) -> None:
    made = deliver(serve, b"220 mail.example ESMTP\r\n")
    assert made.outcome.error == "127.0.0.1 answered '220 mail.example ESMTP' and no final HTTP status"


def test_a_configured_http_type_says_what_was_cut(serve: Any) -> None:
    def result(data: bytes) -> Any:
        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
            writer.write(data)

        async def main() -> Attempt:
            async with serve(handler) as port:
                types = {"crm": {"http": {"url": f"http://127.0.0.1:{port}/"}}}
                return await attempt({}, settings(types=types), type_name="crm")

        return asyncio.run(main()).result

    assert result(WHOLE["length and chunks"]) == {"status": 200, "body": "ok"}
    unread = "the head cannot be read as HTTP; no body was read"
    assert result(BROKEN["two lengths"]) == {"status": 200, "body": "", "cut": unread}
    assert result(answer(body=b"x" * 17_000))["cut"] == "the body is longer than 16384 bytes"


def test_410_and_configured_final_statuses_are_dead_at_once(serve: Any) -> None:
    assert deliver(serve, answer("410 Gone")).outcome.kind == "dead"
    final = {"webhook__final_statuses": [404, 422]}
    assert deliver(serve, answer("422 X"), **final).outcome.kind == "dead"
    assert deliver(serve, answer("410 Gone"), **final).outcome.kind == "retry"


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable", "302 Found", "500 X"])
def test_retry_after_sets_the_delay_in_both_forms(serve: Any, status: str) -> None:
    assert deliver(serve, answer(status, "Retry-After: 77")).outcome.delay == 77
    date = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    assert 3500 < deliver(serve, answer(status, f"Retry-After: {date}")).outcome.delay <= 3600


def test_attempt_detail_has_latencies_and_the_answer(serve: Any) -> None:
    made = deliver(serve, answer("503 X", "X-Own: yes", body="Zu viel: 太多".encode()))
    assert made.detail["host"] == "127.0.0.1"
    assert made.detail["body"] == "Zu viel: 太多" and made.detail["body_truncated"] is False
    assert made.detail["headers"]["X-Own"] == "yes"
    split = made.detail["latency_ms"]
    assert set(split) == {"connect", "first_byte", "total"}
    assert split["total"] >= split["first_byte"] + split["connect"] - 0.2
    json.dumps(made.detail)


def test_attempt_detail_has_dns_and_tls_latencies(serve: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: real("127.0.0.1", *rest, **more))

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        writer.write(answer())

    async def main() -> tuple[Attempt, Attempt]:
        async with serve(handler, tls=context) as port:
            good = await attempt({"url": f"https://hook.example:{port}/"})
            return good, await attempt({"url": f"https://other.example:{port}/"})

    good, bad = asyncio.run(main())
    assert good.outcome.kind == "done"
    assert set(good.detail["latency_ms"]) == {"dns", "connect", "first_byte", "total"}
    assert good.detail["latency_ms"]["connect"] > 0
    assert bad.outcome.kind == "retry" and bad.detail["error"] == "certificate"
    assert "first_byte" not in bad.detail["latency_ms"]


def test_attempt_detail_names_the_connection_error(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = deliver(serve, None)
    assert made.outcome.kind == "retry" and made.detail["error"] in ("reset", "closed")
    assert deliver(serve, b"SSH-2.0\r\n\r\n").detail["error"] == "protocol"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        refused = asyncio.run(attempt({"url": f"http://127.0.0.1:{free.getsockname()[1]}/"}))
    assert refused.detail["error"] == "refused" and "total" in refused.detail["latency_ms"]

    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    lost = asyncio.run(attempt({"url": "http://nowhere.example/"}))
    assert lost.outcome.error == "nowhere.example cannot be resolved" and lost.detail["error"] == "dns"


def test_silent_host_times_out_after_request_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        made = asyncio.run(attempt({"url": url}, settings(worker__request_timeout="300ms")))
    assert made.outcome.error == "127.0.0.1 timed out after 0.3s" and made.detail["error"] == "timeout"


def test_private_address_is_dead_at_once_under_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    made = asyncio.run(attempt({"url": "http://10.0.0.1/"}, guard=Guard()))
    assert made.outcome.kind == "dead" and "not a public address" in (made.outcome.error or "")
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: real("127.0.0.1", *rest, **more))
    made = asyncio.run(attempt({"url": "http://rebound.example/"}, guard=Guard()))
    assert made.outcome.kind == "dead" and made.detail["error"] == "refused by the guard"


def test_attempt_detail_hides_credentials(serve: Any) -> None:
    leaky = json.dumps(
        {"you_sent": "Bearer-of-hunter2", "api_key": "k-hunter3", "next": "https://x.example/?t=hunter4"}
    )
    headers = [
        "Set-Cookie: sid=hunter5; Secure",
        "Authorization: Basic hunter6",
        "X-Api-Key: hunter7",
        "X-Auth-Token: hunter8",
        "Location: https://a.example/cb?code=hunter9&x=1",
        "Refresh: /again?ticket=hunter10",
        "X-Plain: visible",
    ]
    payload = {"headers": {"X-Custom-Secret": "Bearer-of-hunter2"}}
    made = deliver(serve, answer("401 X", *headers, body=leaky.encode()), payload)
    assert made.detail["headers"]["X-Plain"] == "visible"
    assert made.detail["headers"]["Location"] == "https://a.example/cb?***"
    assert "hunter" not in json.dumps(made.detail)


def test_attempt_detail_size_is_bounded(serve: Any) -> None:
    many = [f"X-{n}: {'y' * 5000}" for n in range(1)] + [f"X-A{n}: b" for n in range(60)]
    made = deliver(serve, answer("500 X", *many, body=b"\x00<script>" + b"x" * 100_000), webhook__keep_body=50)
    assert len(made.detail["body"]) == 50 and made.detail["body_truncated"] is True
    assert made.detail["body"].startswith("\ufffd<script>x")
    assert len(json.dumps(made.detail)) < 4000
    assert "body" not in deliver(serve, answer("500 X", body=b"secret"), webhook__keep_body=0).detail


def test_webhook_id_and_body_are_the_same_at_every_attempt(serve: Any) -> None:
    seen: list[tuple[bytes, bytes]] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        seen.append((head, await reader.readexactly(8)))
        writer.write(answer("500 X"))

    async def main() -> None:
        async with serve(handler) as port:
            for number in (1, 2, 9):
                payload = {"url": f"http://127.0.0.1:{port}/", "body": '{"b": 1}'}
                await attempt(payload, settings(webhook__secret=SECRET), attempts=number, age=number * 100.0)

    asyncio.run(main())
    ids = [line for head, _ in seen for line in head.split(b"\r\n") if line.lower().startswith(b"webhook-id:")]
    assert ids == [f"webhook-id: msg_{TASK}".encode()] * 3
    assert {body for _, body in seen} == {b'{"b": 1}'}


@pytest.mark.parametrize(
    ("type_name", "given", "own", "sent"),
    [
        ("callback", {}, {}, {"webhook-id", "webhook-timestamp"}),
        ("callback", {}, {"Webhook-ID": "mine"}, {"webhook-id", "webhook-timestamp"}),
        ("callback", {"webhook__secret": SECRET}, {}, {"webhook-id", "webhook-timestamp", "webhook-signature"}),
        ("webhook", {"webhook__secret": SECRET}, {}, {"webhook-id", "webhook-timestamp", "webhook-signature"}),
        ("webhook", {}, {}, set()),
    ],
)
def test_every_attempt_of_a_callback_names_its_message(
    serve: Any, type_name: str, given: dict[str, str], own: dict[str, str], sent: set[str]
) -> None:
    seen: list[dict[str, str]] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        lines = (line.split(": ", 1) for line in head.decode().split("\r\n")[1:] if line)
        seen.append({name.lower(): value for name, value in lines if name.lower().startswith("webhook-")})
        writer.write(answer("500 X"))

    async def main() -> None:
        async with serve(handler) as port:
            payload = {"url": f"http://127.0.0.1:{port}/", "body": "{}", "headers": own}
            for number in (1, 2):
                await attempt(payload, settings(**given), attempts=number, type_name=type_name)

    asyncio.run(main())
    assert [set(headers) for headers in seen] == [sent, sent]
    if sent:
        expected = own.get("Webhook-ID", f"msg_{TASK}")
        assert {headers["webhook-id"] for headers in seen} == {expected}
        assert all(abs(int(headers["webhook-timestamp"]) - datetime.now(UTC).timestamp()) < 300 for headers in seen)


@pytest.mark.parametrize(
    ("data", "reported"),
    [
        (answer("200 OK"), "ok"),
        (answer("302 Found"), "ok"),
        (answer("404 Not Found"), "ok"),
        (answer("410 Gone"), "ok"),
        (answer("429 Slow Down"), "overloaded"),
        (answer("503 Full"), "overloaded"),
        (answer("500 X"), "failed"),
        (answer("502 X"), "failed"),
        (b"SSH-2.0\r\n\r\n", "failed"),
        (None, "failed"),
    ],
)
def test_outcome_is_reported_to_the_limiter_of_the_host(serve: Any, data: bytes | None, reported: str) -> None:
    ((limiter, outcome),) = deliver(serve, data).limiters
    assert limiter.name.startswith("host:127.0.0.1:") and outcome == reported


def test_failures_outside_the_host_are_ignored_by_its_limiter() -> None:
    blocked = asyncio.run(attempt({"url": "http://10.0.0.1/"}, guard=Guard()))
    proxy = asyncio.run(attempt({"url": "http://127.0.0.1/"}, settings(outbound__proxy="http://127.0.0.1:1")))
    assert [outcome for made in (blocked, proxy) for _, outcome in made.limiters] == ["ignored", "ignored"]


@pytest.mark.parametrize(
    ("url", "running", "calls", "window", "breaks"),
    [
        ("https://hooks.example.org/x", 7, 100, 60, True),
        ("https://slow.example.org/x", 1, 5, 1, True),
        ("https://slow.example.org:8443/x", 1, 5, 1, True),
        ("http://free.example.org/x", 0, 100, 60, False),
    ],
)
def test_a_host_has_the_limits_of_its_pattern(url: str, running: int, calls: int, window: int, breaks: bool) -> None:
    exceptions = [
        {"match": "slow.example.org", "running": 1, "rate": "5/s"},
        {"match": "free.example.org", "running": 0, "breaker": False},
    ]
    given = settings(webhook__host={"running": 7, "rate": "100/min"}, webhook__hosts=exceptions)
    limiter = limiter_of(parse_url(url), given)
    port = parse_url(url).port
    assert limiter.name == f"host:{parse_url(url).host}:{port}"
    found = limiter.concurrency, limiter.calls, limiter.window, limiter.breaker is not None
    assert found == (running, calls, window, breaks)

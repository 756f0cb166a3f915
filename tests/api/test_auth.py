"""Access: Basic auth when it is on, only loopback when it is off; health and metrics need no credentials."""

from __future__ import annotations

import base64
import itertools
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.installation import BUILT_IN, Installation, Reply
from tests.servers import RedisServer

ROWS = itertools.count(1)
#: Keys have no effect while auth is off, nor has auth without users.
WHAT_TO_SET = "auth.enabled: true, and auth.users or keys (`sytq key create`)"
OPEN = ("/health", "/healthz/live", "/healthz/ready", "/metrics")


@pytest.fixture(scope="module")
def guarded(folder: Path, redis_server: RedisServer) -> Iterator[Installation]:
    config = folder / "auth.yaml"
    config.write_text('auth: {enabled: true, realm: \'SYT "Go" 队列\', users: {admin: "pä:ss", api: api123, Ops: o}}\n')
    api = Installation(folder, f"sqlite:///{folder / 'auth.db'}", redis_server.url, **BUILT_IN, SYTQ_CONFIG=str(config))
    try:
        api.start_api()
        yield api
    finally:
        api.close()


def basic(credentials: str, scheme: str = "Basic") -> dict[str, str]:
    return {"Authorization": f"{scheme} {base64.b64encode(credentials.encode()).decode()}"}


def submit(api: Installation, headers: dict[str, str]) -> Reply:
    body = {
        "table_name": "valuation_records",
        "id": next(ROWS),
    }  # a new row each time: the same row would be the same task
    return api.request("POST", "/api/tasks/llm", body, headers)


@pytest.mark.parametrize("credentials", ["admin:pä:ss", "api:api123", "Ops:o", "ops:o"])
def test_a_configured_user_is_served_and_owns_the_task(guarded: Installation, credentials: str) -> None:
    reply = submit(guarded, basic(credentials))
    assert reply.status == 200
    assert submit(guarded, basic(credentials, "bAsIc")).status == 200
    [(owner,)] = guarded.rows("SELECT owner FROM sytq_tasks WHERE id = ?", reply.json["data"]["task_id"])
    assert owner == credentials.partition(":")[0]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        basic("api:wrong"),
        basic("api:"),
        basic("api"),
        basic("nobody:api123"),
        basic(":"),
        basic("api:api123", "Bearer"),
        {"Authorization": "Basic"},
        {"Authorization": "Basic ###"},
        {"Authorization": "Basic gICA"},
        {"Authorization": "Basic " + "A" * 4000},
    ],
)
def test_missing_or_wrong_credentials_are_401(guarded: Installation, headers: dict[str, str]) -> None:
    reply = submit(guarded, headers)
    assert reply.status == 401
    assert reply.json["code"] == 401
    sent = reply.headers["www-authenticate"].encode("latin-1").decode()
    assert sent == r'Basic realm="SYT \"Go\" 队列", charset="UTF-8"'
    assert guarded.request("GET", "/api/v1/tasks", headers=headers).json.keys() == {"error"}
    assert guarded.request("GET", "/no/such/path", headers=headers).status == 401


@pytest.mark.parametrize("path", OPEN)
def test_health_and_metrics_need_no_credentials(guarded: Installation, path: str) -> None:
    assert guarded.request("GET", path).status == 200
    assert guarded.request("GET", path + "/").status == 200


def test_no_password_is_in_the_log(guarded: Installation) -> None:
    submit(guarded, basic("api:api123"))
    submit(guarded, basic("api:guessed"))
    assert "api123" not in guarded.gunicorn.text()
    assert "guessed" not in guarded.gunicorn.text()


def outward_address() -> str:
    """An address of this machine that is not loopback; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        address = str(probe.getsockname()[0])
    if address.startswith("127."):
        pytest.skip("this machine has no address but loopback")
    return address


def test_without_auth_only_loopback_clients_are_served(make_api: Any) -> None:
    api = make_api(SYTQ_API__HOST="0.0.0.0")
    assert submit(api, {}).status == 200
    assert "listening beyond loopback without auth" in api.gunicorn.text()
    address = outward_address()
    for path, status in (("/api/tasks", b"403"), ("/health", b"200"), ("/metrics", b"200")):
        with socket.create_connection((address, api.port), timeout=60) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            reply = b"".join(iter(lambda: connection.recv(65536), b""))
        assert reply.split(b" ")[1] == status
        assert (WHAT_TO_SET.encode() in reply) == (status == b"403")
    assert WHAT_TO_SET in api.gunicorn.text()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_without_auth_the_start_logs_that_only_loopback_is_served(make_api: Any, host: str) -> None:
    api = make_api(SYTQ_API__HOST=host)
    lines = [json.loads(line) for line in api.gunicorn.text().splitlines() if "loopback" in line]
    said = "auth is off: only loopback clients are served, and they may do everything"
    assert [(line["level"], line["msg"]) for line in lines] == [("info", said)]


def test_with_auth_the_start_does_not_mention_loopback(guarded: Installation) -> None:
    assert "loopback" not in guarded.gunicorn.text()


def test_a_non_ascii_user_name_stops_the_start(folder: Path) -> None:
    from sytq.api.auth import users_of
    from sytq.config import load
    from sytq.errors import ConfigError

    config = folder / "names.yaml"
    config.write_text("auth: {enabled: true, users: {jürgen: x}}\n")
    with pytest.raises(ConfigError, match="jürgen"):
        users_of(load(str(config), {}))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 403),  # DNS rebinding
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1"}, 200),
        ({"Host": "[::1]:8080"}, 200),
        ({"Host": "localhost:8080", "Origin": "http://localhost:8080"}, 200),
        ({"Host": "queue"}, 200),
        ({"Host": "queue.internal"}, 200),
    ],
)
def test_cross_site_requests_of_a_local_browser_are_refused(
    api: Installation, headers: dict[str, str], status: int
) -> None:
    assert submit(api, headers).status == status

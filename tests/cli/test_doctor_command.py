"""`sytq doctor`: the installed program beside real servers, healthy, misconfigured, hanging and unavailable."""

from __future__ import annotations

import datetime as dt
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sytq.cli.doctor.comparison import clock, skew
from sytq.ledger.api_keys import ApiKeys, Grant
from sytq.ledger.values import utcnow
from tests.certificates import authority, needs_openssl, server
from tests.installation import Installation
from tests.provider import ScriptedProvider, drips_headers, says
from tests.servers import MySQLServer, RedisServer, free_port, poll
from tests.terminal import sytq

SECRETS = ("hush-hush", "sk-1234567890abcdef")


def examined(installation: Installation, status: int | None = None, **settings: str) -> dict[str, dict[str, Any]]:
    """The finding of each check; of several with one name the last."""
    done = sytq("doctor", "--json", environ=installation.environ | settings)
    report = json.loads(done.stdout)
    failed = any(finding["verdict"] == "fail" for finding in report["checks"])
    assert done.stderr == "" and done.returncode == (1 if failed else 0) and report["ok"] is not failed
    assert status is None or done.returncode == status, report
    for finding in report["checks"]:
        assert bool(finding["todo"]) == (finding["verdict"] != "ok"), finding
    assert not any(secret in done.stdout for secret in SECRETS)
    return {finding["check"]: finding for finding in report["checks"]}


def verdicts(found: dict[str, dict[str, Any]], word: str) -> dict[str, str]:
    return {name: finding["verdict"] for name, finding in found.items() if name.startswith(word)}


@pytest.fixture
def own(tmp_path: Path, own_redis: RedisServer) -> Iterator[Installation]:
    made = Installation(tmp_path, f"sqlite:///{tmp_path / 'sytq.db'}", own_redis.url)
    yield made
    made.close()


def test_healthy_service_has_no_failures(installation: Installation) -> None:
    installation.start_worker()
    installation.start_api()

    def undisturbed() -> dict[str, dict[str, Any]] | None:
        """The checks without a slow Redis, which a busy machine causes."""
        found = examined(installation, 0)
        return found if found["redis latency"]["verdict"] == "ok" else None

    found = poll(undisturbed, message="Redis answers quickly")
    redis_verdicts = verdicts(found, "redis")
    assert redis_verdicts.pop("redis latency") in ("ok", "warn")  # a busy machine is slow
    assert redis_verdicts == dict.fromkeys(
        ("redis", "redis rights", "redis persistence", "redis eviction", "redis memory", "redis clock"), "ok"
    )
    for check in ("database", "migrations", "database clock", "plugins", "workers", "recorder", "api", "disk"):
        assert found[check]["verdict"] == "ok", found[check]


def test_findings_of_a_stopped_service_say_what_to_start(tmp_path: Path) -> None:
    environ = {
        "SYTQ_DATABASE__URL": f"sqlite:///{tmp_path / 'sytq.db'}",
        "SYTQ_REDIS__URL": "redis://:hush-hush@127.0.0.1:1",
    }
    done = sytq("doctor", environ=environ)
    assert done.returncode == 1 and list(tmp_path.iterdir()) == []
    assert "fail redis" in done.stdout and "start Redis, or correct redis.url and its credentials" in done.stdout
    assert f"there is no file {tmp_path / 'sytq.db'}" in done.stdout and "run `sytq db migrate`" in done.stdout
    assert "nothing listens at 127.0.0.1:8080" in done.stdout or "8080" in done.stdout
    assert "hush-hush" not in done.stdout + done.stderr and "Traceback" not in done.stderr


def test_invalid_configuration_is_the_only_finding(tmp_path: Path) -> None:
    file = tmp_path / "sytq.yaml"
    file.write_text("colour: red\napi: {port: high}\n")
    done = sytq("doctor", "--file", str(file), "--json", environ={})
    found = json.loads(done.stdout)["checks"]
    assert done.returncode == 1 and {finding["check"] for finding in found} == {"config"}
    assert any("colour" in finding["said"] for finding in found) and any(
        "api.port" in finding["said"] for finding in found
    )


@pytest.mark.parametrize(
    ("options", "check", "verdict", "words"),
    [
        (("--appendonly", "no"), "redis persistence", "warn", "Redis is empty after a restart"),
        (("--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru"), "redis eviction", "fail", "deletes queues"),
        (("--maxmemory-policy", "allkeys-lru"), "redis eviction", "warn", "maxmemory is not set"),
        (("--requirepass", "hush-hush"), "redis", "fail", "Authentication required"),
    ],
)
def test_redis_misconfiguration_is_reported(
    tmp_path: Path, options: tuple[str, ...], check: str, verdict: str, words: str
) -> None:
    server = RedisServer(options=options)
    password = "hush-hush" if "--requirepass" in options else None
    try:
        made = Installation(tmp_path, f"sqlite:///{tmp_path / 'sytq.db'}", server.url)
        if password is None:
            server.start()
        else:  # Redis answers only with the password
            server.answers = lambda: bool(server.client(password=password).ping())  # type: ignore[method-assign]
            server.start()
        found = examined(made)
        assert (found[check]["verdict"], words in found[check]["said"]) == (verdict, True), found[check]
        if password is not None:
            right = examined(made, SYTQ_REDIS__PASSWORD=password)
            assert right["redis"]["verdict"] == "ok"
        made.close()
    finally:
        server.remove()


@pytest.mark.parametrize(
    ("rules", "verdicts_of", "words"),
    [
        (("-@stream",), {"redis": "ok", "redis rights": "fail"}, "XADD, XLEN, XRANGE"),
        (("resetkeys", "~{sytq}:*", "-time"), {"redis rights": "fail"}, "TIME, keys ~s, keys ~s:dlq"),
        (("-@scripting",), {"redis rights": "fail", "redis persistence": "ok"}, "the 'evalsha' command"),
        (("-ping",), {"redis": "ok", "redis rights": "fail"}, "PING"),
        (("-info", "-config"), {"redis rights": "ok", "redis info": "warn"}, "is allowed"),
    ],
)
def test_missing_redis_right_is_named(
    own: Installation, own_redis: RedisServer, rules: tuple[str, ...], verdicts_of: dict[str, str], words: str
) -> None:
    with own_redis.client() as client:
        client.execute_command("ACL", "SETUSER", "default", *rules)
    found = examined(own, SYTQ_STREAMS='[{"stream": "s"}]')
    assert {name: found[name]["verdict"] for name in verdicts_of} == verdicts_of, found
    assert words in found["redis rights"]["said"]
    if found["redis rights"]["verdict"] == "fail":
        assert "docs/redis.md" in found["redis rights"]["said"] + found["redis rights"]["todo"]


def test_full_redis_and_replica_are_reported(own: Installation, own_redis: RedisServer) -> None:
    with own_redis.client() as client:
        client.set("much", b"x" * (10 << 20))
        poll(lambda: client.info("memory")["used_memory"] < 15 << 20, message="its buffers are free again")
        client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 1.01))
        assert "raise maxmemory" in examined(own, 1)["redis memory"]["todo"]
        client.replicaof("127.0.0.1", str(free_port()))
    assert "it is a slave" in examined(own, 1)["redis role"]["said"]


def test_hanging_checks_do_not_delay_the_others(
    own: Installation, own_redis: RedisServer, provider: ScriptedProvider
) -> None:
    provider.play(drips_headers)
    own_redis.pause()
    since = time.monotonic()
    try:
        found = examined(own, 1, **providers(provider))
    finally:
        own_redis.resume()
    assert time.monotonic() - since < 45  # the checks run concurrently, each with its timeout
    assert "does not answer" in found["redis"]["said"]
    assert "within 8 s" in found["provider scripted"]["said"] or "does not answer" in found["provider scripted"]["said"]
    assert found["migrations"]["verdict"] == "ok"


def test_silent_api_port_fails_and_open_address_without_auth_warns(installation: Installation) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        found = examined(installation, 1, SYTQ_API__PORT=str(silent.getsockname()[1]))
    assert found["api"]["verdict"] == "fail" and "does not answer" in found["api"]["said"]
    found = examined(installation, SYTQ_API__HOST="0.0.0.0")
    assert found["api address"]["verdict"] == "warn" and "sytq key create" in found["api address"]["todo"]
    found = examined(installation, SYTQ_API__HOST="0.0.0.0", SYTQ_AUTH__ENABLED="true")
    assert found["api address"]["verdict"] == "ok"


def test_auth_without_usable_keys_or_users_warns(tmp_path: Path, redis_url: str, database_url: str) -> None:
    made = Installation(tmp_path, database_url, redis_url)
    keys = ApiKeys(made.runtime.database)
    keys.create("old", "shop", Grant(expires_at=utcnow() - dt.timedelta(hours=1)), by="test")
    revoked, _ = keys.create("lost", "shop", Grant(), by="test")
    keys.revoke(revoked.id, by="test")
    on = {"SYTQ_AUTH__ENABLED": "true"}
    assert "auth" not in examined(made)
    assert "auth" not in examined(made, **on, SYTQ_AUTH__USERS__A="b")
    nobody = examined(made, **on)
    assert nobody["auth"]["verdict"] == "warn" and "nobody can log in" in nobody["auth"]["said"]
    keys.create("till", "shop", Grant(expires_at=utcnow() + dt.timedelta(hours=1)), by="test")
    found = examined(made, **on)
    assert found["auth"]["verdict"] == "ok" and "auth" not in found["config"]["said"]
    made.close()


def test_mysql_settings_and_login_are_checked(
    tmp_path: Path, redis_url: str, mysql_server: MySQLServer, mysql_url: str
) -> None:
    made = Installation(tmp_path, mysql_url, redis_url)
    found = examined(made, 0)
    assert found["database"]["said"].startswith(("MariaDB", "MySQL"))
    for check in ("database session", "database charset", "database connections", "migrations", "database clock"):
        assert found[check]["verdict"] == "ok", found[check]
    assert "power cut" in found["database durability"]["todo"]  # as the tests' server is set up
    assert examined(made, SYTQ_DATABASE__POOL="1000")["database connections"]["verdict"] == "warn"
    name = mysql_url.rpartition("/")[2].partition("?")[0]
    mysql_server.execute(f"ALTER DATABASE `{name}` CHARACTER SET latin1")
    assert "database latin1" in examined(made)["database charset"]["said"]
    assert found["table valuation_records"]["verdict"] == "ok"
    mysql_server.execute(f"ALTER TABLE `{name}`.valuation_records MODIFY id BIGINT UNSIGNED")
    table = examined(made, 0)["table valuation_records"]
    assert table["verdict"] == "warn" and "column id of valuation_records is bigint" in table["said"]
    mysql_server.execute(f"ALTER TABLE `{name}`.valuation_records MODIFY status ENUM('new'), MODIFY id BIGINT")
    table = examined(made, 1)["table valuation_records"]
    assert table["verdict"] == "fail" and "does not take pending, processing" in table["said"]
    refused = examined(made, 1, SYTQ_DATABASE__URL=mysql_url.replace("root@", "nobody:hush-hush@"))
    assert refused["database"]["said"].startswith("the database refuses: ")
    made.close()


def test_unmigrated_and_hanging_databases_fail(tmp_path: Path, redis_url: str, own_mysql: MySQLServer) -> None:
    url = own_mysql.create_database("late")
    made = Installation(tmp_path, f"sqlite:///{tmp_path / 'sytq.db'}", redis_url)
    found = examined(made, 1, SYTQ_DATABASE__URL=url)
    assert "lacks 0001_ledger" in found["migrations"]["said"] and found["migrations"]["todo"] == "run `sytq db migrate`"
    own_mysql.pause()
    try:
        found = examined(made, 1, SYTQ_DATABASE__URL=url)
    finally:
        own_mysql.resume()
    assert found["database"]["verdict"] == "fail" and found["redis"]["verdict"] == "ok"
    made.close()


def providers(provider: ScriptedProvider, **more: str) -> dict[str, str]:
    own = {"BASE_URL": provider.base_url, "MODEL": "m", "API_KEY": SECRETS[1], **more}
    return {f"SYTQ_PROVIDERS__SCRIPTED__{name}": value for name, value in own.items()}


BALANCE = '{"is_available": %s, "balance_infos": [{"currency": "CNY", "total_balance": "110.00"}]}'


@pytest.mark.parametrize(
    ("status", "body", "balance", "verdict", "words"),
    [
        (200, BALANCE % "true", True, "ok", "the key is accepted; balance 110.00 CNY"),
        (200, BALANCE % "false", True, "fail", "no credit: 110.00 CNY"),
        (200, "{}", True, "ok", "unknown format"),
        (402, "{}", True, "fail", "no credit"),
        (401, "{}", True, "fail", "refuses the key (HTTP 401)"),
        (503, "{}", True, "warn", "the provider answers HTTP 503"),
        (200, '{"data": []}', False, "ok", "the key is accepted"),
        (404, "{}", False, "ok", "the provider answers (HTTP 404); only a call shows more"),
        (200, '{"data": [{"id": "m"}, {"id": "n"}]}', False, "ok", "the key is accepted"),
        (200, '{"data": [{"id": "m-2"}, {"id": "n"}]}', False, "warn", "the list of 2 models lacks 'm'"),
        (400, '{"code": "Arrearage", "message": "overdue"}', False, "fail", "no credit: HTTP 400: overdue"),
        (301, "{}", False, "fail", "the provider answers HTTP 301"),
        (401, "{}", False, "fail", "refuses the key"),
    ],
)
def test_provider_check_requests_the_balance_or_the_models(
    tmp_path: Path, provider: ScriptedProvider, status: int, body: str, balance: bool, verdict: str, words: str
) -> None:
    provider.play(says(body, kind="application/json", status=status))
    more = {"BALANCE_URL": provider.base_url.replace("/v1", "/user/balance")} if balance else {}
    environ = providers(provider, **more) | {
        "SYTQ_DATABASE__URL": f"sqlite:///{tmp_path}/x",
        "SYTQ_REDIS__URL": "redis://127.0.0.1:1",
    }
    done = sytq("doctor", "--json", environ=environ)
    (finding,) = [one for one in json.loads(done.stdout)["checks"] if one["check"] == "provider scripted"]
    assert (finding["verdict"], words in finding["said"]) == (verdict, True), finding
    assert SECRETS[1] not in done.stdout + done.stderr
    (asked,) = provider.calls
    assert asked.path == ("/user/balance" if balance else "/v1/models")
    assert asked.headers["authorization"] == f"Bearer {SECRETS[1]}"


def test_paused_limiter_of_a_provider_says_why(installation: Installation, provider: ScriptedProvider) -> None:
    provider.play(says('{"data": []}', kind="application/json"))
    limiters = installation.runtime.limiters
    for name in ("model:scripted/m", "provider:another"):
        limiters.pause(name, "llm 1", "HTTP 404: gone [no_model]: name a model", seconds=60, person=False)
    found = examined(installation, **providers(provider))
    assert found["model:scripted/m"]["said"] == "paused: HTTP 404: gone [no_model]: name a model"
    assert "sytq limiters resume model:scripted/m" in found["model:scripted/m"]["todo"]
    assert "provider:another" not in found


@needs_openssl
def test_provider_check_takes_the_workers_proxy_and_authorities(installation: Installation, tmp_path: Path) -> None:
    ca = authority(tmp_path)
    secure = ScriptedProvider(server(tmp_path, ca).context())
    secure.play(says('{"data": []}', kind="application/json"))
    try:
        found = examined(installation, 1, **providers(secure))["provider scripted"]
        assert "a CA that this machine does not know" in found["said"] and "SSL_CERT_FILE" in found["said"]
        trusted = {"SSL_CERT_FILE": str(ca.certificate)}
        assert examined(installation, **trusted, **providers(secure))["provider scripted"]["verdict"] == "ok"
        proxied = providers(secure, PROXY="environment") | trusted | {"HTTPS_PROXY": "http://127.0.0.1:1"}
        found = examined(installation, 1, **proxied)["provider scripted"]
        assert (found["said"], found["todo"]) == (
            "does not answer: the outbound proxy cannot be used",
            "correct providers.scripted.proxy",
        )
    finally:
        secure.close()


def test_broken_plugin_is_reported(installation: Installation, tmp_path: Path) -> None:
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "broken.py").write_text("raise RuntimeError('out of order')\n")
    found = examined(installation, 1, SYTQ_PLUGINS__PATHS=json.dumps([str(folder)]))
    assert "broken.py is quarantined: RuntimeError: out of order" in found["plugins"]["said"]


def test_lost_workers_and_unrecorded_events_are_reported(make_installation: Callable[..., Installation]) -> None:
    installation = make_installation(SYTQ_WORKER__HEARTBEAT="300ms", SYTQ_WORKER__LIVENESS="1500ms")
    assert "start `sytq worker`" in examined(installation)["workers"]["todo"]
    first, second = installation.start_worker(), installation.start_worker()
    first.kill()
    poll(lambda: examined(installation)["workers"]["said"] == "1 alive, 1 lost", message="the first is lost")
    second.kill()
    installation.runtime.redis.ask("FLUSHALL")
    old = f"{int((time.time() - 90) * 1000)}-0"  # an event that waits for the recorder for 90 s
    installation.runtime.redis.ask("XADD", installation.runtime.keys.events, old, "kind", "started")
    assert examined(installation, 1)["recorder"]["said"].startswith("1 events wait, the oldest for 1m")


def test_results_that_wait_for_the_database_are_reported(installation: Installation) -> None:
    installation.runtime.redis.ask("HSET", installation.runtime.keys.results, "a-task node-0", "paid")
    found = examined(installation)["redis results"]
    assert found["verdict"] == "warn" and found["said"].startswith("1 results of steps"), found


def test_low_open_file_limit_is_reported(installation: Installation) -> None:
    assert "ulimit -n" in examined(installation, SYTQ_WORKER__ASYNC_CONCURRENCY="10000000")["open files"]["todo"]


@pytest.mark.parametrize(("ahead", "verdict"), [(0.2, "ok"), (-0.9, "ok"), (2.0, "warn"), (-30.0, "fail")])
def test_clock_skew_is_reported_by_size_and_direction(ahead: float, verdict: str) -> None:
    found = clock("redis clock", skew(lambda: time.time() + ahead))
    assert found.verdict == verdict
    assert ("ahead of" if ahead > 0 else "behind") in found.said

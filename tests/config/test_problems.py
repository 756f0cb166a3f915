"""Configuration problems that stop the start, and their messages."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest

from sytq.config import load
from sytq.errors import ConfigError


def refusal(environ: dict[str, str], path: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(str(path) if path else None, environ=environ)
    return str(caught.value)


def test_one_message_lists_every_problem_a_line_each(tmp_path: Path) -> None:
    file = tmp_path / "sytq.yaml"
    file.write_text("api: {port: 0}\nworker: {heartbeat: soon}\nlogr: {level: info}\n")
    lines = refusal({"SYTQ_REDIS__DB": "-1", "SYTQ_WEBHOOK__SECRET_FILE": "/nowhere"}, file).splitlines()
    assert sorted(line.split(":")[0] for line in lines) == [
        "SYTQ_WEBHOOK__SECRET_FILE",
        "api.port",
        "logr",
        "redis.db",
        "worker.heartbeat",
    ]
    assert f"api.port: value '0' is not valid: too small; valid: a port from 1 to 65535 (file {file})" in lines
    assert f"logr: no such setting; did you mean logger.level? (file {file})" in lines


@pytest.mark.parametrize(
    ("environ", "beginning", "valid"),
    [
        ({"SYTQ_API__PORT": "70000"}, "api.port: value '70000' is not valid: too large", "from 1 to 65535"),
        ({"SERVER_PORT": "x"}, "api.port: value 'x' is not valid: not a whole number", "(env SERVER_PORT)"),
        ({"SYTQ_API__MAX_BODY": "-1"}, "api.max_body: value '-1'", "512KiB"),
        ({"SYTQ_API__MAX_BODY": "0"}, "api.max_body: value '0'", "512KiB"),
        ({"SYTQ_API__HOST": "http://x"}, "api.host: value 'http://x'", "without scheme"),
        (
            {"SYTQ_APP__MODE": "prd"},
            "app.mode: value 'prd' is not valid: not one of these",
            "production, dev",
        ),
        ({"SYTQ_WORKER__THREADS": "0"}, "worker.threads: value '0' is not valid: too small", "at least 1"),
        ({"SYTQ_WORKER__HEARTBEAT": "-1s"}, "worker.heartbeat: value '-1s' is not valid: negative", "200ms"),
        (
            {"SYTQ_WORKER__HEARTBEAT": "0"},
            "worker.heartbeat: value '0' is not valid: too small",
            "more than 0",
        ),
        (
            {"SYTQ_WORKER__LIVENESS": "1.5s"},
            "worker.liveness: value '1.5s' is not valid: shorter",
            "at least three times",
        ),
        (
            {"SYTQ_REDIS__URL": "http://h"},
            "redis.url: value 'http://h' is not valid: unknown scheme",
            "redis+sentinel",
        ),
        ({"SYTQ_REDIS__URL": "redis://h:x"}, "redis.url: value", "the port is not a number from 1 to 65535"),
        ({"SYTQ_REDIS__URL": "redis://h/x"}, "redis.url: value", "not a database number"),
        ({"SYTQ_REDIS__URL": "redis://"}, "redis.url: value", "no host"),
        ({"SYTQ_REDIS__URL": "redis://a,b"}, "redis.url: value", "several hosts need"),
        ({"SYTQ_REDIS__PREFIX": "{x}"}, "redis.prefix: value '{x}'", "letters, digits"),
        ({"REDIS_ADDR": "redis://h"}, "redis.addr: value 'redis://h'", "valid: host:port"),
        ({"SYTQ_DATABASE__URL": "postgres://h/x"}, "database.url: value", "valid: sqlite:////absolute"),
        ({"SYTQ_DATABASE__URL": "sqlite://x.db"}, "database.url: value", "three slashes"),
        ({"SYTQ_DATABASE__URL": "sqlite:///:memory:"}, "database.url: value", "needs a file"),
        ({"SYTQ_DATABASE__URL": "mysql://h"}, "database.url: value", "no database name"),
        ({"SYTQ_DATABASE__URL": "mysql://h/x?tsl=1"}, "database.url: value", "unknown parameter tsl"),
        (
            {"SYTQ_OUTBOUND__ALLOW_NETWORKS": '["10.0.0.1/8"]'},
            "outbound.allow_networks.0:",
            "perhaps 10.0.0.0/8",
        ),
        ({"SYTQ_OUTBOUND__ALLOW_NETWORKS": "10.0.0.0/8"}, "outbound.allow_networks: value", "as JSON"),
        ({"SYTQ_OUTBOUND__ALLOW_HOSTS": '["http://x"]'}, "outbound.allow_hosts.0: value", "a host name"),
        (
            {"SYTQ_LLM__TABLES": '{"a; DROP": {}}'},
            "llm.tables: value 'a; DROP' is not valid",
            "letters, digits or _",
        ),
        (
            {"SYTQ_LLM__STATUS_LABELS": "fr"},
            "llm.status_labels: value 'fr' is not valid: no such preset",
            "en, zh",
        ),
        ({"SYTQ_LLM__STATUS_LABELS__FAILED": "x"}, "llm.status_labels.pending: missing", "1 to 50"),
        (
            {"SYTQ_LLM__PROVIDER": "x"},
            "llm.provider: value 'x' is not valid: no such provider",
            "none is configured",
        ),
        ({"SYTQ_PROVIDERS__X__API_KEY": "geheim"}, "providers.x.base_url: missing", "https://host/path"),
        (
            {"SYTQ_PROVIDERS__DEEPSEEK__BASE_URL": "h/v1"},
            "providers.deepseek.base_url: value 'h/v1'",
            "https://",
        ),
        ({"SYTQ_TYPES__X__PRIORITY": "top"}, "types.x.priority: value 'top'", "urgent, high, normal, low"),
        (
            {"SYTQ_TYPES__X__RETRY__JITTER": "2"},
            "types.x.retry.jitter: value '2' is not valid: too large",
            "at most 1",
        ),
        (
            {"SYTQ_TYPES": '{"x": {"retry": {"first": "9s", "max": "1s"}}}'},
            "types.x.retry.max: value",
            "as first",
        ),
        ({"SYTQ_QUEUES__A B__LIMIT": "1"}, "queues: value 'a b' is not valid", "a letter or _"),
        ({"SYTQ_AUTH__USERS__A:B": "geheim"}, "auth.users: value 'a:b'", "without a colon"),
        (
            {"SYTQ_AUTH__USERS": "geheim"},
            "auth.users: value in one piece is not valid: not a mapping",
            "as JSON",
        ),
        ({"SYTQ_AUTH__ENABLED": "maybe"}, "auth.enabled: value 'maybe'", "true or false"),
        ({"SYTQ_WEBHOOK__SECRET": "geheim"}, "webhook.secret: value '***'", "whsec_ followed by"),
        ({"SYTQ_WEBHOOK__SECRET": "whsec_Z2VoZWlt"}, "webhook.secret: value '***'", "24 to 64"),
        (
            {"SYTQ_WORKR__THREADS": "geheim"},
            "workr: no such setting; did you mean worker.threads?",
            "env SYTQ_WORKR",
        ),
        (
            {"SYTQ_WORKER__THREAD": "geheim"},
            "worker.thread: no such setting; did you mean worker.threads?",
            "env",
        ),
        (
            {"SYTQ_REDIS__PASWORD": "geheim"},
            "redis.pasword: no such setting; did you mean redis.password?",
            "env",
        ),
        ({"SYTQ_REDIS_URL": "x"}, "SYTQ_REDIS_URL: no such variable; did you mean SYTQ_REDIS__URL?", ""),
        ({"SYTQ_REDIS": "redis://:geheim@h"}, "redis: value in one piece is not valid", "a mapping"),
        ({"LOG_LEVEL": "loud"}, "logger.level: value 'loud'", "debug, info, warning, error (env LOG_LEVEL)"),
    ],
)
def test_invalid_value_is_named_with_the_valid_ones(environ: dict[str, str], beginning: str, valid: str) -> None:
    message = refusal(environ)
    assert message.splitlines()[0].startswith(beginning)
    assert valid in message
    assert "geheim" not in message


def test_kubernetes_service_variables_are_not_settings() -> None:
    environ = {
        "SYTQ_API_PORT": "tcp://10.0.0.1:80",
        "SYTQ_REDIS_SERVICE_HOST": "10.0.0.2",
        "SYTQ_PORT_80_TCP": "x",
    }
    assert load(environ=environ).origins == {}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("redis: {password: geheim", "line 1, column"),
        ("redis: {password: geheim}\nredis: {db: 1}", "the key redis is given twice"),
        ("redis: {password: !!python/object:geheim {}}", "is not YAML"),
        ("geheim", "holds no sections"),
        ("- geheim", "holds no sections"),
        ("redis: geheim", "redis: value in one piece is not valid: not a mapping"),
        ("auth: {users: [geheim]}", "auth.users: value with several parts is not valid: not a mapping"),
        ("redis: {password: [geheim]}", "redis.password: value '***' is not valid: not text"),
        (
            "redis: {url: 'redis://:p@h', addr: 'h:1'}",
            "redis.url: value 'redis://:***@h' is not valid: redis.addr says",
        ),
        (
            "redis: {url: 'redis://:p@h', password: geheim}",
            "redis.password: value '***' is not valid: the login stands",
        ),
        ("redis: {url: 'redis://h', db: 2}", "redis.db: value '2'"),
        (
            "app: {port: 1}\napi: {port: 2}",
            "api.port: value '2' is not valid: app.port says 1; valid: one of the two",
        ),
        (
            "llm: {status_labels: {pending: a, processing: a, completed: b, failed: c}}",
            "llm.status_labels: value 'a'",
        ),
    ],
)
def test_a_broken_file_is_refused_without_quoting_it(tmp_path: Path, content: str, what: str) -> None:
    file = tmp_path / "sytq.yaml"
    file.write_text(content)
    message = refusal({}, file)
    assert what in message
    assert "geheim" not in message


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "sytq.yaml"
    file.write_bytes(b"\xff\xfe\x00")
    assert "is not UTF-8 text" in refusal({}, file)


def test_a_named_file_must_exist() -> None:
    assert "'/nowhere/sytq.yaml' cannot be read: No such file" in refusal({"SYTQ_CONFIG": "/nowhere/sytq.yaml"})


def test_a_secret_file_must_hold_something(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    message = refusal({"SYTQ_REDIS__PASSWORD_FILE": str(tmp_path / "empty")})
    assert message.startswith(f"SYTQ_REDIS__PASSWORD_FILE: file '{tmp_path / 'empty'}' is empty")


def test_the_traceback_of_a_refusal_holds_no_secret() -> None:
    environ = {"SYTQ_WEBHOOK__SECRET": "geheim", "SYTQ_API__PORT": "x"}
    with pytest.raises(ConfigError) as caught:
        load(environ=environ)
    assert caught.value.__context__ is None
    assert "geheim" not in "".join(traceback.format_exception(caught.value))

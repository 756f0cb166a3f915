"""The old system's file and DSN keep their meaning."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from sytq.config import Settings, load
from sytq.config.urls import database_url_of_go_dsn, ignored_parameters
from sytq.errors import ConfigError

CONTRACT_A = """\
    app: {name: syt-go-queue, mode: development, port: 8080}      # development, production, test
    redis: {addr: "localhost:6379", password: "", db: 0}
    mysql: {dsn: "root:password@tcp(localhost:3306)/syt_queue?charset=utf8mb4&parseTime=True&loc=Local",
            max_idle_conns: 10, max_open_conns: 100}
    deepseek: {api_key: k, base_url: "https://api.deepseek.com/v1", timeout: 30s,
               model: deepseek-chat, max_tokens: 2000,
               circuit_breaker: {enabled: true, max_requests: 2, interval: 1m, timeout: 2m, fail_threshold: 0.5}}
    queue: {concurrency: 10, retry: 3, retention: 24h}
    logger: {level: info, development: true}
    auth: {enabled: true, realm: "SYT Go Queue API", users: {admin: admin123, api: api123}}
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    file = tmp_path / "config.yaml"
    file.write_text(CONTRACT_A)
    return load(str(file), environ={})


def test_the_old_file_loads_unchanged(settings: Settings) -> None:
    assert settings.app.name == "syt-go-queue"
    assert settings.api.port == 8080
    assert settings.redis.dsn == "redis://localhost:6379/0"
    assert settings.database_url == "mysql://root:password@localhost:3306/syt_queue?charset=utf8mb4"
    assert settings.database.pool == 100
    assert settings.deepseek.circuit_breaker.interval == 60.0
    assert settings.deepseek.circuit_breaker.timeout == 120.0
    assert settings.worker.threads == 10
    assert settings.queue.max_attempts == 4
    assert settings.retention == 86400.0
    assert settings.log_format == "console"
    assert settings.auth.enabled
    assert {name: word.get_secret_value() for name, word in settings.auth.users.items()} == {
        "admin": "admin123",
        "api": "api123",
    }


def test_deepseek_block_becomes_the_provider_of_llm_tasks(settings: Settings) -> None:
    provider = settings.providers["deepseek"]
    assert settings.llm_provider == "deepseek"
    assert provider.base_url == "https://api.deepseek.com/v1"
    assert provider.api_key is not None and provider.api_key.get_secret_value() == "k"
    assert (provider.model, provider.max_tokens) == ("deepseek-chat", 2000)
    assert (provider.first_content, provider.silence, provider.total) == (30.0, 30.0, 300.0)


def changed(tmp_path: Path, **sections: object) -> Settings:
    """The old file with other settings in some sections."""
    tree = yaml.safe_load(CONTRACT_A)
    for name, settings in sections.items():
        tree[name] = tree[name] | settings
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(tree, allow_unicode=True))
    return load(str(file), environ={})


@pytest.mark.parametrize(
    "base_url",
    [
        "https://h/v1",
        "https://h/v1/",
        "https://h/v1/chat/completions",
        "https://h/v1/chat/completions/",
    ],
)
def test_root_and_whole_address_of_a_provider_are_the_same(tmp_path: Path, base_url: str) -> None:
    settings = changed(tmp_path, deepseek={"base_url": base_url})
    provider = settings.providers["deepseek"]
    assert (provider.base_url, provider.balance_url) == ("https://h/v1", "https://h/user/balance")
    own = {"base_url": base_url, "model": "m", "balance_url": base_url}
    settings = load(environ={"SYTQ_PROVIDERS__OWN": json.dumps(own)})
    assert settings.providers["own"].base_url == "https://h/v1"
    assert settings.providers["own"].address("/chat/completions") == "https://h/v1/chat/completions"
    assert settings.providers["own"].balance_url == base_url.rstrip("/")


@pytest.mark.parametrize("path", ["", "/", "/chat/completions", "/chat/completions/"])
def test_query_of_a_whole_address_is_part_of_every_call(tmp_path: Path, path: str) -> None:
    """The Go service called `base_url` as it is; Azure's has a query."""
    settings = changed(tmp_path, deepseek={"base_url": f"https://h/d/gpt{path}?api-version=2024-06-01&a=/b/"})
    provider = settings.providers["deepseek"]
    assert provider.address("/chat/completions") == "https://h/d/gpt/chat/completions?api-version=2024-06-01&a=/b/"
    assert provider.balance_url == "https://h/d/gpt/user/balance"
    for wrong in ("https://h/v1#a", "https://h/v1?a#b", "?a", "https://?a"):
        with pytest.raises(ConfigError, match=r"deepseek\.base_url"):
            changed(tmp_path, deepseek={"base_url": wrong})


@pytest.mark.parametrize(
    "sections",
    [
        {"auth": {"enabled": False, "realm": "", "users": {}}},
        {"auth": {"enabled": False, "realm": "SYT Go Queue API Test", "users": None}},
        {"auth": {"enabled": "false", "realm": "", "users": {"": "x", "a:b": ""}}},
        {"auth": {"enabled": True, "realm": 'SYT "Go" \\ 队列', "users": {"admin": "a"}}},
        *(
            {"deepseek": {"circuit_breaker": {"enabled": False, "max_requests": 0, "fail_threshold": 0, **times}}}
            for times in ({}, {"interval": 0, "timeout": 0}, {"interval": "0s", "timeout": "-1s"})
        ),
        {"mysql": {"max_idle_conns": 0, "max_open_conns": 1}},
        {"queue": {"concurrency": "2", "retry": 0, "retention": "1h0m0s"}},
        {"logger": {"level": "warn", "development": "true"}},
        {"deepseek": {"timeout": "+1m30.5s", "api_key": 123456}},
        {"app": {"mode": "test", "port": "8081"}, "redis": {"db": "1", "addr": ":6379"}},
    ],
)
def test_what_the_go_service_accepts_loads(tmp_path: Path, sections: dict[str, dict[str, object]]) -> None:
    settings = changed(tmp_path, **sections)
    assert settings.auth.enabled == (sections.get("auth", {}).get("enabled", True) is True)
    breaker = sections.get("deepseek", {}).get("circuit_breaker", {})
    assert settings.providers["deepseek"].circuit_breaker.enabled == (not breaker)


def test_keys_of_the_old_file_may_be_in_any_case(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "App: {Port: 8081}\nDEEPSEEK: {API_Key: k, Circuit_Breaker: {Enabled: false}}\napp: {MODE: test}\n"
        "Auth: {Users: {Admin: a}}\n"
    )
    settings = load(str(file), environ={})
    assert (settings.api.port, settings.app.mode) == (8081, "test")
    assert settings.providers["deepseek"].key == "k"
    assert not settings.providers["deepseek"].circuit_breaker.enabled
    assert list(settings.auth.users) == ["Admin"]  # names are no keys of ours


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"auth": {"enabled": True, "realm": ""}}, "auth.realm: value ''"),
        ({"auth": {"realm": "a\n", "enabled": "true"}}, "auth.realm: value"),
        ({"auth": {"enabled": False, "usres": {}}}, "auth.usres: no such setting"),
        ({"deepseek": {"circuit_breaker": 5}}, "deepseek.circuit_breaker: value in one piece"),
        ({"auth": {"enabled": "maybe", "realm": ""}}, "auth.enabled: value 'maybe'"),
        ({"deepseek": {"circuit_breaker": {"enabled": True, "interval": 0}}}, "deepseek.circuit_breaker.interval"),
        ({"deepseek": {"circuit_breaker": {"max_requests": 0}}}, "deepseek.circuit_breaker.max_requests"),
    ],
)
def test_what_the_go_service_refuses_is_refused(
    tmp_path: Path, sections: dict[str, dict[str, object]], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        changed(tmp_path, **sections)
    assert str(caught.value).startswith(said)


def test_passwords_of_digits_need_no_quotes(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("redis: {password: 123456}\nauth: {users: {admin: 007, 42: 1_000, day: 2026-01-09, hex: 0x1F}}\n")
    settings = load(str(file), environ={})
    assert settings.redis.password.get_secret_value() == "123456"
    assert {name: word.get_secret_value() for name, word in settings.auth.users.items()} == {
        "admin": "007",
        "42": "1_000",
        "day": "2026-01-09",
        "hex": "0x1F",
    }


@pytest.mark.parametrize(
    ("dsn", "url"),
    [
        ("u:p@tcp(db.local:3307)/q", "mysql://u:p@db.local:3307/q?charset=utf8mb4"),
        ("u:p@tcp(db.local)/q", "mysql://u:p@db.local:3306/q?charset=utf8mb4"),
        ("u:p@/q", "mysql://u:p@127.0.0.1:3306/q?charset=utf8mb4"),
        ("/q", "mysql://127.0.0.1:3306/q?charset=utf8mb4"),
        ("u@tcp([::1]:3306)/q", "mysql://u@[::1]:3306/q?charset=utf8mb4"),
        ("u@tcp([de:ad::2])/q", "mysql://u@[de:ad::2]:3306/q?charset=utf8mb4"),
        ("u@tcp6([::1]:3306)/q?tls=0", "mysql://u@[::1]:3306/q?charset=utf8mb4&tls=false"),
        ("u@tcp4(h:1)/q?tls=1", "mysql://u@h:1/q?charset=utf8mb4&tls=true"),
        ("u:p@ss/w:rd%@tcp(h:1)/q", "mysql://u:p%40ss%2Fw%3Ard%25@h:1/q?charset=utf8mb4"),
        ("u:p@h(x)@tcp(h:1)/q", "mysql://u:p%40h%28x%29@h:1/q?charset=utf8mb4"),
        (
            "u:p@unix(/run/mysqld/mysqld.sock)/q",
            "mysql://u:p@localhost/q?charset=utf8mb4&unix_socket=%2Frun%2Fmysqld%2Fmysqld.sock",
        ),
        ("u:p@tcp(h:1)/q?charset=utf8mb4,utf8&loc=Asia%2FShanghai", "mysql://u:p@h:1/q?charset=utf8mb4"),
        (
            "u:p@tcp(h:1)/q?tls=skip-verify&timeout=5s&readTimeout=1m30s&writeTimeout=500ms",
            "mysql://u:p@h:1/q?charset=utf8mb4&tls=skip-verify&timeout=5&readTimeout=90&writeTimeout=0.5",
        ),
    ],
)
def test_a_go_dsn_becomes_one_url(dsn: str, url: str) -> None:
    assert database_url_of_go_dsn(dsn) == url


@pytest.mark.parametrize(
    "dsn",
    [
        "",
        "u:geheim@tcp(h:1)",
        "u:geheim@tcp(h:1)/",
        "u:geheim@tcp(h:x)/q",
        "u:geheim@pipe(h)/q",
        "u:geheim@tcp(h:1",
        "u:geheim@tcp(h:1)/q?tls=custom",
        "u:geheim@tcp(h:1)/q?timeout=soon",
    ],
)
def test_invalid_dsn_is_refused_without_quoting_its_password(dsn: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ={"SYTQ_MYSQL__DSN": dsn or "x"})
    assert str(caught.value).startswith("mysql.dsn: value '")
    assert "geheim" not in str(caught.value)
    assert "valid: user:password@tcp(host:3306)/database" in str(caught.value)


def test_dsn_parameters_without_effect_are_named_except_go_client_ones() -> None:
    assert ignored_parameters("u@/q?parseTime=True&loc=Local&time_zone=%27%2B08:00%27&charset=utf8") == ["time_zone"]

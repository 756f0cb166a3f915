"""Precedence and origin of configuration values."""

from __future__ import annotations

from pathlib import Path

import pytest

from sytq.config import Settings, load
from sytq.errors import ConfigError


def origin(settings: Settings, key: str) -> str:
    return {name: where for name, _, where in settings.describe()}[key]


def shown(settings: Settings, key: str) -> str:
    return {name: value for name, value, _ in settings.describe()}[key]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "sytq.yaml"
    file.write_text("api: {port: 1001, host: 127.0.0.2}\nlogger: {level: error}\n")
    return file


def test_without_any_file_or_variable_the_defaults_hold() -> None:
    settings = load(environ={})
    assert settings.api.port == 8080
    assert settings.redis.dsn == "redis://localhost:6379/0"
    assert settings.database_url == "sqlite:///sytq.db"
    assert settings.providers == {}
    assert settings.llm_provider is None
    assert list(settings.llm.tables) == ["valuation_records"]
    assert settings.llm.status_labels.completed == "completed"
    assert settings.worker.threads == 8
    assert settings.origins == {}


def test_later_layers_win_and_each_value_names_its_origin(file: Path, tmp_path: Path) -> None:
    secret = tmp_path / "port"
    secret.write_text("1004\n")
    environ = {"SYTQ_CONFIG": str(file)}
    said = []
    for more in (
        {},
        {"API_PORT": "1002"},
        {"SYTQ_API__PORT": "1003"},
        {"SYTQ_API__PORT_FILE": str(secret)},
    ):
        environ |= more
        settings = load(environ=environ)
        said.append((settings.api.port, origin(settings, "api.port")))
    assert said == [
        (1001, f"file {file}"),
        (1002, "env API_PORT"),
        (1003, "env SYTQ_API__PORT"),
        (1004, f"secret file {secret}"),
    ]
    assert origin(settings, "api.host") == f"file {file}"
    assert origin(settings, "api.workers") == "default"


def test_the_path_given_wins_over_sytq_config(file: Path) -> None:
    assert load(str(file), environ={"SYTQ_CONFIG": "/nowhere"}).api.port == 1001


@pytest.mark.parametrize(
    ("name", "value", "key", "expected"),
    [
        ("ENV", "production", "app.mode", "production"),
        ("ENV", "PROD", "app.mode", "production"),
        ("ENV", "/root/.shrc", "app.mode", "development"),
        ("SERVER_HOST", "0.0.0.0", "api.host", "0.0.0.0"),
        ("SERVER_PORT", "9000", "api.port", "9000"),
        ("API_PORT", "9001", "api.port", "9001"),
        ("API_PORT", "tcp://10.0.0.1:80", "api.port", "8080"),
        ("REDIS_ADDR", "redis:6380", "redis.addr", "redis:6380"),
        ("REDIS_ADDR", ":6380", "redis.addr", "localhost:6380"),
        ("WORKER_NUM_WORKERS", "5", "worker.threads", "5"),
        ("WORKER_CONCURRENCY", "50", "worker.async_concurrency", "50"),
        ("WORKER_MAX_CONCURRENCY", "60", "worker.async_concurrency", "60"),
        ("WORKER_RETRY_INTERVAL", "10", "worker.retry_interval", "10s"),
        ("WORKER_REQUEST_TIMEOUT", "45s", "worker.request_timeout", "45s"),
        ("WORKER_JOB_TIMEOUT", "5m", "worker.job_timeout", "5m0s"),
        ("WORKER_RETRY_ATTEMPTS", "0", "worker.retry_attempts", "0"),
        ("WORKER_RETRY_DELAY", "1500ms", "worker.retry_delay", "1.5s"),
        ("LOG_LEVEL", "WARN", "logger.level", "warning"),
        ("LOG_FORMAT", "text", "logger.format", "console"),
    ],
)
def test_the_old_variables_still_work(name: str, value: str, key: str, expected: str) -> None:
    assert shown(load(environ={name: value}), key) == expected


def test_variables_reach_any_depth_and_take_json_for_lists_and_mappings() -> None:
    settings = load(
        environ={
            "SYTQ_PROVIDERS__LOCAL__BASE_URL": "http://localhost:8000/v1/",
            "SYTQ_PROVIDERS__LOCAL__MODEL": "2024",
            "SYTQ_PROVIDERS__LOCAL__EXTRA__TEMPERATURE": "0.2",
            "SYTQ_AUTH__USERS__ADMIN": '{"not json',
            "SYTQ_OUTBOUND__ALLOW_NETWORKS": '["10.0.0.0/8", "fd00::/8"]',
            "SYTQ_TYPES": '{"llm": {"retry": {"first": "2s"}, "style": "short", "depth": 3}}',
            "SYTQ_TYPES__LLM__RETRY__MAX": "1m",
            "SYTQ_LLM__TABLES": '{"orders": {}, "reports": null}',
            "SYTQ_LLM__STATUS_LABELS": "zh",
            "SYTQ_PLUGINS__PATHS": "",
        }
    )
    provider = settings.providers["local"]
    assert (provider.base_url, provider.model, provider.extra) == (
        "http://localhost:8000/v1",
        "2024",
        {"temperature": 0.2},
    )
    assert settings.auth.users["admin"].get_secret_value() == '{"not json'
    assert [str(network) for network in settings.outbound.allow_networks] == ["10.0.0.0/8", "fd00::/8"]
    assert (settings.types["llm"].retry.first, settings.types["llm"].retry.max) == (2.0, 60.0)
    assert settings.types["llm"].extra == {"style": "short", "depth": 3}
    assert list(settings.llm.tables) == ["orders", "reports"]
    assert settings.llm.status_labels.completed == "已完成"
    assert origin(settings, "llm.status_labels.failed") == "env SYTQ_LLM__STATUS_LABELS"


def test_variables_match_file_keys_ignoring_case_and_hyphens(file: Path) -> None:
    file.write_text("providers: {My-Gateway: {base_url: 'https://x/v1', model: m}}\n")
    settings = load(str(file), environ={"SYTQ_PROVIDERS__MY_GATEWAY__MODEL": "other"})
    assert [(name, provider.model) for name, provider in settings.providers.items()] == [("My-Gateway", "other")]


def test_the_well_known_provider_needs_only_its_key() -> None:
    settings = load(environ={"SYTQ_PROVIDERS__DEEPSEEK__API_KEY": "k"})
    assert settings.providers["deepseek"].base_url == "https://api.deepseek.com/v1"
    assert settings.providers["deepseek"].first_content == 60.0


def test_providers_section_wins_over_the_deepseek_block() -> None:
    settings = load(
        environ={
            "SYTQ_DEEPSEEK__API_KEY": "old",
            "SYTQ_DEEPSEEK__TIMEOUT": "10m",
            "SYTQ_PROVIDERS__DEEPSEEK__MODEL": "deepseek-reasoner",
        }
    )
    provider = settings.providers["deepseek"]
    assert provider.model == "deepseek-reasoner"
    assert provider.total == 600.0
    assert origin(settings, "providers.deepseek.total") == "env SYTQ_DEEPSEEK__TIMEOUT (deepseek.timeout)"


def test_systemd_credentials_are_settings_in_either_case(tmp_path: Path) -> None:
    (tmp_path / "sytq_redis__password").write_text("lower\n")
    (tmp_path / "SYTQ_WEBHOOK__SECRET").write_text("whsec_" + "A" * 32)
    (tmp_path / "tls.key").write_text("of someone else")
    settings = load(environ={"CREDENTIALS_DIRECTORY": str(tmp_path), "SYTQ_REDIS__PASSWORD": "plain"})
    assert settings.redis.dsn == "redis://:lower@localhost:6379/0"
    assert origin(settings, "webhook.secret") == f"secret file {tmp_path / 'SYTQ_WEBHOOK__SECRET'}"


def test_credentials_directory_of_another_service_is_ignored() -> None:
    assert load(environ={"CREDENTIALS_DIRECTORY": "/nowhere/at/all"}).origins == {}


@pytest.mark.parametrize(
    ("environ", "dsn"),
    [
        ({"SYTQ_REDIS__URL": "unix:///run/r.sock"}, "unix:///run/r.sock"),
        ({"SYTQ_REDIS__URL": "rediss://h:1/2", "SYTQ_REDIS__PASSWORD": "p@/"}, "rediss://:p%40%2F@h:1/2"),
        (
            {"SYTQ_REDIS__USERNAME": "u", "SYTQ_REDIS__PASSWORD": "p", "SYTQ_REDIS__DB": "3"},
            "redis://u:p@f:1/3",
        ),
        ({"REDIS_ADDR": "g:2"}, "redis://:file@g:2/0"),
        ({"SYTQ_REDIS__URL": "redis+sentinel://a:1,b:2/m"}, "redis+sentinel://a:1,b:2/m"),
        ({"SYTQ_REDIS__URL": "redis+cluster://a:1,b:2"}, "redis+cluster://a:1,b:2"),
    ],
)
def test_a_redis_address_of_a_later_layer_replaces_the_file(file: Path, environ: dict[str, str], dsn: str) -> None:
    file.write_text("redis: {addr: 'f:1', password: file}\n")
    assert load(str(file), environ=environ).redis.dsn == dsn


def test_a_database_of_a_later_layer_replaces_the_file(file: Path) -> None:
    file.write_text("mysql: {dsn: 'u:p@tcp(h:1)/q'}\n")
    assert load(str(file), environ={"SYTQ_DATABASE__URL": "sqlite:////x.db"}).database_url == "sqlite:////x.db"
    file.write_text("database: {url: 'sqlite:////x.db'}\n")
    environ = {"SYTQ_MYSQL__DSN": "u:p@tcp(h:1)/q"}
    assert load(str(file), environ=environ).database_url == "mysql://u:p@h:1/q?charset=utf8mb4"


def test_different_databases_in_one_file_stop_the_start(file: Path) -> None:
    same = "database: {url: 'mysql://u:p@h:1/q?charset=utf8mb4'}\nmysql: {dsn: 'u:p@tcp(h:1)/q'}\n"
    file.write_text(same)
    assert load(str(file), environ={}).database_url == "mysql://u:p@h:1/q?charset=utf8mb4"
    file.write_text(same.replace("h:1)", "h:2)"))
    with pytest.raises(ConfigError, match=r"^database\.url: .*mysql\.dsn names another database"):
        load(str(file), environ={})


def test_empty_sections_and_empty_variables_count_as_not_given(file: Path) -> None:
    file.write_text("redis:\nproviders:\napi:\n  port:\n")
    environ = {"SYTQ_REDIS__URL": "", "SYTQ_REDIS__PASSWORD_FILE": "", "LOG_LEVEL": ""}
    assert load(str(file), environ=environ).origins == {}


@pytest.mark.parametrize(
    ("environ", "form"),
    [
        ({}, "console"),
        ({"ENV": "production"}, "json"),
        ({"ENV": "production", "LOG_FORMAT": "console"}, "console"),
        ({"SYTQ_LOGGER__DEVELOPMENT": "false"}, "json"),
    ],
)
def test_production_logs_json_and_development_does_not(environ: dict[str, str], form: str) -> None:
    assert load(environ=environ).log_format == form


def test_nothing_shown_or_printed_holds_a_secret(tmp_path: Path) -> None:
    file = tmp_path / "sytq.yaml"
    file.write_text(
        """
        redis: {url: "redis://u:geheim@h:1/0"}
        mysql: {dsn: "u:ge/h@eim:geheim@tcp(h:1)/q"}
        providers:
          x: {base_url: "https://u:geheim@h/v1", model: m, api_key: geheim, extra: {api_key: geheim}}
        types: {email: {smtp: {password: geheim}}}
        auth: {users: {admin: geheim}}
        webhook: {secret: "whsec_Z2VoZWltZ2VoZWltZ2VoZWltZ2VoZWlt"}
        """
    )
    settings = load(str(file), environ={})
    rows = {key: value for key, value, _ in settings.describe()}
    assert rows["mysql.dsn"] == "u:***@tcp(h:1)/q"
    assert rows["redis.url"] == "redis://u:***@h:1/0"
    assert rows["types.email.smtp.password"] == "***"
    assert rows["auth.users.admin"] == "***"
    for text in (str(rows), repr(settings), settings.model_dump_json()):
        assert "Z2VoZWlt" not in text
    assert "geheim" not in str(rows)
    assert "geheim" not in repr(settings.redis) + repr(settings.mysql) + repr(settings.auth) + repr(settings.webhook)

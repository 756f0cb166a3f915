"""Secrets and addresses as people paste them: cleaned, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sytq.config import Settings, load
from sytq.errors import ConfigError

_PROVIDER = {"SYTQ_PROVIDERS__X__BASE_URL": "https://h/v1", "SYTQ_PROVIDERS__X__MODEL": "m"}
_WHSEC = "whsec_" + "A" * 32
#: Setting -> a good value, and how a process reads it.
_SETTINGS: dict[str, tuple[str, Any]] = {
    "providers.x.api_key": ("sk-geheim", lambda s: s.providers["x"].key),
    "providers.x.base_url": ("https://u:geheim@h/v1", lambda s: s.providers["x"].base_url),
    "deepseek.api_key": ("sk-geheim", lambda s: s.providers["deepseek"].key),
    "redis.password": ("geheim 1", lambda s: s.redis.password.get_secret_value()),
    "redis.url": ("redis://:geheim@h:1/0", lambda s: s.redis.dsn),
    "database.url": ("mysql://u:geheim@h/q", lambda s: s.database_url),
    "mysql.dsn": ("u:geheim@tcp(h:1)/q", lambda s: s.mysql.dsn),
    "webhook.secret": (_WHSEC, lambda s: s.webhook.secret.get_secret_value()),
    "sentry.dsn": ("https://geheim@h/1", lambda s: s.sentry.dsn.get_secret_value()),
    "auth.users.a": ("geheim", lambda s: s.auth.users["a"].get_secret_value()),
    "outbound.proxy": ("http://u:geheim@h:1", lambda s: s.outbound.proxy),
    "otel.headers.authorization": (
        "Basic geheim",
        lambda s: s.otel.headers["authorization"].get_secret_value(),
    ),
    "types.email.password": ("geheim", lambda s: s.types["email"].extra["password"]),
    "types.of_a_stranger.token": ("geheim", lambda s: s.types["of_a_stranger"].extra["token"]),
}
_AROUND = ("{}\n", "{}\r\n", "\ufeff{}", "  {}\t", "{}\u200b\n", "\xa0{}\u2028")
_INSIDE = ("{}\r\nX-Admin: 1", "{}\n\nsecond", "a\x00{}", "{}\x7f{}", '"{}"', "'{}'\n", "`{}`")


def _variable(setting: str) -> str:
    return "SYTQ_" + setting.upper().replace(".", "__")


def _nested(setting: str, value: object) -> dict[str, Any]:
    for key in reversed(setting.split(".")):
        value = {key: value}
    assert isinstance(value, dict)
    return value


def _layers(setting: str, text: str, folder: Path) -> dict[str, Settings]:
    """The settings with the text given by each layer."""
    base = _PROVIDER if setting.startswith("providers.x") else {}
    base = {name: value for name, value in base.items() if name != _variable(setting)}
    (folder / "secret").write_text(text, encoding="utf-8", newline="")
    yaml = folder / "sytq.yaml"
    yaml.write_text(json.dumps(_nested(setting, text)), encoding="utf-8")
    return {
        "environment": load(environ=base | {_variable(setting): text}),
        "file": load(environ=base | {f"{_variable(setting)}_FILE": str(folder / "secret")}),
        "yaml": load(str(yaml), environ=base),
    }


@pytest.mark.parametrize("setting", _SETTINGS)
def test_what_stands_around_a_secret_is_taken_off(tmp_path: Path, setting: str) -> None:
    text, read = _SETTINGS[setting]
    for form in _AROUND:
        for layer, settings in _layers(setting, form.format(text), tmp_path).items():
            assert read(settings) == text, (layer, form)


def test_a_yaml_block_and_a_list_of_secrets_are_cleaned_too(tmp_path: Path) -> None:
    file = tmp_path / "sytq.yaml"
    file.write_text(
        f"\ufeffredis:\n  password: |\n    geheim\nwebhook:\n  secrets: [{{match: '*', secret: \"{_WHSEC}\\n\"}}]\n"
    )
    settings: Any = load(str(file), environ={"SENTRY_DSN": "https://geheim@h/1\r\n", "SYTQ_REDIS__USERNAME": "\n"})
    assert settings.redis.dsn == "redis://:geheim@localhost:6379/0"
    assert settings.webhook.secrets[0].secret.get_secret_value() == _WHSEC
    assert settings.sentry.dsn.get_secret_value() == "https://geheim@h/1"


def test_variables_of_a_file_with_windows_line_ends_work(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("geheim\r\n")
    (tmp_path / "sytq.yaml").write_text("api: {host: 127.0.0.2}\r\n", newline="")
    environ = {
        "SYTQ_CONFIG": str(tmp_path / "sytq.yaml"),
        "ENV": "production",
        "REDIS_ADDR": "r:1",
        "SYTQ_REDIS__PASSWORD_FILE": str(tmp_path / "secret"),
        "API_PORT": "8081",
        "LOG_LEVEL": "warn",
        "WORKER_RETRY_INTERVAL": "7s",
        "SYTQ_AUTH__ENABLED": "true",
        "SYTQ_OUTBOUND__ALLOW_NETWORKS": '["10.0.0.0/8"]',
    }
    settings = load(environ={name: f"{value}\r" for name, value in environ.items()})
    assert settings.redis.dsn == "redis://:geheim@r:1/0"
    assert (settings.api.host, settings.api.port, settings.app.mode) == ("127.0.0.2", 8081, "production")
    assert (settings.logger.level, settings.worker.retry_interval, settings.auth.enabled) == ("warning", 7.0, True)
    assert str(settings.outbound.allow_networks[0]) == "10.0.0.0/8"


def test_texts_that_are_no_secrets_keep_their_line_breaks() -> None:
    settings: Any = load(environ=_PROVIDER | {"SYTQ_PROVIDERS__X__EXTRA": '{"stop": "\\n"}'})
    assert settings.providers["x"].extra == {"stop": "\n"}


@pytest.mark.parametrize("setting", _SETTINGS)
def test_what_cannot_stand_in_a_secret_is_refused_by_name(tmp_path: Path, setting: str) -> None:
    text, _ = _SETTINGS[setting]
    for form in _INSIDE:
        with pytest.raises(ConfigError) as caught:
            _layers(setting, form.format(text, text), tmp_path)
        (line,) = str(caught.value).splitlines()
        assert line.startswith(f"{setting}: value '***' is not valid: ")
        assert line.endswith(f"(env {_variable(setting)})")
        assert "geheim" not in line


@pytest.mark.parametrize("url", ["redis://:geheim%0A@h", "redis://:geheim%0d%0A@h", "redis://:ge\nheim@h"])
def test_line_break_in_the_password_of_a_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^redis\.url: value '\*\*\*' is not valid: a line break"):
        load(environ={"SYTQ_REDIS__URL": url})


@pytest.mark.parametrize("key", ["Bearer sk-geheim", "sk-geh…eim", "sk-geh\u200beim", 'sk-geheim"', "sk-geheim\xad1"])
def test_a_key_that_no_header_can_carry_is_refused(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ=_PROVIDER | {"SYTQ_PROVIDERS__X__API_KEY": key})
    assert str(caught.value).startswith("providers.x.api_key: value '***' is not valid: a header cannot carry it")
    assert "geh" not in str(caught.value)

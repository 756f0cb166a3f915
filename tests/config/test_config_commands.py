"""`sytq config check` and `sytq config show`, run as processes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tests.terminal import sytq


def sytq_config(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name in ("PATH", "PYTHONPATH", "HOME")}
    return sytq("config", *arguments, environ=clean | environ)


def test_check_of_a_good_configuration_exits_0_with_one_line() -> None:
    environ = {
        "SYTQ_AUTH__ENABLED": "true",
        "SYTQ_AUTH__USERS__A": "b",
        "SYTQ_WEBHOOK__SECRET": "whsec_" + "A" * 32,
        "SYTQ_DEEPSEEK__API_KEY": "k",
    }
    done = sytq_config("check", **environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "The configuration is valid: 4 settings given, the others are defaults.\n"


def test_check_of_a_bad_configuration_exits_2_with_all_problems() -> None:
    done = sytq_config("check", SYTQ_API__PORT="0", SYTQ_WORKR__THREADS="1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "api.port: value '0' is not valid: too small; valid: a port from 1 to 65535 (env SYTQ_API__PORT)\n"
        "workr: no such setting; did you mean worker.threads? (env SYTQ_WORKR__THREADS)\n"
    )


def test_check_warns_of_probable_mistakes() -> None:
    done = sytq_config("check", SYTQ_MYSQL__DSN="u@/q?time_zone=x", SERVER_HOST="0.0.0.0")
    assert done.returncode == 0
    assert [line.split(" ")[1] for line in done.stderr.splitlines()] == [
        "auth.enabled",
        "no",
        "webhook.secret",
        "mysql.dsn:",
    ]
    assert "0.0.0.0, which others can reach" in done.stderr


def test_check_without_users_says_that_only_api_keys_are_accepted() -> None:
    done = sytq_config("check", SYTQ_AUTH__ENABLED="true")
    assert "warning: auth.users is empty: only API keys are accepted (`sytq key create`)" in done.stderr
    assert "log in" not in done.stderr
    assert "auth" not in sytq_config("check", SYTQ_AUTH__ENABLED="true", SYTQ_AUTH__USERS__A="b").stderr


def test_show_prints_key_value_and_origin_with_secrets_masked(tmp_path: Path) -> None:
    file = tmp_path / "sytq.yaml"
    file.write_text("redis: {addr: 'h:1', password: geheim}\noutbound: {allow_hosts: [b, c]}\n")
    done = sytq_config("show", "--file", str(file), API_PORT="81")
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in done.stdout.splitlines()}
    assert done.returncode == 0
    assert rows["redis.addr"] == f"h:1 file {file}"
    assert rows["redis.password"] == f"*** file {file}"
    assert rows["outbound.allow_hosts"] == f'["b", "c"] file {file}'
    assert rows["api.port"] == "81 env API_PORT"
    assert rows["api.workers"] == "2 default"
    assert rows["app.name"] == "sytq default (accepted, has no effect)"
    assert "geheim" not in done.stdout


def test_show_json_has_key_value_origin_and_effect() -> None:
    done = sytq_config("show", "--json", SYTQ_LLM__STATUS_LABELS="zh", SYTQ_MYSQL__MAX_IDLE_CONNS="7")
    entries = {entry["key"]: entry for entry in json.loads(done.stdout)}
    assert entries["llm.status_labels.failed"] == {
        "key": "llm.status_labels.failed",
        "value": "失败",
        "origin": "env SYTQ_LLM__STATUS_LABELS",
        "has_effect": True,
    }
    assert entries["mysql.max_idle_conns"] == {
        "key": "mysql.max_idle_conns",
        "value": "7",
        "origin": "env SYTQ_MYSQL__MAX_IDLE_CONNS",
        "has_effect": False,
    }

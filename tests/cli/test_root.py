"""The command line as a whole: its commands and how they report errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import sytq
from tests import terminal
from tests.servers import free_port


def run(*arguments: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return terminal.sytq(*arguments, environ=terminal.clean_environ(**variables), cwd=folder)


def test_help_lists_every_command(tmp_path: Path) -> None:
    done = run("--help", folder=tmp_path)
    assert done.returncode == 0
    for command in ("dev", "api", "worker", "config", "db"):
        assert f"\n  {command} " in done.stdout
    assert list(tmp_path.iterdir()) == []


#: Packages that help must not import: configuration, stores, HTTP and tables.
HEAVY = {
    "aiohttp",
    "dramatiq",
    "falcon",
    "peewee",
    "pydantic",
    "pymysql",
    "redis",
    "requests",
    "rich",
    "structlog",
    "yaml",
}


@pytest.mark.parametrize("arguments", [("--help",), ("--version",)])
def test_help_imports_nothing_heavy(arguments: tuple[str, ...], tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("sytq")
    done = subprocess.run(
        [sys.executable, "-X", "importtime", program, *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert {"typer", "sytq.cli"} <= imported  # the output was parsed
    assert {name.partition(".")[0] for name in imported} & HEAVY == set()
    ours = {"sytq.cli", "sytq.cli.commands", "sytq.deprecated", "sytq.errors", "sytq.plugins"}
    assert {name for name in imported if name.startswith("sytq.")} == ours
    assert {name for name in imported if name.startswith("sytq_plugins.")} <= {"sytq_plugins.cli"}


def test_version_is_printed(tmp_path: Path) -> None:
    assert run("--version", folder=tmp_path).stdout == f"sytq {sytq.__version__}\n"


def test_an_unknown_command_is_refused(tmp_path: Path) -> None:
    done = run("serve", folder=tmp_path)
    assert done.returncode == 2
    assert "No such command 'serve'" in done.stderr


@pytest.mark.parametrize(
    "command",
    [("dev",), ("dev", "--once"), ("api",), ("worker",), ("config", "check"), ("config", "show"), ("db", "check")],
)
def test_invalid_configuration_is_one_message_and_exit_2(command: tuple[str, ...], tmp_path: Path) -> None:
    done = run(*command, folder=tmp_path, SYTQ_API__PORT="high", SYTQ_REDIS__PASSWORD="hush-hush", SYTQ_REDIS__DB="x")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "api.port" in done.stderr and "high" in done.stderr
    assert "redis.db" in done.stderr
    assert "Traceback" not in done.stderr and "hush-hush" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["0", "65536", "http"])
def test_dev_refuses_an_invalid_port(value: str, tmp_path: Path) -> None:
    done = run("dev", "--port", value, folder=tmp_path)
    assert done.returncode == 2
    assert f"'{value}' is not a port; valid: 1 to 65535" in done.stderr and "--port" in done.stderr


def test_db_migrate_applies_the_migrations_that_db_check_lists(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "sytq.yaml").write_text(f'database: {{url: "{database_url}"}}\n')
    before = run("db", "check", "--file", "sytq.yaml", folder=tmp_path)
    assert (before.returncode, before.stdout) == (1, "")
    assert before.stderr.startswith("pending: 0001_ledger")
    pending = run("db", "check", "--json", "-f", "sytq.yaml", folder=tmp_path)
    assert pending.returncode == 1 and json.loads(pending.stdout)["pending"][0] == "0001_ledger"
    first = run("db", "migrate", folder=tmp_path, SYTQ_DATABASE__URL=database_url)
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout.startswith("applied: 0001_ledger")
    assert "nothing to do" in run("db", "migrate", "-f", "sytq.yaml", folder=tmp_path).stdout
    assert run("db", "check", "-f", "sytq.yaml", folder=tmp_path).returncode == 0
    assert json.loads(run("db", "migrate", "--json", "-f", "sytq.yaml", folder=tmp_path).stdout) == {"applied": []}


def test_config_check_reports_problems_as_json(tmp_path: Path) -> None:
    done = run("config", "check", "--json", folder=tmp_path, SYTQ_API__PORT="high", SYTQ_COLOUR="red")
    report = json.loads(done.stdout)
    assert done.returncode == 2 and report["valid"] is False and "api.port" in "".join(report["problems"])
    done = run("config", "check", "--json", folder=tmp_path)
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["valid"] and any("webhook.secret" in text for text in report["warnings"])


def test_unavailable_database_is_reported_in_one_line(tmp_path: Path) -> None:
    url = f"mysql://sytq:hush-hush@127.0.0.1:{free_port()}/sytq"
    for command in ("migrate", "check"):
        done = run("db", command, folder=tmp_path, SYTQ_DATABASE__URL=url)
        assert done.returncode == 1
        assert done.stderr.startswith("sytq: the database does not answer")
        assert done.stderr.count("\n") == 1 and "hush-hush" not in done.stderr


def test_refused_database_login_is_reported_in_one_line(mysql_url: str, tmp_path: Path) -> None:
    done = run("db", "migrate", folder=tmp_path, SYTQ_DATABASE__URL=mysql_url.replace("root@", "nobody:hush-hush@"))
    assert done.returncode == 1
    assert done.stderr.startswith("sytq: the database refuses: Access denied") and "nobody" in done.stderr
    assert done.stderr.count("\n") == 1 and "hush-hush" not in done.stderr


def test_db_check_of_a_missing_sqlite_file_creates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "sytq.db"
    done = run("db", "check", folder=tmp_path, SYTQ_DATABASE__URL=f"sqlite:///{path}")
    assert done.returncode == 1
    assert "does not answer" in done.stderr
    assert list(tmp_path.iterdir()) == []

"""docs/migrating.md: its paths are served, its settings, variables and metrics are known, its PHP runs."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import falcon.inspect
import pytest

from sytq.api import create_app
from sytq.config import load
from tests.installation import BUILT_IN, Installation
from tests.provider import ScriptedProvider
from tests.receiver import Receiver
from tests.servers import MySQLServer, poll
from tests.tools import required

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/migrating.md").read_text("utf-8")


def test_every_path_of_the_page_is_served() -> None:
    served = {
        (route.path.replace("{task_id}", "{id}"))
        for route in falcon.inspect.inspect_routes(create_app(load(environ={})))
    }
    named = {path.partition("?")[0] for path in re.findall(r"`(?:GET |POST )?(/[a-z0-9/{}]+(?:\?[^`]*)?)`", PAGE)}
    assert len(named) >= 12
    assert named - served - {"/v2"} == set()


def test_every_variable_of_the_page_is_known() -> None:
    configuration = (ROOT / "docs/configuration.md").read_text("utf-8")
    names = set(re.findall(r"`([A-Z][A-Z_]+)`", PAGE)) - {"XADD", "XLEN", "XPENDING", "XREAD"}
    assert len(names) >= 15
    assert {name for name in names if name not in configuration} == set()


def test_every_metric_of_the_go_service_has_a_documented_successor() -> None:
    metrics = set(re.findall(r"^\| `(sytq_\w+)`", (ROOT / "docs/metrics.md").read_text("utf-8"), re.MULTILINE))
    rows = re.findall(r"^\| `syt_go_queue_(\w+)`[^|]*\|([^|]*)\|([^|]*)\|$", PAGE, re.MULTILINE)
    assert {old for old, *_ in rows} == {
        "requests_total", "request_duration_seconds", "tasks_total", "task_duration_seconds", "database_queries_total",
        "database_query_duration_seconds", "llm_api_calls_total", "llm_api_duration_seconds", "size", "workers",
    }  # fmt: skip
    for old, new, more in rows:
        names = re.findall(r"`(sytq_\w+)`", new)
        assert names, old
        assert {name.removesuffix("_count") for name in names + re.findall(r"`(sytq_\w+)`", more)} <= metrics


@pytest.mark.mysql
def test_the_php_examples_work_with_pdo_and_curl(
    make_installation: Callable[..., Installation],
    mysql_server: MySQLServer,
    mysql_url: str,
    provider: ScriptedProvider,
) -> None:
    php = required("php", "packages php-cli, php-curl and php-mysql")
    loaded = subprocess.run([php, "-m"], capture_output=True, text=True, check=True).stdout
    if "pdo_mysql" not in loaded and os.environ.get("CI") != "true":
        pytest.skip("php has no pdo_mysql (package php-mysql)")
    installation = make_installation(
        mysql_url,
        **BUILT_IN,
        SYTQ_AUTH__ENABLED="true",
        SYTQ_AUTH__USERS__API="api123",
        SYTQ_PROVIDERS__SCRIPTED__BASE_URL=f"{provider.base_url}/chat/completions",
        SYTQ_PROVIDERS__SCRIPTED__MODEL="valuer-1",
        SYTQ_OUTBOUND__ALLOW_NETWORKS='["127.0.0.0/8"]',
    )
    installation.start_api()
    installation.start_worker()
    database = mysql_url.rpartition("/")[2].partition("?")[0]
    environ = os.environ | {
        "DB_DSN": f"mysql:host=127.0.0.1;port={mysql_server.port};dbname={database};charset=utf8mb4",
        "DB_USER": "root",
        "SYTQ_URL": f"http://127.0.0.1:{installation.port}",
        "SYTQ_LOGIN": "api:api123",
    }
    row, others = re.findall(r"^```php\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)

    def run(script: str, *arguments: str) -> str:
        command = [php, "-r", script.removeprefix("<?php"), "--", *arguments]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done
        return done.stdout

    said = run(row, "4711", "Was kostet ein Bus? 🚐")
    ((report, error),) = installation.rows("SELECT report, failed_info FROM valuation_records WHERE id = 4711")
    assert said == f"completed completed: {report}\n"
    assert (bool(report), error, len(provider.calls)) == (True, "", 1)

    receiver = Receiver(200)
    try:
        ids = run(others, receiver.url).split()
        assert run(others, receiver.url).split() == ids  # repeated with its Idempotency-Key
        assert [installation.wait_state(id, "succeeded").type for id in ids] == ["llm", "webhook"]
        assert [got.body for got in receiver.received] == [b'{"paid": true}']
    finally:
        receiver.close()
    poll(lambda: len(provider.calls) == 2, message="the prompt is asked once")

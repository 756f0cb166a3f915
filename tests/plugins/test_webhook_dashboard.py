"""What the dashboard shows of webhooks and their hosts, and what its buttons do; nothing that it shows is a secret."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sytq_plugins.webhook import hosts_page, task_page
from sytq_plugins.webhook.hosts import FailingHost

from sytq import DashboardContext
from sytq.api.dashboard.blocks import shown
from sytq.blocks import Action, Code, Fields, Json, Link, Table, Text
from sytq.errors import InvalidInput
from sytq.ledger.database import transact
from tests.installation import Installation
from tests.plugins.running import runtime_of
from tests.receiver import Receiver
from tests.servers import poll

SECRETS = ("hunter2", "s3cret-token", "q-token")


def context(runtime: Any, owner: str | None = None, **parameters: str) -> DashboardContext:
    return DashboardContext(runtime, "ada", owner, parameters)


@pytest.fixture
def runtime(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[Any]:
    allowed = '["127.0.0.0/8"]'
    with runtime_of(database_url, redis_url, OUTBOUND__ALLOW_NETWORKS=allowed, REDIS__PREFIX=tmp_path.name) as made:
        yield made


def rows(found: Any) -> list[list[Any]]:
    (table,) = [block for block in found if isinstance(block, Table)]
    return [list(row) for row in table.rows]


def test_request_is_shown_without_its_credentials(runtime: Any) -> None:
    payload = {
        "url": "https://hook.example.com/a?token=q-token",
        "headers": {"Authorization": "Bearer s3cret-token", "X-Api-Key": "hunter2", "X-Trace": "abc"},
        "body": json.dumps({"order": 7, "password": "hunter2"}),
    }
    declared = runtime.registry.get("webhook")
    blocks = declared.blocks(payload, {"status": 204, "elapsed_ms": 120})
    text = str(shown(blocks)) + str(declared.shown(payload, None))
    assert all(secret not in text for secret in SECRETS)
    assert declared.shown(payload, {"status": 204, "elapsed_ms": 120}) == {
        "request": "POST https://hook.example.com/a?***",
        "status": "204",
        "took": "120ms",
    }
    assert rows(blocks) == [["Authorization", "***"], ["X-Api-Key", "***"], ["X-Trace", "abc"]]
    assert isinstance(blocks[-1], Json)
    assert isinstance(declared.blocks(payload | {"body": "[" * 100_000}, None)[-1], Code)


def test_attempts_are_shown_with_status_latency_and_response(running: Installation) -> None:
    receiver = Receiver(500, 204)
    payload = {"url": receiver.url, "headers": {"Authorization": "Bearer s3cret-token"}, "retry": {"first": "1s"}}
    task_id = running.post("/v2/tasks", {"type": "webhook", "payload": payload}).json["id"]
    running.wait_shown(task_id, "succeeded")
    poll(lambda: len(running.get(f"/v2/tasks/{task_id}")["attempts_made"]) == 2)
    found = task_page.panel(context(running.runtime), running.get(f"/v2/tasks/{task_id}"))
    receiver.close()
    [last, first] = [list(row) for row in found[0].rows]  # type: ignore[union-attr]
    assert (last[0], last[3], first[0], first[3]) == (2, "204", 1, "500")
    assert last[4].seconds > 0
    assert "HTTP 500" in first[6]
    assert "s3cret-token" not in str(found)
    [link] = [block.values["host"] for block in found if isinstance(block, Fields)]
    assert isinstance(link, Link) and (link.to, link.parameters) == ("/x/webhook/hosts", {"q": "127.0.0.1"})


def test_panel_of_many_or_odd_attempts_shows_the_latest() -> None:
    attempt = {"attempt": 1, "outcome": "retry", "error": None, "started_at": None, "detail": None}
    found = task_page.panel(context(None), {"attempts_made": [attempt | {"attempt": n} for n in range(9000)]})
    assert isinstance(found[0], Table)
    assert (found[0].caption, len(found[0].rows), found[0].rows[0][0]) == (
        "The latest 50 of 9,000 attempts",
        50,
        8999,
    )
    assert task_page.panel(context(None), {"attempts_made": []})[0].empty == "None has ended yet."  # type: ignore[union-attr]


def test_hosts_that_need_a_person_come_first(runtime: Any) -> None:
    since = dt.datetime(2026, 7, 1)
    rows_of = {"host": "host:dead.example:443", "since": since}
    transact(runtime.database, lambda: FailingHost.insert(rows_of).execute())
    assert hosts_page.pause(context(runtime), {"host": "Slow.example:443", "reason": "overload"}) == (
        "slow.example:443 is paused."
    )
    runtime.limiters.pause("provider:p", "ada", "no host")
    paused, failing = rows(hosts_page.hosts_page(context(runtime)))
    assert (paused[0], paused[1].name, paused[5]) == ("slow.example:443", "paused", "overload (by ada)")
    assert (failing[0], failing[1], failing[4]) == ("dead.example:443", "not in use", since)
    assert [row[0] for row in rows(hosts_page.hosts_page(context(runtime, q="dead")))] == ["dead.example:443"]
    assert isinstance(paused[2], Action) and paused[2].label == "Resume"
    values = {"host": "slow.example:443", "reason": "mended"}
    assert hosts_page.resume(context(runtime), values) == "slow.example:443 is resumed; 0 tasks were waiting."
    assert hosts_page.resume(context(runtime), values) == "slow.example:443 was not paused."


@pytest.mark.parametrize(
    "host", ["", "a", "a:", "a:0", "a:99999", "a/b:443", "a:443/x", "u@a:443", "a:443?x", "a b:443"]
)
def test_what_is_no_host_is_not_paused(host: str, runtime: Any) -> None:
    with pytest.raises(InvalidInput, match="host: not a host and port"):
        hosts_page.pause(context(runtime), {"host": host, "reason": "x"})


def test_ipv6_host_is_named_as_its_limiter(runtime: Any) -> None:
    hosts_page.pause(context(runtime), {"host": "2606:4700::1111:443", "reason": "x"})
    assert runtime.inspection.limiter("host:2606:4700::1111:443").state == "paused"


def test_test_delivery_is_a_task_that_passes_the_guard_once(runtime: Any) -> None:
    link = hosts_page.test(context(runtime, "shop"), {"url": "http://127.0.0.1:9/hook"})
    row = runtime.ledger.get(link.to.removeprefix("/tasks/"))
    payload = json.loads(row.payload)
    assert (row.type, row.owner, row.max_attempts, row.priority) == ("webhook", "shop", 1, "high")
    assert json.loads(payload["body"])["type"] == "test"
    for refused in ("http://10.0.0.1/", "file:///etc/passwd", "", "https://user:pw@example.com/"):
        with pytest.raises(InvalidInput, match="url"):
            hosts_page.test(context(runtime), {"url": refused})


def test_hosts_are_shown_without_redis_or_database(tmp_path: Path, redis_url: str) -> None:
    with runtime_of(f"sqlite:///{tmp_path / 'a.db'}", "redis://127.0.0.1:1/0") as made:
        found = hosts_page.hosts_page(context(made))
        assert isinstance(found[0], Text) and found[0].text.startswith("Redis does not answer")

"""`sytq audit` lists every change by a command, with the account that ran it."""

from __future__ import annotations

import json
import os
import pwd

import pytest

from tests.cli.shell import found, payload, run
from tests.installation import Installation

ACCOUNT = pwd.getpwuid(os.getuid()).pw_name


@pytest.fixture
def scheduled(installation: Installation) -> Installation:
    nightly = {"type": "plain", "cron": "0 3 29 2 *", "payload": json.loads(payload(installation, "tick"))}
    installation.environ["SYTQ_SCHEDULES__NIGHTLY"] = json.dumps(nightly)
    return installation


def entries(installation: Installation) -> list[tuple[str, str, str | None]]:
    """Action, subject and detail of every audit entry, the earliest first."""
    noted = found(installation, "audit")["entries"][::-1]
    assert all(entry["at"].endswith("Z") and entry["who"] == ACCOUNT for entry in noted)
    return [(entry["what"], entry["about"], entry["detail"]) for entry in noted]


def test_every_change_by_a_command_is_in_the_audit(scheduled: Installation) -> None:
    installation = scheduled
    task = run(installation, "send", "plain", payload(installation, "a"), "--at", "1h").stdout.strip()
    moved = found(installation, "tasks", "reschedule", task, "2h")["at"]
    run(installation, "cancel", task, "--why", "not needed")
    run(installation, "types", "pause", "plain", "--why", "it moves")
    run(installation, "types", "resume", "plain")
    run(installation, "limiters", "pause", "queue:default", "--why", "all of it")
    run(installation, "limiters", "resume", "queue:default")
    run(installation, "gates", "pause", "provider:p", "--why", "no credit")
    run(installation, "gates", "resume", "provider:p")
    run(installation, "schedules", "pause", "nightly", "--why", "a backup runs")
    run(installation, "schedules", "resume", "nightly")
    ticked = run(installation, "schedules", "trigger", "nightly").stdout.strip()
    replayed = found(installation, "dead", "replay", "type:plain", "--detach")["operation"]
    deleted = found(installation, "dead", "delete", "--all", "--detach")["operation"]
    cancelled = found(installation, "bulk", "cancel", "type:plain", "--detach")["operation"]
    key = found(installation, "key", "create", "shop")["id"]
    found(installation, "key", "rotate", key)
    run(installation, "key", "revoke", key)
    installation.start_worker()
    installation.wait_state(task, "cancelled")
    run(installation, "retry", task)
    done = entries(installation)
    assert [(what, about) for what, about, _ in done] == [
        ("task.send", task),
        ("task.reschedule", task),
        ("task.cancel", task),
        ("type.pause", "plain"),
        ("type.resume", "plain"),
        ("queue.pause", "default"),
        ("queue.resume", "default"),
        ("gate.pause", "provider:p"),
        ("gate.resume", "provider:p"),
        ("schedule.pause", "nightly"),
        ("schedule.resume", "nightly"),
        ("schedule.trigger", "nightly"),
        ("bulk.retry", replayed),
        ("bulk.delete", deleted),
        ("bulk.cancel", cancelled),
        ("key.create", key),
        ("key.rotate", key),
        ("key.revoke", key),
        ("task.retry", task),
    ]
    details = {what: detail for what, _, detail in done}
    assert (details["task.reschedule"], details["task.cancel"]) == (moved, "not needed")
    assert (details["type.pause"], details["gate.pause"], details["schedule.pause"]) == (
        "it moves", "no credit", "a backup runs",
    )  # fmt: skip
    assert (details["schedule.trigger"], details["bulk.delete"]) == (ticked, "state:dead")
    assert details["bulk.cancel"] == "type:plain" and details["type.resume"] is None


def test_commands_without_effect_are_not_in_the_audit(scheduled: Installation) -> None:
    installation = scheduled
    task = installation.submit("plain", "a")
    installation.start_worker()
    installation.wait_state(task, "succeeded")
    run(installation, "cancel", task, status=1)
    run(installation, "retry", task, status=1)
    run(installation, "tasks", "reschedule", task, "1h", status=1)
    run(installation, "types", "resume", "plain")
    run(installation, "schedules", "resume", "nightly")
    run(installation, "bulk", "delete", "type:plain", "--dry-run")
    run(installation, "bulk", "delete", "type:nosuch", status=1)
    run(installation, "ls")
    assert entries(installation) == []


def test_audit_ignores_user_variables_except_sudo_user(installation: Installation) -> None:
    installation.environ |= {"USER": "somebody", "LOGNAME": "somebody", "USERNAME": "somebody"}
    run(installation, "types", "pause", "plain", "--why", "x")
    assert [what for what, _, _ in entries(installation)] == ["type.pause"]
    installation.environ["SUDO_USER"] = "alice"
    run(installation, "types", "resume", "plain")
    assert found(installation, "audit")["entries"][0]["who"] == f"{ACCOUNT} (sudo by alice)"

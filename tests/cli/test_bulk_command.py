"""`sytq bulk`: a worker changes all matching tasks."""

from __future__ import annotations

import pytest

from tests.cli.shell import found, payload, run
from tests.installation import Installation
from tests.servers import poll


def test_matching_tasks_are_cancelled_rescheduled_retried_and_deleted(installation: Installation) -> None:
    for n in range(3):
        run(installation, "send", "plain", payload(installation, f"t{n}"), "--at", "1h")
    (moved, *_) = [entry["id"] for entry in found(installation, "ls", "type:plain")["tasks"]]
    assert run(installation, "bulk", "cancel", "type:plain", "--dry-run").stdout == "3 would be cancelled\n"
    counted = found(installation, "bulk", "cancel", "type:plain payload.name:t0,t1", "--dry-run")
    assert counted == {"operation": None, "matched": 2, "cancelled": 0, "dry_run": True}
    assert found(installation, "ls", "type:bulk")["tasks"] == []
    installation.start_worker()
    run(installation, "bulk", "reschedule", f"id:{moved}", "--to", "3h")
    assert found(installation, "queues", "delayed")["tasks"][-1]["id"] == moved
    done = found(installation, "bulk", "cancel", "type:plain", "--why", "never wanted")
    assert (done["matched"], done["cancelled"], done["dry_run"]) == (3, 3, False)
    poll(lambda: len(found(installation, "ls", "state:cancelled")["tasks"]) == 3)
    assert installation.row(moved).error.endswith(": never wanted")
    assert run(installation, "bulk", "retry", f"state:cancelled id:{moved}").stdout == "1 retried\n"
    installation.wait_state(moved, "succeeded")
    assert run(installation, "bulk", "delete", "type:plain state:cancelled").stdout == "2 deleted\n"
    assert [entry["id"] for entry in found(installation, "ls", "type:plain")["tasks"]] == [moved]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("cancel",), 2, "Missing argument 'QUERY'"),
        (("cancel", ""), 1, "a query is needed, as this changes all tasks that match"),
        (("cancel", "  "), 1, "a query is needed"),
        (("burn", "state:*"), 2, "'burn' is not an action; valid: cancel, retry, reschedule, delete"),
        (("cancel", "colour:red"), 1, "at character 1: 'colour' is not a field"),
        (("cancel", "type:nosuch"), 1, "'nosuch' is not a task type"),
        (("delete", "id:nosuch"), 1, "there is no matching task 'nosuch'; nothing was changed"),
        (("retry", "state:queued"), 1, "it lets no task through that retry could change"),
        (("reschedule", "type:plain"), 2, "--to is required for reschedule"),
        (("cancel", "type:plain", "--to", "1h"), 2, "--to is required for reschedule and not valid otherwise"),
    ],
)
def test_invalid_bulk_commands_are_refused_and_submit_nothing(
    installation: Installation, arguments: tuple[str, ...], status: int, words: str
) -> None:
    done = run(installation, "bulk", *arguments, status=status)
    assert done.stdout == "" and words in done.stderr
    assert found(installation, "ls", "type:bulk")["tasks"] == []


def test_detached_operation_can_be_awaited_and_cancelled(installation: Installation) -> None:
    for n in range(3):
        run(installation, "send", "plain", payload(installation, f"t{n}"), "--at", "1h")
    left = run(installation, "bulk", "cancel", "type:plain", "--detach")
    operation = left.stdout.strip()
    assert f"sytq wait {operation}" in left.stderr and f"sytq cancel {operation}" in left.stderr
    run(installation, "cancel", operation)
    installation.start_worker()
    run(installation, "wait", operation, status=4)
    assert found(installation, "ls", "type:plain state:cancelled")["tasks"] == []
    other = found(installation, "bulk", "cancel", "type:plain", "--detach")["operation"]
    (watched,) = found(installation, "wait", other)["tasks"]
    assert watched["result"] == {"action": "cancel", "matched": 3, "changed": 3, "unchanged": 0}

"""Tasks that wait for others, with real workers: fan-out and fan-in, chains, failures, replays."""

from __future__ import annotations

import datetime as dt
import json
import time
from pathlib import Path
from typing import Any

import pytest

from sytq.ledger.models import Task
from tests.servers import poll
from tests.workers import Installation


def fan(installation: Installation, *parts: str | dict[str, Any], name: str = "all", **fields: Any) -> dict[str, Any]:
    """The payload of a `fan`; a part is its name, or all of it."""
    journal = str(installation.journal)
    each = [{"journal": journal} | ({"name": part} if isinstance(part, str) else part) for part in parts]
    return {"journal": journal, "name": name, "parts": each, **fields}


def submit(installation: Installation, payload: dict[str, Any], **options: Any) -> str:
    task = installation.runtime.submitter.prepare("fan", payload, **options)
    installation.runtime.submitter.submit([task])
    return task.id


def collector(installation: Installation, fan_id: str) -> str:
    """The task that is told of the fan's end."""
    result = installation.wait_state(fan_id, "succeeded").result
    return str(json.loads(result or "null"))


def heard(installation: Installation, collect_id: str) -> list[list[Any]]:
    row = installation.wait_state(collect_id, "succeeded")
    return json.loads(row.result or "null")["heard"]  # type: ignore[no-any-return]


def children(installation: Installation, parent: str, type_name: str) -> list[Task]:
    with installation.runtime.database.connection_context():
        return list(Task.select().where(Task.parent == parent, Task.type == type_name).order_by(Task.created_at))


def test_a_dependent_runs_when_all_children_have_ended(installation: Installation) -> None:
    installation.start_worker()
    installation.hold("b")
    root = submit(installation, fan(installation, "a", "b", "c"))
    told = collector(installation, root)
    waits = installation.row(told)
    assert (waits.state, waits.held, waits.parent) == ("scheduled", "cancel", root)
    installation.release("b")
    assert heard(installation, told) == [["part", "succeeded", {"part": name}, None] for name in "abc"]
    assert installation.notes()["collect all"] == 1
    assert installation.row(told).attempts == 1


def test_children_that_ended_before_the_dependency_cause_no_delay(installation: Installation) -> None:
    installation.start_worker()
    root = submit(installation, fan(installation))
    assert heard(installation, collector(installation, root)) == []  # of none at all too
    parts = [installation.submit("plain", f"p{n}") for n in range(3)]
    for part in parts:
        installation.wait_state(part, "succeeded")
    payload = {"journal": str(installation.journal), "name": "late"}
    late = installation.runtime.submitter.prepare("collect", payload, after=parts)
    installation.runtime.submitter.submit([late])
    assert len(heard(installation, late.id)) == 3


def test_a_failure_cancels_dependents_unless_on_failure_is_run(installation: Installation, tmp_path: Path) -> None:
    installation.start_worker()
    (tmp_path / "broken").touch()
    bad = {"name": "bad", "failing_while": str(tmp_path / "broken")}
    careful = submit(installation, fan(installation, "a", bad))
    row = installation.wait_state(collector(installation, careful), "cancelled")
    (dead,) = [child for child in children(installation, careful, "part") if child.state == "dead"]
    assert row.error == f"not run: part {dead.id} is dead"
    hearing = submit(installation, fan(installation, "b", bad, name="hearing", on_failure="run"))
    said = heard(installation, collector(installation, hearing))
    assert said == [["part", "succeeded", {"part": "b"}, None], ["part", "dead", None, "bad fails"]]
    assert installation.notes()["collect all"] == 0


def test_a_skipped_task_has_its_callback_and_on_dead(installation: Installation) -> None:
    installation.start_worker()
    hopeless = installation.prepare("hopeless", "first")
    skipped = installation.prepare("lonely", "skipped", after=[hopeless.id])
    installation.runtime.submitter.submit([hopeless, skipped])
    installation.wait_state(skipped.id, "cancelled")
    installation.wait_note("dead-0 skipped")
    again = installation.submit("lonely", "skipped")  # its unique key is free
    installation.wait_state(again, "succeeded")


def test_rescheduling_a_held_task_does_not_release_it(installation: Installation) -> None:
    installation.start_worker()
    installation.hold("slow")
    slow = installation.submit("plain", "slow")
    last = installation.prepare("plain", "last", after=[slow])
    installation.runtime.submitter.submit([last])
    assert installation.runtime.operator.reschedule(last.id, dt.datetime.now(dt.UTC))
    installation.wait_note("start slow")
    time.sleep(1)  # in which the other one would have begun
    installation.release("slow")
    installation.wait_state(last.id, "succeeded")
    assert [line.split()[0] for line in installation.journal.read_text().splitlines()] == ["start", "end"] * 2


def test_a_replay_of_the_failed_task_runs_skipped_dependents(installation: Installation, tmp_path: Path) -> None:
    installation.start_worker()
    broken = tmp_path / "broken"
    broken.touch()
    root = submit(installation, fan(installation, "a", {"name": "bad", "failing_while": str(broken)}))
    told = collector(installation, root)
    third = installation.prepare("plain", "third", after=[told])
    installation.runtime.submitter.submit([third])
    installation.wait_state(third.id, "cancelled")
    broken.unlink()
    (dead,) = [child for child in children(installation, root, "part") if child.state == "dead"]
    # Also when all that gave up is replayed at once, whatever the order: a workflow runs in its order.
    assert installation.runtime.operator.replay([third.id, told, dead.id]) == 1
    assert [state for _, state, *_ in heard(installation, told)] == ["succeeded", "succeeded"]
    installation.wait_state(third.id, "succeeded")
    notes = installation.notes()
    assert (notes["part a"], notes["part bad"], notes["collect all"], notes["start third"]) == (1, 2, 1, 1)


def test_a_child_replayed_afterwards_releases_nothing_again(installation: Installation, tmp_path: Path) -> None:
    installation.start_worker()
    broken = tmp_path / "broken"
    broken.touch()
    bad = {"name": "bad", "failing_while": str(broken)}
    root = submit(installation, fan(installation, "a", bad, on_failure="run"))
    told = collector(installation, root)
    assert [state for _, state, *_ in heard(installation, told)] == ["succeeded", "dead"]
    broken.unlink()
    (dead,) = [child for child in children(installation, root, "part") if child.state == "dead"]
    installation.runtime.operator.replay([dead.id])
    installation.wait_state(dead.id, "succeeded")
    after = installation.submit("plain", "after")  # recorded behind it
    installation.wait_state(after, "succeeded")
    assert installation.notes()["collect all"] == 1


def test_a_child_that_is_replayed_while_others_run_is_waited_for_again(
    installation: Installation, tmp_path: Path
) -> None:
    installation.start_worker()
    broken = tmp_path / "broken"
    broken.touch()
    installation.hold("slow")
    bad = {"name": "bad", "failing_while": str(broken)}
    root = submit(installation, fan(installation, bad, "slow", on_failure="run"))
    told = collector(installation, root)
    (dead,) = [child for child in children(installation, root, "part") if '"bad"' in child.payload]
    installation.wait_state(dead.id, "dead")
    broken.unlink()
    installation.runtime.operator.replay([dead.id])
    installation.release("slow")
    assert [state for _, state, *_ in heard(installation, told)] == ["succeeded", "succeeded"]


def test_a_workflow_within_another_is_waited_for_to_its_end(installation: Installation) -> None:
    installation.start_worker()
    inner = fan(installation, {"name": "deep", "seconds": 2}, name="inner")
    root = submit(installation, fan(installation, "a", name="outer", inner=[inner]))
    told = collector(installation, root)
    # The inner fan ended long ago; what it said that it joins is heard of behind it.
    kinds = [(kind, state) for kind, state, *_ in heard(installation, told)]
    assert kinds == [("part", "succeeded"), ("fan", "succeeded"), ("collect", "succeeded")]
    lines = [line.split()[:2] for line in installation.journal.read_text().splitlines()]
    assert lines.index(["collect", "inner"]) < lines.index(["collect", "outer"])


def test_tasks_of_a_workflow_have_the_owner_of_the_first(installation: Installation) -> None:
    installation.start_worker()
    root = submit(installation, fan(installation, "a"), owner="shop", request_id="r-1", traceparent="00-1-2-01")
    told = collector(installation, root)
    heard(installation, told)
    everyone = [*children(installation, root, "part"), installation.row(told)]
    assert {(row.owner, row.request_id, row.traceparent) for row in everyone} == {("shop", "r-1", "00-1-2-01")}


def test_a_cancelled_parent_leaves_children_and_held_tasks_cancel(
    installation: Installation,
) -> None:
    installation.start_worker()
    installation.hold("slow")
    root = submit(installation, fan(installation, "slow"))
    told = collector(installation, root)
    operator = installation.runtime.operator
    assert operator.cancel(root, "ann") == "ended"
    assert operator.cancel(told, "ann") == "cancelled"
    installation.release("slow")
    (child,) = children(installation, root, "part")
    installation.wait_state(child.id, "succeeded")
    assert installation.row(told).error == "cancelled by ann"
    assert operator.replay([told]) == 1  # who replays it wants it to run
    assert len(heard(installation, told)) == 1


def test_a_cancelled_child_has_ended_for_its_dependents(installation: Installation) -> None:
    installation.start_worker(threads=1)
    installation.hold("blocker")
    blocker = installation.submit("plain", "blocker")
    installation.wait_state(blocker, "running")
    parts = [installation.submit("plain", f"p{n}") for n in range(2)]
    payload = {"journal": str(installation.journal), "name": "told"}
    told = installation.runtime.submitter.prepare("collect", payload, after=parts, on_failure="run")
    careful = installation.prepare("plain", "careful", after=parts)
    installation.runtime.submitter.submit([told, careful])
    assert installation.runtime.operator.cancel(parts[0], "ann") == "cancelled"
    installation.release("blocker")
    assert installation.wait_state(careful.id, "cancelled").error == f"not run: plain {parts[0]} is cancelled"
    assert [state for _, state, *_ in heard(installation, told.id)] == ["cancelled", "succeeded"]


def test_tasks_that_a_workflow_needs_cannot_be_deleted(installation: Installation) -> None:
    installation.start_worker()
    installation.hold("slow")
    root = submit(installation, fan(installation, "quick", "slow"))
    told = collector(installation, root)
    (quick, _) = children(installation, root, "part")
    installation.wait_state(quick.id, "succeeded")
    assert installation.runtime.operator.delete([quick.id]) == 0
    payload = {"older_than": "0s"}
    cleanup = installation.runtime.submitter.prepare("cleanup", payload)
    installation.runtime.submitter.submit([cleanup])
    installation.wait_state(cleanup.id, "succeeded")
    assert installation.runtime.ledger.get(quick.id) is not None
    installation.release("slow")
    assert len(heard(installation, told)) == 2
    assert installation.runtime.operator.delete([quick.id, told]) == 2


@pytest.mark.parametrize("number", [1000])
def test_a_thousand_children_release_one_dependent(installation: Installation, number: int) -> None:
    installation.start_worker(threads=8)
    root = submit(installation, fan(installation, *(f"p{n}" for n in range(number))))
    told = collector(installation, root)
    poll(lambda: installation.row(told).state == "succeeded", timeout=90, message="all are heard of")
    found = heard(installation, told)
    assert [result["part"] for _, _, result, _ in found] == [f"p{n}" for n in range(number)]
    assert installation.notes()["collect all"] == 1

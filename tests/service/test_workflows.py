"""Dependencies with real workers: fan-out and fan-in, chains, failures, replays."""

from __future__ import annotations

import datetime as dt
import json
import time
from pathlib import Path
from typing import Any

import pytest

from sytq.ledger.models import Task
from tests.installation import Installation
from tests.servers import poll


def fan(installation: Installation, *parts: str | dict[str, Any], name: str = "all", **fields: Any) -> dict[str, Any]:
    """The payload of a `fan`; a part is a name or a whole payload."""
    journal = str(installation.journal)
    each = [{"journal": journal} | ({"name": part} if isinstance(part, str) else part) for part in parts]
    return {"journal": journal, "name": name, "parts": each, **fields}


def submit(installation: Installation, payload: dict[str, Any], **options: Any) -> str:
    task = installation.runtime.submitter.prepare("fan", payload, **options)
    installation.runtime.submitter.submit([task])
    return task.id


def collector(installation: Installation, fan_id: str) -> str:
    """The id of the task that depends on the fan's children."""
    result = installation.wait_state(fan_id, "succeeded").result
    return str(json.loads(result or "null"))


def read_outcomes(installation: Installation, collect_id: str) -> list[list[Any]]:
    row = installation.wait_state(collect_id, "succeeded")
    return json.loads(row.result or "null")["heard"]  # type: ignore[no-any-return]


def children(installation: Installation, parent: str, type_name: str) -> list[Task]:
    with installation.runtime.database.connection_context():
        return list(Task.select().where(Task.parent == parent, Task.type == type_name))


def test_a_dependent_runs_when_all_children_have_ended(installation: Installation) -> None:
    installation.start_worker()
    installation.hold("b")
    root = submit(installation, fan(installation, "a", "b", "c"))
    dependent = collector(installation, root)
    waits = installation.row(dependent)
    assert (waits.state, waits.held, waits.parent) == ("scheduled", "cancel", root)
    installation.release("b")
    assert read_outcomes(installation, dependent) == [["part", "succeeded", {"part": name}, None] for name in "abc"]
    assert installation.notes()["collect all"] == 1
    assert installation.row(dependent).attempts == 1


def test_children_that_ended_before_the_dependency_cause_no_delay(installation: Installation) -> None:
    installation.start_worker()
    root = submit(installation, fan(installation))
    assert read_outcomes(installation, collector(installation, root)) == []  # also without children
    parts = [installation.submit("plain", f"p{n}") for n in range(3)]
    for part in parts:
        installation.wait_state(part, "succeeded")
    payload = {"journal": str(installation.journal), "name": "late"}
    late = installation.runtime.submitter.prepare("collect", payload, after=parts)
    installation.runtime.submitter.submit([late])
    assert len(read_outcomes(installation, late.id)) == 3


def test_a_failure_cancels_dependents_unless_on_failure_is_run(installation: Installation, tmp_path: Path) -> None:
    installation.start_worker()
    (tmp_path / "broken").touch()
    bad = {"name": "bad", "failing_while": str(tmp_path / "broken")}
    careful = submit(installation, fan(installation, "a", bad))
    row = installation.wait_state(collector(installation, careful), "cancelled")
    (dead,) = [child for child in children(installation, careful, "part") if child.state == "dead"]
    assert row.error == f"not run: part {dead.id} is dead"
    tolerant = submit(installation, fan(installation, "b", bad, name="hearing", on_failure="run"))
    found = read_outcomes(installation, collector(installation, tolerant))
    assert found == [["part", "succeeded", {"part": "b"}, None], ["part", "dead", None, "bad fails"]]
    assert installation.notes()["collect all"] == 0


def test_a_skipped_task_runs_its_callback_and_on_dead(installation: Installation) -> None:
    installation.start_worker()
    hopeless = installation.prepare("hopeless", "first")
    skipped = installation.prepare("lonely", "skipped", after=[hopeless.id])
    installation.runtime.submitter.submit([hopeless, skipped])
    installation.wait_state(skipped.id, "cancelled")
    installation.wait_note("dead-0 skipped")
    again = installation.submit("lonely", "skipped")  # its unique key is free
    installation.wait_state(again, "succeeded")


def test_a_rescheduled_dependent_still_waits(installation: Installation) -> None:
    installation.start_worker()
    installation.hold("slow")
    slow = installation.submit("plain", "slow")
    last = installation.prepare("plain", "last", after=[slow])
    installation.runtime.submitter.submit([last])
    assert installation.runtime.operator.reschedule(last.id, dt.datetime.now(dt.UTC))
    installation.wait_note("start slow")
    time.sleep(1)  # in which the dependent would have started
    installation.release("slow")
    installation.wait_state(last.id, "succeeded")
    assert [line.split()[0] for line in installation.journal.read_text().splitlines()] == ["start", "end"] * 2


def test_a_replay_of_the_failed_task_runs_skipped_dependents(installation: Installation, tmp_path: Path) -> None:
    installation.start_worker()
    broken = tmp_path / "broken"
    broken.touch()
    root = submit(installation, fan(installation, "a", {"name": "bad", "failing_while": str(broken)}))
    dependent = collector(installation, root)
    third = installation.prepare("plain", "third", after=[dependent])
    installation.runtime.submitter.submit([third])
    installation.wait_state(third.id, "cancelled")
    broken.unlink()
    (dead,) = [child for child in children(installation, root, "part") if child.state == "dead"]
    # A workflow runs in its order whatever the order of a replay of all its failed tasks.
    assert installation.runtime.operator.replay([third.id, dependent, dead.id]) == 1
    assert [state for _, state, *_ in read_outcomes(installation, dependent)] == ["succeeded", "succeeded"]
    installation.wait_state(third.id, "succeeded")
    notes = installation.notes()
    assert (notes["part a"], notes["part bad"], notes["collect all"], notes["start third"]) == (1, 2, 1, 1)


def test_a_child_replayed_later_does_not_run_dependents_again(installation: Installation, tmp_path: Path) -> None:
    installation.start_worker()
    broken = tmp_path / "broken"
    broken.touch()
    bad = {"name": "bad", "failing_while": str(broken)}
    root = submit(installation, fan(installation, "a", bad, on_failure="run"))
    dependent = collector(installation, root)
    assert [state for _, state, *_ in read_outcomes(installation, dependent)] == ["succeeded", "dead"]
    broken.unlink()
    (dead,) = [child for child in children(installation, root, "part") if child.state == "dead"]
    installation.runtime.operator.replay([dead.id])
    installation.wait_state(dead.id, "succeeded")
    after = installation.submit("plain", "after")  # recorded after it
    installation.wait_state(after, "succeeded")
    assert installation.notes()["collect all"] == 1


def test_a_dependent_waits_for_a_child_replayed_before_it_runs(installation: Installation, tmp_path: Path) -> None:
    installation.start_worker()
    broken = tmp_path / "broken"
    broken.touch()
    installation.hold("slow")
    bad = {"name": "bad", "failing_while": str(broken)}
    root = submit(installation, fan(installation, bad, "slow", on_failure="run"))
    dependent = collector(installation, root)
    (dead,) = [child for child in children(installation, root, "part") if '"bad"' in child.payload]
    installation.wait_state(dead.id, "dead")
    broken.unlink()
    installation.runtime.operator.replay([dead.id])
    installation.release("slow")
    assert [state for _, state, *_ in read_outcomes(installation, dependent)] == ["succeeded", "succeeded"]


def test_a_dependent_waits_for_nested_workflows(installation: Installation) -> None:
    installation.start_worker()
    inner = fan(installation, {"name": "deep", "seconds": 2}, name="inner")
    root = submit(installation, fan(installation, "a", name="outer", inner=[inner]))
    dependent = collector(installation, root)
    # The inner fan ended long ago; the outcome of its extension follows its own.
    types = [(type_name, state) for type_name, state, *_ in read_outcomes(installation, dependent)]
    assert types == [("part", "succeeded"), ("fan", "succeeded"), ("collect", "succeeded")]
    lines = [line.split()[:2] for line in installation.journal.read_text().splitlines()]
    assert lines.index(["collect", "inner"]) < lines.index(["collect", "outer"])


def test_tasks_of_a_workflow_have_the_owner_of_the_root(installation: Installation) -> None:
    installation.start_worker()
    root = submit(installation, fan(installation, "a"), owner="shop", request_id="r-1", traceparent="00-1-2-01")
    dependent = collector(installation, root)
    read_outcomes(installation, dependent)
    everyone = [*children(installation, root, "part"), installation.row(dependent)]
    assert {(row.owner, row.request_id, row.traceparent) for row in everyone} == {("shop", "r-1", "00-1-2-01")}


def test_children_outlive_a_cancelled_parent_and_dependents_cancel(
    installation: Installation,
) -> None:
    installation.start_worker()
    installation.hold("slow")
    root = submit(installation, fan(installation, "slow"))
    dependent = collector(installation, root)
    operator = installation.runtime.operator
    assert operator.cancel(root, "ann") == "ended"
    assert operator.cancel(dependent, "ann") == "cancelled"
    installation.release("slow")
    (child,) = children(installation, root, "part")
    installation.wait_state(child.id, "succeeded")
    assert installation.row(dependent).error == "cancelled by ann"
    assert operator.replay([dependent]) == 1  # a replay overrides the cancellation
    assert len(read_outcomes(installation, dependent)) == 1


def test_a_cancelled_child_counts_as_ended_for_dependents(installation: Installation) -> None:
    installation.start_worker(threads=1)
    installation.hold("blocker")
    blocker = installation.submit("plain", "blocker")
    installation.wait_state(blocker, "running")
    parts = [installation.submit("plain", f"p{n}") for n in range(2)]
    payload = {"journal": str(installation.journal), "name": "told"}
    dependent = installation.runtime.submitter.prepare("collect", payload, after=parts, on_failure="run")
    careful = installation.prepare("plain", "careful", after=parts)
    installation.runtime.submitter.submit([dependent, careful])
    assert installation.runtime.operator.cancel(parts[0], "ann") == "cancelled"
    installation.release("blocker")
    assert installation.wait_state(careful.id, "cancelled").error == f"not run: plain {parts[0]} is cancelled"
    assert [state for _, state, *_ in read_outcomes(installation, dependent.id)] == ["cancelled", "succeeded"]


def test_tasks_needed_by_an_unfinished_workflow_are_not_deleted(installation: Installation) -> None:
    installation.start_worker()
    installation.hold("slow")
    root = submit(installation, fan(installation, "quick", "slow"))
    dependent = collector(installation, root)
    (quick,) = [child for child in children(installation, root, "part") if '"quick"' in child.payload]
    installation.wait_state(quick.id, "succeeded")
    assert installation.runtime.operator.delete([quick.id]) == 0
    payload = {"older_than": "0s"}
    cleanup = installation.runtime.submitter.prepare("cleanup", payload)
    installation.runtime.submitter.submit([cleanup])
    installation.wait_state(cleanup.id, "succeeded")
    assert installation.runtime.ledger.get(quick.id) is not None
    installation.release("slow")
    assert len(read_outcomes(installation, dependent)) == 2
    assert installation.runtime.operator.delete([quick.id, dependent]) == 2


@pytest.mark.parametrize("number", [1000])
def test_a_thousand_children_release_one_dependent(installation: Installation, number: int) -> None:
    installation.start_worker(threads=8)
    root = submit(installation, fan(installation, *(f"p{n}" for n in range(number))))
    dependent = collector(installation, root)
    poll(lambda: installation.row(dependent).state == "succeeded", timeout=90, message="all are heard of")
    found = read_outcomes(installation, dependent)
    assert [result["part"] for _, _, result, _ in found] == [f"p{n}" for n in range(number)]
    assert installation.notes()["collect all"] == 1

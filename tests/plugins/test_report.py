"""Reports: their numbers match the rows on both engines, and the HTML page is self-contained."""

from __future__ import annotations

import csv
import datetime as dt
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from sytq_plugins.llm.spend import SpendRow

from sytq.config import load
from sytq.errors import InvalidInput
from sytq.ids import new_id
from sytq.ledger import statistics
from sytq.ledger.models import Task
from sytq.runtime import Runtime
from sytq.tasktypes.registry import Registry
from tests.installation import Installation
from tests.plugins.running import Run, runtime_of
from tests.servers import poll

UNTIL = dt.datetime(2026, 7, 3, 12, 0, tzinfo=dt.UTC)


@pytest.fixture
def runtime(database_url: str, tmp_path: Path) -> Iterator[Runtime]:
    own = json.dumps({"folder": str(tmp_path / "reports")})
    with runtime_of(database_url, "redis://127.0.0.1:1/0", TYPES__REPORT=own) as made:
        yield made


def add(
    runtime: Runtime,
    type_name: str,
    state: str,
    ended: dt.datetime,
    run: float | None = 1.0,
    waited: float = 2.0,
    attempts: int = 1,
    **columns: Any,
) -> None:
    ended = ended.replace(tzinfo=None)
    begun = ended - dt.timedelta(seconds=run or 0)
    with runtime.database.connection_context():
        Task.create(
            id=new_id(),
            type=type_name,
            state=state,
            payload='{"secret": "hush"}',
            attempts=attempts,
            created_at=begun - dt.timedelta(seconds=waited),
            started_at=None if run is None else begun,
            finished_at=ended,
            **columns,
        )


def report(runtime: Runtime, **payload: Any) -> dict[str, str]:
    """The files of one report by their format."""
    result = Run(runtime, "report", {"until": UNTIL.isoformat()} | payload).start()
    return {
        "".join(re.findall(r"-(\w+\.csv)$|\.(json|html)$", file)[0]): Path(file).read_text() for file in result["files"]
    }


def test_tasks_are_counted_by_type_and_day_with_their_times(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_PAGE", 7)  # so that a few rows need several pages
    for number in range(1, 41):  # runs of 1 to 40 s; several end in the same moment
        add(runtime, "email", "succeeded", UNTIL - dt.timedelta(hours=1 + number % 3), run=float(number), attempts=2)
    add(runtime, "llm", "dead", UNTIL - dt.timedelta(hours=13), run=10, attempts=4)
    add(runtime, "llm", "cancelled", UNTIL - dt.timedelta(seconds=1), run=None, waited=60, attempts=0)
    late = (UNTIL - dt.timedelta(hours=2, seconds=5)).replace(tzinfo=None)
    add(runtime, "llm", "succeeded", UNTIL - dt.timedelta(hours=2), run=1, waited=9000, scheduled_at=late)
    # None of these ended within the 24 hours.
    add(runtime, "email", "succeeded", UNTIL)
    add(runtime, "email", "succeeded", UNTIL - dt.timedelta(hours=24, microseconds=1))
    add(runtime, "email", "running", UNTIL - dt.timedelta(hours=1))
    found = json.loads(report(runtime)["json"])
    assert (found["since"], found["until"]) == ("2026-07-02T12:00:00Z", "2026-07-03T12:00:00Z")
    assert found["by_type"]["email"] == {
        "tasks": 40, "succeeded": 40, "dead": 0, "cancelled": 0, "retries": 40,
        "run_p50": 20.0, "run_p95": 38.0, "whole_p50": 22.0, "whole_p95": 40.0,
    }  # fmt: skip
    assert found["by_type"]["llm"] == {
        "tasks": 3, "succeeded": 1, "dead": 1, "cancelled": 1, "retries": 3,
        "run_p50": 1.0, "run_p95": 10.0, "whole_p50": 12.0, "whole_p95": 60.0,
    }  # fmt: skip
    assert {day: group["tasks"] for day, group in found["by_day"].items()} == {"2026-07-02": 1, "2026-07-03": 42}
    assert (found["total"]["tasks"], found["total"]["retries"]) == (43, 43)
    rows = {(row["day"], row["type"]): row["tasks"] for row in found["by_day_and_type"]}
    assert rows == {("2026-07-02", "llm"): 1, ("2026-07-03", "email"): 40, ("2026-07-03", "llm"): 2}


def test_empty_period_makes_a_report(runtime: Runtime) -> None:
    files = report(runtime)
    assert json.loads(files["json"])["total"]["run_p50"] is None
    assert "0 tasks" in files["html"]
    assert files["tasks.csv"].startswith("day,type,tasks,succeeded")


def test_spend_is_counted_by_provider_type_and_day(runtime: Runtime) -> None:
    call = {
        "token": 1, "number": 1, "step": "s", "type": "llm", "model": "m", "outcome": "ok", "reserved": 0,
        "prompt_tokens": 100, "completion_tokens": 10,
    }  # fmt: skip
    with runtime.database.connection_context():
        for number, (provider, hours, cost) in enumerate(
            [
                ("deepseek", 1, 25 * 10**10),
                ("deepseek", 2, None),
                ("local", 3, 10**12),
                ("deepseek", 20, 5),
                ("local", 25, 7),
            ]
        ):
            at = (UNTIL - dt.timedelta(hours=hours)).replace(tzinfo=None)
            SpendRow.create(
                task_id=f"t{number}", provider=provider, cost=cost, day=str(at.date()), began_at=at, **call
            )  # fmt: skip
    files = report(runtime)
    rows = list(csv.DictReader(files["spend.csv"].splitlines()))
    shown = [tuple(row[name] for name in ("day", "provider", "type", "calls", "prompt_tokens")) for row in rows]
    assert shown == [
        ("2026-07-02", "deepseek", "llm", "1", "100"),
        ("2026-07-03", "deepseek", "llm", "2", "200"),
        ("2026-07-03", "local", "llm", "1", "100"),
    ]
    assert [float(row["cost"]) for row in rows] == [5e-12, 0.25, 1.0]
    assert len(json.loads(files["json"])["spend"]) == 3
    assert "LLM spend by day" in files["html"]


def test_csv_cells_contain_no_formulas(runtime: Runtime) -> None:
    add(runtime, "=1+1", "dead", UNTIL - dt.timedelta(hours=1))
    (row,) = csv.DictReader(report(runtime, formats=["csv"])["tasks.csv"].splitlines())
    assert (row["type"], row["dead"]) == ("'=1+1", "1")


class Links(HTMLParser):
    """The elements and attributes of a page that load or run something."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = {"src", "href", "srcset", "data", "action"}
        if tag in ("script", "link", "img", "iframe", "object"):
            self.found.append(tag)
        self.found += [name for name, _ in attributes if name in named or name.startswith("on")]


def test_html_report_is_self_contained_and_escaped(runtime: Runtime) -> None:
    for hour in range(1, 20):
        add(
            runtime,
            "<script>alert(1)</script>"[: 8 + hour],
            ("succeeded", "dead")[hour % 2],
            UNTIL - dt.timedelta(hours=hour),
        )
    html = report(runtime, formats=["html"])["html"]
    assert "19 tasks" in html
    assert "<script" not in html
    assert "hush" not in html
    links = Links()
    links.feed(html)
    assert links.found == []
    charts = [svg for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL) if "role=" in svg]
    assert len(charts) == 2
    for chart in charts:
        root = ElementTree.fromstring(chart)
        for bar in root.iter("rect"):
            assert float(bar.attrib["y"]) >= -0.1
            assert float(bar.attrib["y"]) + float(bar.attrib["height"]) <= 160.1
    heights = [float(bar.attrib["height"]) for bar in ElementTree.fromstring(charts[0]).iter("rect")]
    assert max(heights) < 160  # the highest column has both outcomes


def test_second_attempt_writes_the_same_files(runtime: Runtime, tmp_path: Path) -> None:
    add(runtime, "email", "succeeded", UNTIL - dt.timedelta(hours=1))
    run = Run(runtime, "report", {"until": UNTIL.isoformat(), "email": ["a@example.com"]})
    first = run.start()
    names = sorted(file.name for file in (tmp_path / "reports").iterdir())
    texts = [Path(file).read_text() for file in first["files"]]
    assert run.start() == first
    assert sorted(file.name for file in (tmp_path / "reports").iterdir()) == names
    assert [Path(file).read_text() for file in first["files"]] == texts
    with runtime.database.connection_context():
        (mail,) = Task.select().where(Task.type == "email", Task.state == "queued")
    assert mail.id == first["email"]
    payload = json.loads(mail.payload)
    assert [part["path"] for part in payload["attachments"]] == first["files"]
    assert payload["to"] == ["a@example.com"]
    assert payload["subject"] == "sytq: 1 tasks, 0 dead, 2026-07-02 to 2026-07-03"


def test_default_period_is_the_day_before_submission(runtime: Runtime) -> None:
    result = Run(runtime, "report", {}, dt.datetime(2026, 7, 3, 12, 0, 30, tzinfo=dt.UTC)).start()
    assert (result["since"], result["until"]) == ("2026-07-02T12:00:30Z", "2026-07-03T12:00:30Z")


@pytest.mark.parametrize(
    "payload",
    [
        {"last": "0s"},
        {"formats": []},
        {"formats": ["pdf"]},
        {"since": "2026-07-03T00:00:00"},
        {"since": "2026-07-03T00:00:00Z", "until": "2026-07-02T00:00:00Z"},
        {"email": ["nobody"]},
        {"folder": "/etc"},
    ],
)
def test_invalid_payload_is_refused(payload: dict[str, Any]) -> None:
    declared = Registry.load(load(environ={})).get("report")
    with pytest.raises(InvalidInput):
        declared.parse(payload)


@pytest.mark.faults
def test_report_of_a_killed_worker_is_completed_by_another_worker(tmp_path: Path, redis_url: str) -> None:
    folder = tmp_path / "reports"
    own = {"SYTQ_TYPES__REPORT__FOLDER": str(folder), "SYTQ_QUEUE__RETENTION": "999h"}
    installation = Installation(tmp_path, f"sqlite:///{tmp_path / 'sytq.db'}", redis_url, **own)
    try:
        runtime, total = installation.runtime, 30_000
        ended = dt.datetime.now(dt.UTC).replace(tzinfo=None) - dt.timedelta(hours=1)
        rows = [
            {"id": f"t{number:05d}", "type": "x", "state": "succeeded", "payload": "{}", "created_at": ended,
             "finished_at": ended + dt.timedelta(milliseconds=number // 3)}
            for number in range(total)
        ]  # fmt: skip
        with runtime.database.connection_context(), runtime.database.atomic():
            for start in range(0, total, 1000):
                Task.insert_many(rows[start : start + 1000]).execute()

        def counted(task_id: str) -> int:
            live = runtime.inspection.live([task_id]).get(task_id)
            return int(live.progress["done"]) if live and live.progress else 0

        for _ in range(5):  # the report may be written before the worker is killed
            worker = installation.start_worker()
            task = runtime.submitter.prepare("report", {})
            runtime.submitter.submit([task])
            poll(
                lambda id=task.id: folder.exists() or counted(id) >= 5000,
                interval=0.005,
                message="tasks are counted",
            )
            worker.kill()
            if not folder.exists():
                break
            shutil.rmtree(folder)
            runtime.operator.cancel(task.id, "a test")  # if the worker was killed before its acknowledgement
        assert not folder.exists(), "the report was written before the kill"
        installation.start_worker()
        row = installation.wait_state(task.id, "succeeded", timeout=60)
        assert json.loads(row.result)["tasks"] >= total and row.attempts == 1
        assert len(list(folder.iterdir())) == len(json.loads(row.result)["files"])
    finally:
        installation.close()

"""Odd rows, of another program or with half an emoji, are shown and break no list."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.installation import Installation

DAY = "2026-03-03"


def written(api: Installation, task_id: str, **columns: str | None) -> None:
    fields = {"id": task_id, "type": "default", "state": "succeeded", "payload": "{}", **columns}
    fields.setdefault("created_at", f"{DAY} 00:00:00.000000")
    mark = "%s" if "mysql" in type(api.runtime.database).__name__.lower() else "?"
    with api.runtime.database.atomic():
        api.runtime.database.execute_sql(f"DELETE FROM sytq_tasks WHERE id = {mark}", (task_id,))
        api.runtime.database.execute_sql(
            f"INSERT INTO sytq_tasks ({', '.join(fields)}) VALUES ({', '.join([mark] * len(fields))})",
            tuple(fields.values()),
        )


def strict(body: bytes) -> Any:
    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is not JSON")

    return json.loads(body.decode("utf-8"), parse_constant=refuse)


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        ({"payload": '{"cut": "half \\ud83d"}'}, {"payload": {"cut": "half \ud83d"}}),
        ({"result": '{"cut": "half \\ud83d"}'}, {"result": {"cut": "half \ud83d"}}),
        ({"metadata": '{"\\udc00": "\\udc00"}'}, {"metadata": {"\udc00": "\udc00"}}),
        ({"payload": '{"n": 1e400, "m": [-1e999, 1.5]}'}, {"payload": {"n": "1e400", "m": ["-1e999", 1.5]}}),
        ({"metadata": '{"n": NaN}'}, {"metadata": {"n": "NaN"}}),
        ({"payload": "not json", "metadata": "[1]"}, {"payload": "not json", "metadata": None}),
        ({"progress": '{"done": 1, "of": 2, "text": "half \\ud83d"}'},
         {"progress": {"done": 1, "of": 2, "text": "half \ud83d"}}),
        ({"callback": '"x"', "type": "of yesterday"}, {"callback_url": None, "type": "of yesterday"}),
    ],
)  # fmt: skip
def test_an_odd_row_is_shown_and_does_not_break_lists(
    api: Installation, columns: dict[str, str], shown: dict[str, Any]
) -> None:
    with api.runtime.database.atomic():  # a list shows the latest tasks only
        api.runtime.database.execute_sql("DELETE FROM sytq_tasks")
    written(api, "strange-1", **columns)
    written(api, "ordinary-1")
    one = api.request("GET", "/v2/tasks/strange-1")
    assert one.status == 200
    found = strict(one.body)
    assert {name: found[name] for name in shown} == shown
    for path in (f"/v2/tasks?q=created:{DAY}", "/api/tasks?limit=100"):
        listed = api.request("GET", path)
        assert listed.status == 200
        assert {"strange-1", "ordinary-1"} <= {
            task.get("id", task.get("task_id"))
            for task in strict(listed.body).get("tasks", strict(listed.body).get("data", {}).get("tasks"))
        }
    events = api.request("GET", "/v2/tasks/strange-1/events").body
    [data] = [line for line in events.splitlines() if line.startswith(b"data: ")]
    assert strict(data.removeprefix(b"data: "))["progress"] == shown.get("progress")


def test_contract_a_finds_a_task_with_an_odd_id(api: Installation) -> None:
    written(api, "order:4711", state="queued")
    reply = api.request("GET", "/api/tasks/order:4711")
    assert (reply.status, reply.json["data"]["task_id"]) == (200, "order:4711")

"""Chains of tasks and the tree of a task, over the API."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.api.v2.test_access import guarded, key  # noqa: F401  the module's API with keys
from tests.installation import Installation


def step(service: Installation, type_name: str, name: str, **options: Any) -> dict[str, Any]:
    return {"type": type_name, "payload": {"journal": str(service.journal), "name": name}, **options}


def test_a_chain_runs_in_order_and_the_tree_shows_it(running: Installation) -> None:
    running.hold("a")
    then = [step(running, "plain", "b"), step(running, "collect", "c", priority="high", metadata={"n": 3})]
    reply = running.post("/v2/tasks", step(running, "plain", "a", then=then))
    assert (reply.status, reply.json["state"]) == (202, "queued")
    first, second, third = reply.json["id"], *(entry["id"] for entry in reply.json["then"])
    assert [(entry["type"], entry["state"]) for entry in reply.json["then"]] == [
        ("plain", "scheduled"),
        ("collect", "scheduled"),
    ]
    waits = running.get(f"/v2/tasks/{third}")
    assert (waits["held"], waits["parent"], waits["priority"], waits["metadata"]) == (True, first, "high", {"n": 3})
    tree = running.get(f"/v2/tasks/{first}/tree")
    assert tree["truncated"] is False
    shown = [(n["id"], n["depth"], n["held"], (n["after"] or {"first": []})["first"]) for n in tree["tasks"]]
    assert shown == [(first, 0, False, []), (second, 1, True, [first]), (third, 1, True, [second])]
    running.release("a")
    ended = running.wait_shown(third, "succeeded")
    assert ended["result"]["heard"] == [["plain", "succeeded", {"name": "b"}, None]]
    assert ended["held"] is False
    words = [line.split()[:2] for line in running.journal.read_text().splitlines()]
    assert words == [["start", "a"], ["end", "a"], ["start", "b"], ["end", "b"], ["collect", "c"]]


def test_a_failure_cancels_the_chain_except_on_failure_run(running: Installation) -> None:
    then = [step(running, "plain", "b"), step(running, "collect", "c", on_failure="run")]
    reply = running.post("/v2/tasks", step(running, "hopeless", "a", then=then))
    first, second, third = reply.json["id"], *(entry["id"] for entry in reply.json["then"])
    assert running.wait_shown(third, "succeeded")["result"]["ok"] is False
    skipped = running.wait_shown(second, "cancelled")
    assert skipped["error"] == f"not run: hopeless {first} is dead"
    assert running.notes()["start b"] == 0


def test_a_chain_after_an_existing_task_waits_for_it(running: Installation) -> None:
    running.hold("a")
    existing = running.post_task("plain", "a", unique_key="existing")
    body = step(running, "plain", "again", unique_key="existing", then=[step(running, "plain", "b")])
    reply = running.post("/v2/tasks", body)
    assert (reply.status, reply.json["id"], reply.json["existing"]) == (200, existing, True)
    running.release("a")
    running.wait_shown(reply.json["then"][0]["id"], "succeeded")
    words = [line.split()[:2] for line in running.journal.read_text().splitlines()]
    assert words == [["start", "a"], ["end", "a"], ["start", "b"], ["end", "b"]]


def test_a_repeated_request_creates_no_second_chain(running: Installation) -> None:
    key = uuid.uuid4().hex
    body = step(running, "plain", "a", then=[step(running, "plain", "b", metadata={"of": key})], metadata={"of": key})
    one, other = (running.post("/v2/tasks", body, **{"Idempotency-Key": key}) for _ in range(2))
    assert one.json["id"] == other.json["id"] and one.json["then"][0]["id"] == other.json["then"][0]["id"]
    assert running.get(f"/v2/tasks?total=true&q=metadata.of:{key}")["total"] == 2
    assert running.get(f"/v2/tasks?total=true&q=parent:{one.json['id']}")["total"] == 1


@pytest.mark.parametrize(
    ("then", "named", "says"),
    [
        ([{"type": "nosuch"}], "then.0.type", "'nosuch' is not a task type"),
        ([{"type": "default"}, {"type": "webhook"}], "then.1.payload.url", "Field required"),
        ([{"type": "webhook", "payload": {"url": "ftp://x"}}], "then.0.payload.url", "must start with"),
        ([{"type": "default", "on_failure": "wait"}], "then.0.on_failure", "'cancel' or 'run'"),
        ([{"type": "default", "delay": "5s"}], "then.0.delay", "not permitted"),
        ([{"type": "default", "then": []}], "then.0.then", "not permitted"),
        ([{"type": "llm.dead", "payload": {}}], "then.0.type", "by the service alone"),
        ([{"type": "default", "callback": {"url": "http://10.0.0.1/"}}], "then.0.callback.url", "not a public"),
        ([{"type": "default"}] * 21, "then", "at most 20"),
        ({}, "then", "valid list"),
    ],
)
def test_an_invalid_task_of_a_chain_is_named(api: Any, then: Any, named: str, says: str) -> None:
    reply = api.request("POST", "/v2/tasks", {"type": "default", "then": then})
    assert reply.status == 400, reply
    (error,) = [entry for entry in reply.json["errors"] if entry["field"] == named]
    assert says in error["message"]


def test_a_batch_has_no_chains(api: Any) -> None:
    tasks = [{"type": "default"}, {"type": "default", "then": [{"type": "default"}]}]
    reply = api.request("POST", "/v2/tasks/batch", {"tasks": tasks})
    assert (reply.status, reply.json["accepted"], reply.json["refused"]) == (207, 1, 1)
    assert reply.json["results"][1]["error"]["errors"][0]["field"] == "then"


def test_a_tree_is_truncated_at_its_limit(running: Installation) -> None:
    chain = step(running, "plain", "a", delay="1h", then=[step(running, "plain", "b")] * 5)
    reply = running.post("/v2/tasks", chain)
    root = reply.json["id"]
    some = running.get(f"/v2/tasks/{root}/tree?limit=3")
    assert (len(some["tasks"]), some["truncated"]) == (3, True)
    assert some["tasks"][0]["children"] == {"scheduled": 5}
    for limit in ("0", "1001", "x"):
        refused = running.request("GET", f"/v2/tasks/{root}/tree?limit={limit}")
        assert (refused.status, refused.json["errors"][0]["field"]) == (400, "limit")
    assert running.request("GET", "/v2/tasks/nosuch/tree").status == 404


def test_trees_and_chain_types_are_limited_to_the_key(guarded: Any) -> None:  # noqa: F811
    ours, theirs = key(guarded, "us", types=frozenset(("default",))), key(guarded, "them")
    chain = {"type": "default", "then": [{"type": "default"}]}
    root = guarded.request("POST", "/v2/tasks", chain, ours).json["id"]
    assert len(guarded.request("GET", f"/v2/tasks/{root}/tree", headers=ours).json["tasks"]) == 2
    assert guarded.request("GET", f"/v2/tasks/{root}/tree", headers=theirs).status == 404
    hidden = {"type": "default", "then": [{"type": "webhook", "payload": {"url": "http://example.com/"}}]}
    assert guarded.request("POST", "/v2/tasks", hidden, ours).status == 403

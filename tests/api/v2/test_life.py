"""Tasks from submission by HTTP to their end on real workers: attempts, changes, callbacks, bulk operations."""

from __future__ import annotations

import datetime as dt
import json
import signal
import uuid
from collections.abc import Callable

import pytest

from sytq.ledger.api_keys import ApiKeys, Grant
from sytq.ledger.models import Step
from tests.crowd import Crowd
from tests.installation import Installation, Reply
from tests.receiver import Receiver
from tests.servers import poll

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_task_is_shown_with_its_attempts_steps_and_timeline(running: Installation) -> None:
    shown = running.wait_shown(running.post_task("stepwise", "a"), "succeeded")
    assert shown["result"] == {"done": ["one", "two", "three"]}
    assert [step["value"] for step in shown["steps"]] == ["one", "two", "three"]
    (attempt,) = shown["attempts_made"]
    assert (attempt["attempt"], attempt["outcome"]) == (1, "succeeded")
    events = [moment["event"] for moment in shown["timeline"]]
    assert events[0] == "accepted" and events[-1] == "succeeded" and "step two done" in events
    assert shown["timeline"] == sorted(shown["timeline"], key=lambda moment: moment["at"])


def test_a_step_is_done_before_the_attempt_that_ends_in_its_millisecond(running: Installation) -> None:
    task_id = running.post_task("stepwise", "a")
    ended = running.wait_shown(task_id, "succeeded")["finished_at"]
    late = dt.datetime.fromisoformat(ended.removesuffix("Z")) + dt.timedelta(microseconds=900)
    Step.update(finished_at=late).where(Step.task_id == task_id, Step.name == "three").execute()
    events = [moment["event"] for moment in running.get(f"/v2/tasks/{task_id}")["timeline"]]
    assert events[-3:] == ["step three done", "attempt 1 ended, succeeded", "succeeded"]


def test_a_wait_for_a_limiter_is_shown_while_it_lasts_and_after(running: Installation) -> None:
    crowd, limiters = Crowd(seconds=0), running.runtime.limiters
    try:
        limiters.pause("provider:crowd", "a test", "no credit")
        reply = running.post("/v2/tasks", {"type": "called", "payload": {"port": crowd.port}})
        path = f"/v2/tasks/{reply.json['id']}"
        lasting = {"kind": "limiter", "about": "provider:crowd", "end": None}
        poll(lambda: lasting.items() <= running.get(path)["spans"][-1].items(), message="it waits for its limiter")
        limiters.resume("provider:crowd")
        shown = running.wait_shown(reply.json["id"], "succeeded")
    finally:
        limiters.resume("provider:crowd")
        crowd.close()
    spans = [span for span in shown["spans"] if span["start"] != span["end"]]
    assert [span["kind"] for span in spans if span["kind"] != "worker"][-2:] == ["limiter", "running"]
    assert [one["detail"] for one in shown["attempts_made"]] == [None] * len(shown["attempts_made"])
    assert not any("details" in moment["event"] for moment in shown["timeline"])


@pytest.mark.parametrize(("type_name", "end"), [("stepwise", "succeeded"), ("hopeless", "dead")])
def test_an_ended_task_always_has_its_result_or_error(running: Installation, type_name: str, end: str) -> None:
    for n in range(5):
        path = f"/v2/tasks/{running.post_task(type_name, f't{n}')}"
        shown = {"state": "queued"}
        while shown["state"] not in ("succeeded", "dead"):
            shown = running.get(path)
        assert shown["state"] == end and shown["finished_at"]
        assert shown["result" if end == "succeeded" else "error"]


def test_a_task_is_cancelled_retried_rescheduled_and_deleted(service: Installation) -> None:
    task = service.post_task("plain", "a", delay="1h")
    path = f"/v2/tasks/{task}"
    moved = service.post(f"{path}/reschedule", {"delay": "2h"})
    assert (moved.status, moved.json["outcome"]) == (200, "rescheduled")
    assert service.get(path)["scheduled_at"] == moved.json["scheduled_at"]
    assert service.post(f"{path}/retry").status == 409
    assert service.request("DELETE", path).status == 409
    done = service.post(f"{path}/cancel", {"reason": "not\nneeded"})
    assert (done.status, done.json["outcome"]) == (200, "cancelled")
    again = service.post(f"{path}/cancel")
    assert (again.status, again.json["type"]) == (409, "urn:sytq:problem:conflict")
    # No worker runs yet, so only Redis knows the end.
    assert again.json["detail"] == "the task is cancelled: only an unfinished task can be cancelled"
    moved = service.post(f"{path}/reschedule", {"delay": 0})
    assert (moved.status, moved.json["detail"]) == (
        409,
        "the task is cancelled: only a scheduled or retrying task can be rescheduled",
    )
    service.start_worker()
    assert service.wait_shown(task, "cancelled")["error"] == "cancelled by the API: not needed"
    assert service.post(f"{path}/reschedule", {"delay": 0}).status == 409
    retried = service.post(f"{path}/retry")
    assert (retried.status, retried.json["outcome"]) == (202, "queued")
    service.wait_shown(task, "succeeded")
    assert service.request("DELETE", path).status == 204
    for method, below in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("POST", "/retry")):
        assert service.request(method, path + below).status == 404


def test_a_running_task_is_cancelled_on_request(running: Installation) -> None:
    task = running.post_task("gentle", "a", seconds=60)
    running.wait_note("start a")
    done = running.post(f"/v2/tasks/{task}/cancel", {"reason": "a mistake"})
    assert (done.status, done.json["outcome"]) == (202, "asked")
    assert running.wait_shown(task, "cancelled")["error"] == "cancelled by the API: a mistake"


@pytest.mark.parametrize(("type_name", "end"), [("plain", "succeeded"), ("hopeless", "dead"), ("gentle", "cancelled")])
def test_a_callback_announces_every_kind_of_end(
    running: Installation, receiver: Receiver, type_name: str, end: str
) -> None:
    body = {
        "type": type_name,
        "payload": {"journal": str(running.journal), "seconds": 60 if end == "cancelled" else 0},
        "metadata": {"order": 7},
        "callback": {"url": receiver.url, "headers": {"X-Key": "k", "Authorization": "Bearer t"}},
    }
    reply = running.request("POST", "/v2/tasks", body, {"X-Request-Id": "r-1", "traceparent": TRACE})
    task = reply.json["id"]
    if end == "cancelled":
        running.wait_note("start -")
        running.post(f"/v2/tasks/{task}/cancel")
    poll(lambda: receiver.received, message="the callback comes")
    shown = running.wait_shown(task, end)
    (callback,) = receiver.received
    said = json.loads(callback.body)
    assert (said["type"], said["timestamp"]) == (f"task.{end}", shown["finished_at"])
    assert said["data"] == {
        name: shown[name]
        for name in ("id", "type", "state", "attempts", "result", "error", "metadata", "created_at", "finished_at")
    }
    assert said["data"]["metadata"] == {"order": 7}
    sent = {name: callback.headers.get(name) for name in ("x-key", "authorization", "x-request-id", "traceparent")}
    assert sent == {"x-key": "k", "authorization": "Bearer t", "x-request-id": "r-1", "traceparent": TRACE}
    (child,) = running.get(f"/v2/tasks?q=parent:{task}")["tasks"]
    assert (child["type"], child["request_id"]) == ("callback", "r-1")
    assert "Bearer t" not in json.dumps(shown)


def test_the_worker_log_has_request_id_and_trace(running: Installation) -> None:
    (worker,) = running.workers
    body = {"type": "plain", "payload": {"journal": str(running.journal)}}
    reply = running.request("POST", "/v2/tasks", body, {"X-Request-Id": "r-2", "traceparent": TRACE})
    running.wait_shown(reply.json["id"], "succeeded")
    lines = [json.loads(line) for line in worker.text().splitlines() if line.startswith("{")]
    [line] = [line for line in lines if line.get("task_id") == reply.json["id"] and line["msg"] == "task succeeded"]
    assert (line["request_id"], line["trace_id"]) == ("r-2", TRACE.split("-")[1])


def test_an_operation_survives_its_worker_and_changes_tasks_once(service: Installation) -> None:
    worker = service.start_worker()
    payload = {"journal": str(service.journal), "seconds": 0}
    batch = [{"type": "hopeless", "payload": payload | {"name": f"t{n}"}} for n in range(450)]
    tasks = [made["id"] for made in service.post("/v2/tasks/batch", {"tasks": batch}).json["results"]]
    poll(lambda: service.get("/v2/dead?total=true")["total"] == 450, timeout=60, message="all are dead")
    refused = service.post("/v2/operations", {"action": "retry", "q": "  "})
    assert refused.status == 400 and "a query is needed" in refused.json["detail"]
    counted = service.post("/v2/operations", {"action": "retry", "q": "type:hopeless", "dry_run": True})
    assert (counted.status, counted.json["matched"]) == (200, 450)
    assert service.post("/v2/operations", {"action": "retry", "q": "state:queued"}).status == 400
    worker.terminate()
    started = service.post("/v2/operations", {"action": "retry", "q": "type:hopeless"})
    assert started.status == 202
    operation = started.json["id"]
    assert started.headers["location"] == started.json["href"] == f"/v2/tasks/{operation}"
    worker = service.start_worker()
    poll(lambda: service.get(f"/v2/tasks/{operation}")["steps"], interval=0.005, message="it has begun")
    worker.signal(signal.SIGKILL)
    service.start_worker()
    shown = service.wait_shown(operation, "succeeded")
    assert shown["result"] == {"action": "retry", "matched": 450, "changed": 450, "unchanged": 0}
    notes = service.notes
    poll(lambda: sum(notes().values()) >= 900, timeout=60, message="all have run again")
    for task in tasks[::50]:
        service.wait_shown(task, "dead")
    # The killed worker may also have run tasks, dozens at once, whose ends had not reached Redis: they start once more.
    starts = [notes()[f"start t{n}"] for n in range(450)]
    reclaimed = service.runtime.inspection.totals().get(("hopeless", "reclaimed"), 0)
    assert min(starts) == 2 and sum(starts) - 900 <= reclaimed
    attempts = [service.get(f"/v2/tasks/{task}")["attempts"] for task in tasks[::50]]
    assert set(attempts) <= {1, 2}


def test_operations_cancel_reschedule_and_delete_matching_tasks(running: Installation) -> None:
    first, second = uuid.uuid4().hex, uuid.uuid4().hex
    for group in (first, second):
        for n in range(3):
            running.post_task("plain", f"{group}{n}", delay="1h", metadata={"group": group})

    def operate(action: str, q: str, **more: str) -> dict[str, object]:
        reply = running.post("/v2/operations", {"action": action, "q": q, **more})
        assert reply.status == 202, reply
        result = running.wait_shown(reply.json["id"], "succeeded")["result"]
        assert isinstance(result, dict)
        return result

    both = f"metadata.group:{first},{second}"
    cancelled = f"/v2/tasks?total=true&q=state:cancelled%20{both}"
    assert operate("reschedule", f"metadata.group:{second}", delay="2h")["changed"] == 3
    assert operate("cancel", both, reason="over")["changed"] == 6
    poll(lambda: running.get(cancelled)["total"] == 6, message="the ledger knows")
    assert operate("delete", f"metadata.group:{first}")["changed"] == 3
    assert {t["metadata"]["group"] for t in running.get(f"/v2/tasks?q={both}")["tasks"]} == {second}
    for body in (
        {"action": "reschedule", "q": "type:plain"},
        {"action": "cancel", "q": "type:plain", "delay": "1h"},
        {"action": "burn", "q": "type:plain"},
        {"action": "cancel", "q": "colour:red"},
        {"action": "cancel", "q": "type:plain", "dry_run": "yes"},
    ):
        assert running.post("/v2/operations", body).status == 400


def bearers(service: Installation, *owners: str) -> dict[str, dict[str, str]]:
    """A key for each owner, with everything but admin."""
    made = {}
    for owner in owners:
        grant = Grant(("submit", "read", "operate"))
        _, text = ApiKeys(service.runtime.database).create(owner, owner, grant, by="test")
        made[owner] = {"Authorization": f"Bearer {text}"}
    return made


def test_a_callback_task_belongs_to_the_owner_of_its_task(
    start: Callable[..., Installation], receiver: Receiver
) -> None:
    service = start(SYTQ_AUTH__ENABLED="true", SYTQ_OUTBOUND__ALLOW_NETWORKS='["127.0.0.0/8"]')
    made = bearers(service, "ours", "theirs")
    task = {
        "type": "plain",
        "payload": {"journal": str(service.journal)},
        "callback": {"url": receiver.url},
    }
    reply = service.request("POST", "/v2/tasks", task, made["ours"])
    service.start_worker()
    poll(lambda: receiver.received, message="the callback comes")

    def below(owner: str) -> list[str]:
        found = service.request("GET", f"/v2/tasks?q=parent:{reply.json['id']}", headers=made[owner]).json
        return [child["type"] for child in found["tasks"]]

    assert (below("ours"), below("theirs")) == (["callback"], [])


def test_an_operation_without_admin_changes_only_its_owners_tasks(start: Callable[..., Installation]) -> None:
    service = start(SYTQ_AUTH__ENABLED="true")
    made = bearers(service, "ours", "theirs")
    task = {"type": "plain", "payload": {"journal": str(service.journal)}, "delay": "1h"}
    for owner in ("ours", "theirs", "theirs"):
        assert service.request("POST", "/v2/tasks", task, made[owner]).status == 202

    def post(q: str, **more: object) -> Reply:
        return service.request("POST", "/v2/operations", {"action": "cancel", "q": q, **more}, made["ours"])

    for query, count in (("state:*", 1), ("owner:ours,theirs", 1), ("owner:theirs", 0), ("-owner:ours", 0)):
        assert post(query, dry_run=True).json["matched"] == count
    started = post("type:plain")
    assert started.status == 202
    path = started.headers["location"]
    assert service.request("GET", path, headers=made["theirs"]).status == 404
    service.start_worker()
    poll(lambda: service.request("GET", path, headers=made["ours"]).json["state"] == "succeeded")
    assert service.request("GET", path, headers=made["ours"]).json["result"]["changed"] == 1

    def cancelled(owner: str) -> int:
        query = "/v2/tasks?q=state:cancelled&total=true"
        return int(service.request("GET", query, headers=made[owner]).json["total"])

    poll(lambda: cancelled("ours") == 1, message="the ledger knows")
    assert cancelled("theirs") == 0

"""Pauses and schedules on /v2, and what `sytq doctor` finds: for admins, as on the dashboard."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from sytq.ledger.api_keys import ApiKeys, Grant
from sytq.ledger.ledger import Ledger
from tests.installation import BUILT_IN, Installation, Reply
from tests.servers import RedisServer

NIGHTLY = {"type": "default", "cron": "0 3 29 2 *", "payload": {"n": 1}}


class Service:
    """The API with auth and a schedule; asks as admin."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.admin, self.operator = self.key("admin"), self.key("read", "submit", "operate")

    def key(self, *scopes: str) -> dict[str, str]:
        Ledger(self.installation.runtime.database)  # binds the models
        _, text = ApiKeys(self.installation.runtime.database).create("k", "k", Grant(scopes), by="test")
        return {"Authorization": f"Bearer {text}"}

    def post(self, path: str, body: object, **headers: str) -> Reply:
        return self.installation.request("POST", path, body, self.admin | headers)

    def get(self, path: str) -> Reply:
        return self.installation.request("GET", path, headers=self.admin)


@pytest.fixture(scope="module")
def service(folder: Path, redis_server: RedisServer) -> Iterator[Service]:
    settings = {"SYTQ_AUTH__ENABLED": "true", "SYTQ_REDIS__PREFIX": uuid.uuid4().hex}
    settings["SYTQ_SCHEDULES__NIGHTLY"] = json.dumps(NIGHTLY)
    made = Installation(folder, f"sqlite:///{folder / 'pausing.db'}", redis_server.url, **BUILT_IN, **settings)
    try:
        made.start_api()
        yield Service(made)
    finally:
        made.close()


def paused_types(service: Service) -> set[str]:
    return {each["type"] for each in service.get("/v2/types").json["types"] if each["paused"]}


def test_type_and_queue_are_paused_and_resumed_by_name(service: Service) -> None:
    queues = {each["type"]: each["queue"] for each in service.get("/v2/types").json["types"]}
    of_queue = {name for name, queue in queues.items() if queue == "default"}
    assert len(of_queue) > 1
    reply = service.post("/v2/limiters/pause", {"limiter": "type:default", "why": "it moves"})
    assert (reply.status, reply.json) == (200, {"limiter": "type:default", "paused": True})
    assert paused_types(service) == {"default"}
    service.post("/v2/tasks", {"type": "default"})
    assert service.post("/v2/limiters/pause", {"limiter": "queue:default", "why": "all of it"}).status == 200
    assert paused_types(service) == of_queue
    resumed = service.post("/v2/limiters/resume", {"limiter": "type:default"})
    assert resumed.json == {"limiter": "type:default", "paused": False, "ended": "paused", "waiting": 1}
    resumed = service.post("/v2/limiters/resume", {"limiter": "queue:default"})
    assert resumed.json == {"limiter": "queue:default", "paused": False, "ended": "paused", "waiting": 0}
    assert paused_types(service) == set()
    assert service.post("/v2/limiters/resume", {"limiter": "queue:default"}).json["ended"] is None
    noted = [(each["about"], each["detail"]) for each in service.get("/v2/audit?what=POST").json["entries"]]
    assert noted == [
        ("/v2/limiters/resume", "queue:default"),
        ("/v2/limiters/resume", "type:default"),
        ("/v2/limiters/pause", "queue:default: all of it"),
        ("/v2/limiters/pause", "type:default: it moves"),
    ]


@pytest.mark.parametrize("name", ["type:nosuch", "queue:nosuch", "type:", "queue:"])
def test_an_unknown_type_or_queue_is_named_and_not_paused(service: Service, name: str) -> None:
    for verb, body in (("pause", {"limiter": name, "why": "x"}), ("resume", {"limiter": name})):
        reply = service.post(f"/v2/limiters/{verb}", body)
        assert (reply.status, reply.json["errors"][0]["field"]) == (400, "limiter")
    assert paused_types(service) == set()


def test_schedule_is_paused_resumed_and_triggered(service: Service) -> None:
    assert service.post("/v2/schedules/pause", {"schedule": "nightly", "why": "a backup runs"}).status == 200
    (shown,) = [each for each in service.get("/v2/schedules").json["schedules"] if each["name"] == "nightly"]
    assert shown["paused"]["why"] == "a backup runs"
    for resumed in (True, False):
        reply = service.post("/v2/schedules/resume", {"schedule": "nightly"})
        assert (reply.status, reply.json["resumed"], reply.json["next"]) == (200, resumed, shown["next"])
    once = {"Idempotency-Key": uuid.uuid4().hex}
    first, again = (service.post("/v2/schedules/trigger", {"schedule": "nightly"}, **once) for _ in range(2))
    assert (first.status, first.json["existing"], again.json["id"]) == (202, False, first.json["id"])
    task = service.get(first.headers["location"]).json
    assert (task["type"], task["payload"], task["owner"]) == ("default", {"n": 1}, None)
    for verb in ("pause", "resume", "trigger"):
        body = {"schedule": "weekly"} | ({"why": "x"} if verb == "pause" else {})
        reply = service.post(f"/v2/schedules/{verb}", body)
        assert (reply.status, "is not a schedule; valid: " in reply.json["detail"]) == (400, True)


def test_doctors_findings_are_those_of_the_command(service: Service) -> None:
    reply = service.get("/v2/doctor")
    assert reply.status == 200 and {"config", "database", "redis"} <= {each["check"] for each in reply.json["checks"]}
    assert reply.json["ok"] is all(each["verdict"] != "fail" for each in reply.json["checks"])
    assert service.get("/v2/doctor").json["at"] == reply.json["at"], "they are kept for a minute"


def test_only_admins_pause_trigger_and_diagnose(service: Service) -> None:
    for path, body in (
        ("limiters/pause", {"limiter": "type:default", "why": "x"}),
        ("limiters/resume", {"limiter": "queue:default"}),
        ("schedules/pause", {"schedule": "nightly", "why": "x"}),
        ("schedules/resume", {"schedule": "nightly"}),
        ("schedules/trigger", {"schedule": "nightly"}),
    ):
        assert service.installation.request("POST", f"/v2/{path}", body, service.operator).status == 403
    assert service.installation.request("GET", "/v2/doctor", headers=service.operator).status == 403

"""Limiters: list, filter, one of them, pause and resume."""

from __future__ import annotations

from urllib.parse import quote

from tests.api.dashboard.browser import Browser, browse_as
from tests.installation import Installation, Reply

NAME = "host:<b>.example:443"


def test_limiter_is_paused_listed_and_resumed(staffed: Installation, admin: Browser) -> None:
    path = f"/limiters/one?name={quote(NAME)}"
    assert "No task has used it" in admin.get(path).html
    pause = path.replace("/one", "/one/pause")
    assert "say why" in admin.post(pause, 400, why="").html
    page = admin.post(pause, why="they <move>").html
    assert "they &lt;move&gt;" in page
    limiter = staffed.runtime.inspection.limiter(NAME)
    assert limiter is not None
    assert (limiter.state, limiter.reason) == ("paused", "they <move>")
    (listed,) = staffed.request("GET", "/v2/limiters", headers=admin.headers).json["limiters"]
    assert (listed["name"], listed["state"], listed["by"]) == (NAME, "paused", limiter.by)
    assert "inside" not in listed
    page = admin.get("/limiters").html
    assert "host:&lt;b&gt;.example:443" in page
    assert "they &lt;move&gt;" in page
    [(detail,)] = staffed.rows("SELECT detail FROM sytq_audit ORDER BY id DESC LIMIT 1")
    assert detail == f"{NAME}: they <move>"
    resume = path.replace("/one", "/one/resume")
    assert "is resumed; it was paused" in admin.post(resume).html
    assert "was not paused" in admin.post(resume).html


def test_limiter_is_paused_and_resumed_by_the_api(staffed: Installation, admin: Browser) -> None:
    def post(verb: str, body: dict[str, str], headers: dict[str, str]) -> Reply:
        return staffed.request("POST", f"/v2/limiters/{verb}", body, headers)

    body = {"limiter": "provider:api", "why": "a test"}
    assert post("pause", body, admin.headers).json == {"limiter": "provider:api", "paused": True}
    limiter = staffed.runtime.inspection.limiter("provider:api")
    assert limiter is not None
    assert (limiter.state, limiter.reason) == ("paused", "a test")
    resumed = {"limiter": "provider:api", "paused": False, "ended": "paused", "waiting": 0}
    assert post("resume", {"limiter": "provider:api"}, admin.headers).json == resumed
    assert post("resume", {"limiter": "provider:api"}, admin.headers).json == resumed | {"ended": None}
    assert post("pause", body | {"limiter": "a b"}, admin.headers).json["errors"][0]["field"] == "limiter"
    assert post("pause", body | {"why": ""}, admin.headers).json["errors"][0]["field"] == "why"
    assert post("pause", body, browse_as(staffed, "ann", "read", "operate", "submit").headers).status == 403


def test_type_is_paused_and_resumed_as_any_limiter(staffed: Installation, admin: Browser) -> None:
    page = admin.post("/limiters/one/pause?name=type:plain", why="moving").html
    assert "type:plain is paused" in page and "moving" in page
    assert [row.type for row in staffed.runtime.operator.pauses()] == ["plain"]
    found = staffed.request("GET", "/v2/limiters", headers=admin.headers).json["limiters"]
    listed = {one["name"]: one for one in found}["type:plain"]
    assert (listed["state"], listed["running"], listed["waiting"]) == ("paused", None, 0)
    assert listed["since"] is not None
    assert "type:plain" in admin.get("/limiters").html
    metrics = staffed.request("GET", "/metrics").body.decode()
    assert 'sytq_gate_state{gate="type:plain",state="paused"} 1.0' in metrics
    assert 'sytq_gate_waiting{gate="type:plain"} 0.0' in metrics
    assert "is resumed" in admin.post("/limiters/one/resume?name=type:plain").html
    assert staffed.runtime.operator.pauses() == []
    assert 'href="/dashboard/queues/llm"' in admin.get("/limiters/one?name=queue:llm").html


def test_filter_finds_a_few_among_thousands(staffed: Installation, admin: Browser) -> None:
    limiters = staffed.runtime.limiters
    for n in range(300):
        limiters.pause(f"host:h{n}.example:443", "test", "many")
    page = admin.get("/limiters").html
    assert page.count('href="/dashboard/limiters/one?') == 200
    page = admin.get("/limiters?q=H299.").html
    assert page.count('href="/dashboard/limiters/one?') == 1
    for n in range(300):
        limiters.resume(f"host:h{n}.example:443")


def test_holders_are_shown_to_who_may_see_them(staffed: Installation, admin: Browser) -> None:
    limiters = staffed.runtime.limiters
    limiters.pause("provider:crowd", "test", "so that the task waits")
    task = staffed.runtime.submitter.prepare("called", {"port": 1, "name": "x"}, owner="bob")
    staffed.runtime.submitter.submit([task])
    staffed.wait_state(task.id, "retrying")
    path = "/limiters/one?name=provider:crowd"
    assert f"/dashboard/tasks/{task.id}" in admin.get(path).html
    assert task.id not in browse_as(staffed, "ann", "read").get(path).html
    staffed.runtime.operator.cancel(task.id, "test")
    limiters.resume("provider:crowd")


def test_only_admins_pause_a_limiter_and_names_are_checked(staffed: Installation, admin: Browser) -> None:
    operator = browse_as(staffed, "ann", "read", "operate", "submit")
    assert "/limiters/one/pause" not in operator.get("/limiters/one?name=provider:a").html
    operator.post("/limiters/one/pause?name=provider:a", 403, why="x")
    assert "No limiter is named" in admin.get("/limiters/one").html
    admin.post("/limiters/one/pause", 400, why="x")
    assert "is not valid" in admin.post("/limiters/one/pause?name=a%20b", 400, why="x").html

"""Contract D, replayed byte for byte through gunicorn, with a real worker where something must run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.api.compat.test_contracts import UUID, split
from tests.installation import Installation
from tests.plugins.email.server import MailServer
from tests.servers import poll


def post(path: str, body: bytes = b"", method: str = "POST") -> bytes:
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: localhost:8080\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def row(api: Installation, job_id: str) -> tuple[str, str, Any]:
    [(type_name, priority, payload)] = api.rows(f"SELECT type, priority, payload FROM sytq_tasks WHERE id = '{job_id}'")
    return type_name, priority, json.loads(payload)


@pytest.mark.parametrize(
    ("query", "body", "type_name", "priority", "payload"),
    [
        ("", b"", "default", "normal", {}),
        ("?type=&priority=", b"", "default", "normal", {}),
        (
            "?priority=urgent",
            b'{"n": 1, "deep": {"er": [null]}}',
            "default",
            "urgent",
            {"n": 1, "deep": {"er": [None]}},
        ),
        ("?type=email&priority=high", b"", "email", "high", {}),
        ("?type=cleanup&priority=low", b"", "cleanup", "low", {}),
        ("?type=cleanup", b'{"dry_run": true}', "cleanup", "normal", {"dry_run": True}),
    ],
)
def test_a_job_is_accepted_in_contract_d_form(
    api: Installation, query: str, body: bytes, type_name: str, priority: str, payload: Any
) -> None:
    status, headers, answer = split(api.raw(post(f"/jobs{query}", body)))
    found = json.loads(answer)
    assert (status, headers["content-type"]) == (202, "application/json")
    assert found == {"job_id": found["job_id"], "status": "submitted"}
    assert UUID.fullmatch(found["job_id"])
    assert row(api, found["job_id"]) == (type_name, priority, payload)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_another_method_is_405_in_contract_d_words(api: Installation, method: str) -> None:
    status, headers, answer = split(api.raw(post("/jobs?type=default", method=method)))
    assert (status, json.loads(answer)) == (405, {"error": "method not allowed"})
    assert "POST" in headers["allow"]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("type=nonsense", r"type: 'nonsense' is not a job type; valid: .*cleanup, default, .*llm, .*webhook"),
        ("type=llm.dead", r"type: 'llm\.dead' is not a job type"),
        ("type=default&type=cleanup", "type: given more than once"),
        ("priority=highest", "priority: 'highest' is not valid; valid: urgent, high, normal, low"),
    ],
)
def test_an_unknown_type_or_priority_is_400_with_the_valid_ones(api: Installation, query: str, words: str) -> None:
    before = api.rows("SELECT COUNT(*) FROM sytq_tasks")
    status, _, answer = split(api.raw(post(f"/jobs?{query}")))
    assert status == 400
    assert re.search(words, json.loads(answer)["error"])
    assert api.rows("SELECT COUNT(*) FROM sytq_tasks") == before


@pytest.mark.parametrize(
    "body", [b"[]", b"nonsense", b'{"a": 1e400}', b'{"a": %s}' % (b"[" * 100 + b"]" * 100), b" ", b"\xff"]
)
def test_a_body_that_is_not_a_json_object_is_400(api: Installation, body: bytes) -> None:
    assert api.request("POST", "/jobs", body).status == 400


def test_an_invalid_payload_is_400_with_its_field(api: Installation) -> None:
    reply = api.request("POST", "/jobs?type=cleanup", {"older_than": "soon"})
    assert reply.status == 400
    assert reply.json["error"].startswith("older_than: ")


def test_stats_and_workers_count_real_jobs_and_workers(make_api: Any, tmp_path: Path, redis_url: str) -> None:
    api = make_api(redis_url=redis_url)
    before = api.request("GET", "/stats").json
    assert before == {
        "jobs_submitted": 0,
        "jobs_completed": 0,
        "jobs_failed": 0,
        "workers_active": 0,
        "queue_size": 0,
        "uptime": before["uptime"],
    }
    assert re.fullmatch(r"(\d+h)?(\d+m)?\d+s", before["uptime"])
    assert api.request("GET", "/workers").json == {"workers": 0, "jobs_running": 0, "list": []}

    jobs = [api.request("POST", "/jobs?priority=high", {"n": n}).json["job_id"] for n in range(3)]
    poll(lambda: api.request("GET", "/stats").json["queue_size"] == 3, message="three jobs wait")
    api.start_worker(threads=2)
    poll(lambda: api.request("GET", "/stats").json["jobs_completed"] == 3, message="three jobs are done")
    stats = api.request("GET", "/stats").json
    assert (stats["jobs_submitted"], stats["jobs_failed"], stats["queue_size"]) == (3, 0, 0)
    assert stats["workers_active"] == 1
    seen = api.request("GET", "/workers").json
    assert (seen["workers"], len(seen["list"])) == (1, 1)
    poll(
        lambda: (
            {result for (result,) in api.rows("SELECT result FROM sytq_tasks")} == {f'{{"n":{n}}}' for n in range(3)}
        ),
        message="each payload is a result",
    )
    assert len(set(jobs)) == 3


def test_each_type_of_contract_d_runs_without_a_payload(make_api: Any, tmp_path: Path, redis_url: str) -> None:
    server = MailServer().start()
    types = {
        "backup": {"folder": str(tmp_path / "backups")},
        "report": {"folder": str(tmp_path / "reports")},
        "email": {"host": "127.0.0.1", "port": server.port, "security": "none", "sender": "a@b.org", "to": "b@c.org"},
    }
    api = make_api(redis_url=redis_url, SYTQ_TYPES=json.dumps(types))
    jobs = {
        type_name: api.request("POST", f"/jobs?type={type_name}").json["job_id"]
        for type_name in ("email", "report", "backup", "sync", "cleanup", "default")
    }
    api.start_worker(threads=4)
    try:

        def states() -> dict[str, str]:
            return {type_name: api.stored(job_id)[1] for type_name, job_id in jobs.items()}

        done = dict.fromkeys(jobs, "succeeded")
        poll(lambda: states() == done, message=lambda: states())
    finally:
        server.stop()
    assert server.recipients == [["b@c.org"]]
    assert len(list((tmp_path / "backups").iterdir())) == 1
    assert {file.suffix for file in (tmp_path / "reports").iterdir()} >= {".csv", ".json", ".html"}


def test_without_redis_stats_are_503_and_jobs_are_accepted(make_api: Any) -> None:
    api = make_api(redis_url="redis://127.0.0.1:1/0")
    assert api.request("POST", "/jobs").status == 202
    for path in ("/stats", "/workers"):
        reply = api.request("GET", path)
        assert (reply.status, reply.json) == (503, {"error": "Redis does not answer; try again later"})
        assert reply.headers["retry-after"] == "2"


def test_contract_d_environment_sets_timeout_attempts_and_delay(tmp_path: Path, redis_url: str) -> None:
    (tmp_path / "types").mkdir()
    (tmp_path / "types" / "naps.py").write_text(
        "import time\nfrom pydantic import BaseModel\nfrom sytq import task\nclass Nothing(BaseModel): pass\n"
        "@task('nap', payload=Nothing)\ndef nap(ctx, payload):\n    while True: time.sleep(0.05)\n"
    )
    made = Installation(
        tmp_path,
        f"sqlite:///{tmp_path / 'sytq.db'}",
        redis_url,
        SYTQ_PLUGINS__PATHS=json.dumps([str(tmp_path / "types")]),
        WORKER_JOB_TIMEOUT="1s",
        WORKER_RETRY_ATTEMPTS="1",
        WORKER_RETRY_DELAY="100ms",
    )
    try:
        made.start_worker()
        task = made.runtime.submitter.prepare("nap", {})
        made.runtime.submitter.submit([task])
        ended = made.wait_state(task.id, "dead")
        assert (ended.attempts, ended.error) == (2, "timed out after 1 s (failed after 2 attempts)")
    finally:
        made.close()

"""Contracts A, B and E, replayed byte for byte through gunicorn on both databases."""

from __future__ import annotations

import json
import re
import time

import pytest

from sytq.ledger.events import Event
from sytq.ledger.ledger import Ledger
from sytq.ledger.models import Task
from sytq.service.recording import Recording
from tests.installation import Installation

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def post(path: str, body: str) -> bytes:
    data = body.encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost:8080\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + data


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost:8080\r\nConnection: close\r\n\r\n".encode()


def split(reply: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = reply.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return int(first.split()[1]), headers, body


def test_a_record_task_is_accepted_in_contract_a_form(api: Installation) -> None:
    reply = api.raw(post("/api/tasks/llm", '{"table_name": "valuation_records", "id": 123}'))
    status, headers, body = split(reply)
    answer = json.loads(body)
    assert (status, headers["content-type"]) == (200, "application/json")
    assert answer == {
        "code": 200,
        "message": "Success",
        "data": {"task_id": answer["data"]["task_id"], "status": "enqueued"},
    }
    type_name, state, payload = api.stored(answer["data"]["task_id"])
    assert (type_name, state) == ("llm", "queued")
    assert payload == {"table_name": "valuation_records", "id": 123}


@pytest.mark.parametrize("number", [-(2**63), -1, 2**63 - 1])
def test_every_signed_64_bit_id_is_accepted(api: Installation, number: int) -> None:
    reply = api.request("POST", "/api/tasks/llm", {"table_name": "valuation_records", "id": number})
    assert reply.status == 200
    assert api.stored(reply.json["data"]["task_id"])[2]["id"] == number


def test_a_task_is_returned_in_contract_a_form(api: Installation) -> None:
    made = api.request("POST", "/api/tasks/llm", {"table_name": "valuation_records", "id": 5}).json
    task_id = made["data"]["task_id"]
    status, _, body = split(api.raw(get(f"/api/tasks/{task_id}")))
    data = json.loads(body)["data"]
    assert status == 200
    assert json.loads(body)["code"] == 200
    assert {name: data[name] for name in ("task_id", "status", "queue_name", "retry_count")} == {
        "task_id": task_id,
        "status": "pending",
        "queue_name": "llm",
        "retry_count": 0,
    }
    assert isinstance(data["created_at"], int)
    assert abs(data["created_at"] - time.time()) < 60


def test_a_task_is_completed_once_its_result_can_be_read(running: Installation) -> None:
    task = running.submit("plain", "a")
    running.wait_state(task, "succeeded")
    # As before the worker's event is recorded.
    Task.update(state="running", result=None, finished_at=None).where(Task.id == task).execute()
    assert running.runtime.inspection.live([task])[task].state == "succeeded"
    assert running.get(f"/api/tasks/{task}")["data"]["status"] == "active"
    assert running.get(f"/v2/tasks/{task}")["state"] == "running"


@pytest.mark.parametrize("task_id", ["no-such-task", "01a203a6-e3d8-7ecc-a4e5-97dbaeaaab8a", "%00", "%FF", "Ж", "a b"])
def test_an_unknown_task_is_404_in_the_envelope(api: Installation, task_id: str) -> None:
    status, _, body = split(api.raw(get(f"/api/tasks/{task_id.replace(' ', '%20').replace('Ж', '%D0%96')}")))
    assert status == 404
    assert json.loads(body) == {"code": 404, "message": "task not found"}


def test_a_finished_task_is_404_after_its_retention(api: Installation) -> None:
    ids = [
        api.request("POST", "/api/tasks/llm", {"table_name": "valuation_records", "id": row}).json["data"]["task_id"]
        for row in (61, 62)
    ]
    for task_id, finished in zip(ids, ("2020-01-01 00:00:00", time.strftime("%F %T", time.gmtime())), strict=True):
        with api.runtime.database.atomic():
            api.runtime.database.execute_sql(
                f"UPDATE sytq_tasks SET state = 'succeeded', finished_at = '{finished}' WHERE id = '{task_id}'"
            )
    assert api.request("GET", f"/api/tasks/{ids[0]}").status == 404
    recent = api.request("GET", f"/api/tasks/{ids[1]}")
    assert (recent.status, recent.json["data"]["status"]) == (200, "completed")


def test_the_same_row_is_the_same_task_until_its_end(api: Installation) -> None:
    def submit() -> str:
        body = {"table_name": "valuation_records", "id": 71}
        return str(api.request("POST", "/api/tasks/llm", body).json["data"]["task_id"])

    first = submit()
    assert {submit() for _ in range(3)} == {first}
    Recording({}, Ledger(api.runtime.database), None).write([Event(first, "cancelled", 0, 0)])  # type: ignore[arg-type]
    assert submit() != first


def test_tasks_are_listed_with_filters_and_the_real_total(api: Installation) -> None:
    with api.runtime.database.atomic():
        api.runtime.database.execute_sql("DELETE FROM sytq_tasks")
        for number in range(130):
            state = ("queued", "running", "succeeded", "dead", "retrying", "cancelled", "scheduled")[number % 7]
            api.runtime.database.execute_sql(
                "INSERT INTO sytq_tasks (id, type, queue, priority, state, payload, attempts) VALUES "
                f"('00000000-0000-7000-8000-{number:012d}', 'llm', 'q{number % 2}', 'normal', '{state}', '{{}}', 3)"
            )

    def listed(query: str) -> dict[str, object]:
        reply = api.request("GET", f"/api/tasks{query}")
        assert reply.status == 200, reply.body
        data = reply.json["data"]
        assert set(data) == {"tasks", "total_count", "limit", "offset"}
        return dict(data)

    everything = listed("")
    assert (everything["total_count"], everything["limit"], everything["offset"]) == (130, 10, 0)
    assert len(everything["tasks"]) == 10
    assert set(everything["tasks"][0]) == {"task_id", "status", "queue_name", "created_at", "retry_count", "type"}
    assert listed("?status=&queue_name=&limit=&offset=") == everything
    assert len(listed("?limit=100")["tasks"]) == 100
    assert listed("?limit=1000")["limit"] == 100
    assert len(listed("?limit=100&offset=100")["tasks"]) == 30
    assert listed("?queue_name=q1")["total_count"] == 65
    assert listed("?queue_name=nobodys")["total_count"] == 0
    for status, retries in {
        "pending": 2,
        "active": 2,
        "completed": 2,
        "failed": 2,
        "retry": 3,
        "archived": 2,
        "scheduled": 2,
    }.items():
        found = listed(f"?status={status}&limit=100")
        assert found["total_count"] == len(found["tasks"]) >= 18
        assert {(task["status"], task["retry_count"]) for task in found["tasks"]} == {(status, retries)}


def test_a_list_refuses_no_parameter_as_the_go_service(api: Installation) -> None:
    with api.runtime.database.atomic():
        api.runtime.database.execute_sql("DELETE FROM sytq_tasks")
        for number in range(12):
            api.runtime.database.execute_sql(
                "INSERT INTO sytq_tasks (id, type, queue, priority, state, payload, attempts) VALUES "
                f"('00000000-0000-7000-8000-{number:012d}', 'llm', 'llm', 'normal', 'queued', '{{}}', 0)"
            )
    # query -> shown tasks, total_count, limit, offset
    cases = {
        **dict.fromkeys(
            ("status=done", "status=%F0%9F%92%A9", "status=%zz%ff", "status=PENDING", "status=pending%20",
             "status=active&status=pending", "queue_name=%00", "queue_name=%D0%96", "queue_name=" + "q" * 65,
             "queue_name=nobodys&queue_name=llm"),
            (0, 0, 10, 0),
        ),
        **dict.fromkeys(
            ("limit=0", "limit=-1", "limit=ten", "limit=%D9%A3", "limit=1_0", "limit=5.0", "limit=%205", "limit=",
             "limit=&limit=5", "limit=99999999999999999999999", "limit=9223372036854775808", "offset=-1", "offset=x",
             "offset=9223372036854775808", "status=&status=done", "status=pending&status=done", "unknown=1"),
            (10, 12, 10, 0),
        ),
        "limit=5&limit=ten": (5, 12, 5, 0),
        "limit=%2B5": (5, 12, 5, 0),
        "limit=007": (7, 12, 7, 0),
        "limit=101": (12, 12, 100, 0),
        f"limit={2**63 - 1}": (12, 12, 100, 0),
        "offset=8": (4, 12, 10, 8),
        f"offset={2**63 - 1}": (0, 12, 10, 2**63 - 1),
    }  # fmt: skip
    for query, expected in cases.items():
        reply = api.request("GET", f"/api/tasks?{query}")
        assert (reply.status, reply.json["code"]) == (200, 200), query
        data = reply.json["data"]
        assert (len(data["tasks"]), data["total_count"], data["limit"], data["offset"]) == expected, query


def test_queue_name_default_finds_the_valuations_too(api: Installation) -> None:
    with api.runtime.database.atomic():
        api.runtime.database.execute_sql("DELETE FROM sytq_tasks")
    api.request("POST", "/api/tasks/llm", {"table_name": "valuation_records", "id": 7})
    api.request("POST", "/api/v1/tasks/llm", {"prompt": "x"})
    api.request("POST", "/jobs")
    api.request("POST", "/api/v1/tasks", {"url": "http://example.com/"})

    def found(queue: str) -> list[str]:
        data = api.request("GET", f"/api/tasks?queue_name={queue}").json["data"]
        assert data["total_count"] == len(data["tasks"])
        return sorted(task["type"] for task in data["tasks"])

    assert found("default") == ["default", "llm", "llm"]
    assert found("default&status=pending") == ["default", "llm", "llm"]
    assert found("llm") == ["llm", "llm"]


RECORD_BODY = '{"table_name": "valuation_records", "id": 123}'


@pytest.mark.parametrize(
    "body",
    [
        '{"Table_Name": "valuation_records", "ID": 123}',
        '{"TABLE_NAME": "valuation_records", "iD": 123}',
        '{"table_name": "x", "id": 5, "table_name": "valuation_records", "id": 123}',
        '{"id": 123, "ID": 5, "table_name": "valuation_records"}',
        '{"Id": 5, "ID": 123, "table_name": "valuation_records"}',
        RECORD_BODY + RECORD_BODY.replace("123", "5"),
        RECORD_BODY + " and what follows",
        "\r\n\t " + RECORD_BODY,
        '{"table_name": "valuation_records", "id": 123, "x": [{"y": null}], "z": 1e400, "n": %s}' % ("9" * 5000),
        '{"table_name": "valuation_records", "id": 123, "deep": %s}' % ("[" * 90 + "]" * 90),
        '{"table_name": "valuation_records", "id": 123, "half": "\\ud800"}',
        b'{"table_name": "valuation_records", "id": 123, "x": "\xff\xed\xa0\x80", "\xfe": 1}',
    ],
)
def test_a_record_task_is_read_as_go_reads_json(api: Installation, body: str | bytes) -> None:
    reply = api.request("POST", "/api/tasks/llm", body)
    assert reply.status == 200, reply.body
    assert api.stored(reply.json["data"]["task_id"])[2] == {"table_name": "valuation_records", "id": 123}


@pytest.mark.parametrize("path", ["/api/tasks/llm", "/api/v1/tasks/llm", "/api/v1/tasks", "/jobs"])
@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "multipart/form-data; boundary=x", "x", "", "application/xml", "application/json; charset=gbk",
     "application/x-www-form-urlencoded", "application/octet-stream", "application/json, text/html"],
)  # fmt: skip
def test_content_type_is_ignored_on_the_old_paths(api: Installation, path: str, content_type: str) -> None:
    body = b'{"table_name": "valuation_records", "id": 9, "prompt": "x", "url": "http://example.com/"}'
    assert api.request("POST", path, body, {"Content-Type": content_type}).status in (200, 202)


def test_prompt_request_and_job_are_read_as_go_reads_json(api: Installation) -> None:
    answer = api.request(
        "POST",
        "/api/v1/tasks/llm",
        b'{"Prompt": "a\xff\\ud83d!", "SYSTEM": "\xe2\x82", "Model": "m", "CallBack_URL": "http://example.com/"}!',
    ).json
    payload = api.stored(answer["task_id"])[2]
    assert payload["model"] == "m"
    [row] = api.rows(
        f"SELECT user_message, sys_message, callback_url FROM valuation_records WHERE id = {payload['id']}"
    )
    assert row == ("a\ufffd\ufffd!", "\ufffd\ufffd", "http://example.com/")

    body = b'{"URL": "http://example.com/", "Method": "PUT", "HEADERS": {"X-Case": "Kept"}, "Body": "\xff", "a": 1}'
    answer = api.request("POST", "/api/v1/tasks", body).json
    assert api.stored(answer["task_id"])[2] == {
        "url": "http://example.com/",
        "method": "PUT",
        "headers": {"X-Case": "Kept"},
        "body": "\ufffd",
    }

    answer = api.request("POST", "/jobs?type=cleanup", b'{"Dry_Run": true}').json
    assert api.stored(answer["job_id"])[2] == {"dry_run": True}
    answer = api.request("POST", "/jobs", b'{"Free": "\xff", "n": 1, "n": 2}{').json
    assert api.stored(answer["job_id"])[2] == {"Free": "\ufffd", "n": 2}


def test_a_prompt_becomes_a_row_and_a_task_in_contract_b_form(api: Installation) -> None:
    request = (
        '{"prompt": "值多少? \\ud83d\\ude00", "model": "deepseek-chat", "callback_url": "http://example.com/done"}'
    )
    status, _, body = split(api.raw(post("/api/v1/tasks/llm", request)))
    answer = json.loads(body)
    assert status == 200
    assert answer == {"task_id": answer["task_id"], "status": "enqueued"}
    payload = api.stored(answer["task_id"])[2]
    assert payload == {"table_name": "valuation_records", "id": payload["id"], "model": "deepseek-chat"}
    assert payload["id"] < 0
    [row] = api.rows(
        "SELECT status, user_message, sys_message, callback_url, failed_times, current_task_node,"
        f" report, failed_info, progress, progress_info FROM valuation_records WHERE id = {payload['id']}"
    )
    # '' where there is nothing: the Go service cannot read NULL.
    assert row == ("pending", "值多少? 😀", "", "http://example.com/done", 0, 0, "", "", "", "")


def test_only_the_prompt_is_required(api: Installation) -> None:
    reply = api.request(
        "POST", "/api/v1/tasks/llm", {"prompt": "x", "system": "be brief", "model": None, "callback_url": ""}
    )
    assert reply.status == 200
    payload = api.stored(reply.json["task_id"])[2]
    assert set(payload) == {"table_name", "id"}
    [row] = api.rows(f"SELECT sys_message, callback_url FROM valuation_records WHERE id = {payload['id']}")
    assert row == ("be brief", "")


def test_an_http_request_is_accepted_in_contract_e_form(api: Installation) -> None:
    request = '{"url": "https://example.com/hook", "method": "PUT", "headers": {"X-A": "b"}, "body": "{\\"n\\":1}"}'
    status, headers, body = split(api.raw(post("/api/v1/tasks", request)))
    answer = json.loads(body)
    assert (status, headers["content-type"]) == (200, "application/json")
    assert answer == {"task_id": answer["task_id"], "message": "Task created successfully"}
    assert UUID.fullmatch(answer["task_id"])
    type_name, _, payload = api.stored(answer["task_id"])
    assert type_name == "webhook"
    assert payload == json.loads(request)


def test_only_the_url_is_required_and_unknown_fields_are_ignored(api: Installation) -> None:
    reply = api.request("POST", "/api/v1/tasks", {"url": "http://example.com/", "method": None, "retries": 3})
    assert reply.status == 200
    assert api.stored(reply.json["task_id"])[2] == {"url": "http://example.com/"}


def test_null_headers_of_a_request_are_empty_as_in_go(api: Installation) -> None:
    own = {"url": "http://example.com/", "headers": {"X-Token": None, "X-Case": "Kept"}}
    reply = api.request("POST", "/api/v1/tasks", own)
    assert api.stored(reply.json["task_id"])[2]["headers"] == {"X-Token": "", "X-Case": "Kept"}


@pytest.mark.parametrize("start", ["http://localhost:8080", "HTTPS://sytq.example", "http://[::1]"])
def test_a_target_with_scheme_and_host_is_accepted(api: Installation, start: str) -> None:
    """PHP sends it with `request_fulluri`, as do clients that are told of a proxy."""
    reply = api.raw(post(f"{start}/api/tasks/llm?a=/b", '{"table_name": "valuation_records", "id": 31}'))
    assert split(reply)[0] == 200, reply
    assert split(api.raw(get(f"{start}/health")))[0] == 200
    status, _, body = split(api.raw(get(start)))
    assert (status, json.loads(body)) == (404, {"error": "no such endpoint"})


def test_retry_and_ordering_key_of_a_request_are_applied(api: Installation) -> None:
    own = {"url": "http://example.com/", "retry": {"max_attempts": 3, "first": "1m"}, "ordering_key": "order-7"}
    reply = api.request("POST", "/api/v1/tasks", own)
    assert api.stored(reply.json["task_id"])[2] == own | {"retry": {"max_attempts": 3, "first": "1m0s"}}
    [row] = api.rows(f"SELECT host, ordering_key, max_attempts FROM sytq_tasks WHERE id = '{reply.json['task_id']}'")
    assert row == ("example.com", "webhook::order-7", 3)
    refused = api.request("POST", "/api/v1/tasks", own | {"retry": {"first": "0s"}})
    assert refused.status == 400 and "retry.first" in str(refused.json)
    ignored = api.request("POST", "/api/v1/tasks", {"url": "http://example.com/", "retry": 3, "ordering_key": 7})
    assert api.stored(ignored.json["task_id"])[2] == {"url": "http://example.com/"}


def test_the_log_has_task_id_and_request_id_of_a_submission(api: Installation) -> None:
    reply = api.request(
        "POST", "/api/v1/tasks", {"url": "http://example.com/?secret=1"}, {"X-Request-Id": "caller-7/a=b"}
    )
    assert reply.headers["x-request-id"] == "caller-7/a=b"
    lines = [json.loads(line) for line in api.gunicorn.text().splitlines()]
    [line] = [line for line in lines if line.get("task_id") == reply.json["task_id"]]
    assert line["msg"] == "Task enqueued successfully"
    assert line["request_id"] == "caller-7/a=b"
    assert "secret=1" not in api.gunicorn.text()


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "é", '{"a":1}'])
def test_an_invalid_request_id_is_replaced(api: Installation, given: str) -> None:
    reply = api.request("GET", "/health", headers={"X-Request-Id": given})
    assert re.fullmatch(r"[0-9a-f]{32}", reply.headers["x-request-id"])


def test_a_trailing_slash_is_ignored(api: Installation) -> None:
    assert api.request("GET", "/api/tasks/").status == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "answer"),
    [
        ("GET", "/", 404, {"error": "no such endpoint"}),
        ("GET", "/api/nothing", 404, {"code": 404, "message": "no such endpoint"}),
        ("GET", "/api/v1/nothing", 404, {"error": "no such endpoint"}),
        ("GET", "/api/tasks/llm", 405, {"code": 405, "message": "method not allowed"}),
        ("DELETE", "/api/tasks", 405, {"code": 405, "message": "method not allowed"}),
        ("GET", "/api/v1/tasks", 405, {"error": "method not allowed"}),
        ("POST", "/health", 405, {"error": "method not allowed"}),
    ],
)
def test_unknown_paths_and_methods_are_json(
    api: Installation, method: str, path: str, status: int, answer: dict[str, object]
) -> None:
    reply = api.request(method, path)
    assert (reply.status, reply.json, reply.headers["content-type"]) == (status, answer, "application/json")
    if status == 405:
        assert reply.headers["allow"]


def test_keep_alive_and_pipelining_work(api: Installation) -> None:
    one = post("/api/v1/tasks", '{"url": "http://example.com/"}').replace(b"Connection: close\r\n", b"")
    reply = api.raw(one + one + get("/health"))
    assert reply.count(b"HTTP/1.1 200 OK") == 3
    assert len(set(UUID.findall(reply.decode()))) == 2

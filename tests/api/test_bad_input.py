"""P7: bad input gets a 4xx that names the error, in the form of its contract, and never a 5xx."""

from __future__ import annotations

import json
import socket

import pytest

from tests.installation import Installation, Reply

RECORD, PROMPT, WEBHOOK, JOB = OLD = ("/api/tasks/llm", "/api/v1/tasks/llm", "/api/v1/tasks", "/jobs")
NATIVE = ("/v2/tasks", "/v2/tasks/batch", "/v2/operations", "/v2/tasks/01a203a6-e3d8-7ecc-a4e5-97dbaeaaab8a/cancel")


@pytest.fixture(scope="module", autouse=True)
def nothing_is_our_fault(api: Installation) -> object:
    before = len(api.gunicorn.text())
    yield
    logged = api.gunicorn.text()[before:]
    assert "Traceback" not in logged
    assert '"level":"error"' not in logged.replace(" ", "")


def refused(api: Installation, path: str, body: bytes, headers: dict[str, str] | None = None) -> tuple[Reply, str]:
    before = api.rows("SELECT COUNT(*) FROM sytq_tasks")
    reply = api.request("POST", path, body, {"Content-Type": "application/json"} | (headers or {}))
    assert 400 <= reply.status < 500, reply
    assert api.rows("SELECT COUNT(*) FROM sytq_tasks") == before
    if path in NATIVE:
        assert reply.headers["content-type"] == "application/problem+json"
        assert {"type", "title", "status", "detail", "request_id"} <= set(reply.json)
        assert (reply.json["status"], reply.json["request_id"]) == (reply.status, reply.headers["x-request-id"])
        return reply, reply.json["detail"]
    assert reply.headers["content-type"] == "application/json"
    if path == RECORD:
        assert set(reply.json) == {"code", "message"}
        assert reply.json["code"] == reply.status
        return reply, reply.json["message"]
    assert set(reply.json) == {"error"}
    return reply, reply.json["error"]


@pytest.mark.parametrize("path", [*OLD, *NATIVE])
@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"   ", "body: empty"),
        (b"{", "body: not JSON"),
        (b'{"a": 1,}', "body: not JSON"),
        (b"{'a': 1}", "body: not JSON"),
        (b"\xef\xbb\xbf{}", "body: not JSON"),
        (b"null", "a JSON object"),
        (b"[]", "a JSON object"),
        (b'"x"', "a JSON object"),
        (b"17", "a JSON object"),
        (b'{"id": NaN}', "NaN"),
        (b'{"id": -Infinity}', "-Infinity"),
        (b'{"a": "\x00"}', "body: not JSON"),
        (b"[" * 500_000, "nested"),
    ],
)
def test_a_body_that_is_not_an_object_is_400(api: Installation, path: str, body: bytes, says: str) -> None:
    reply, message = refused(api, path, body)
    assert reply.status == 400
    assert says in message


@pytest.mark.parametrize("path", NATIVE)
@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"a": 1} x', "body: not JSON"),
        (b'{"id": ' + b"9" * 5000 + b"}", "body: not JSON: a number is too long"),
        (b'{"payload": {"n": 1e400}}', "body: the number '1e400' is too large"),
        (b'{"metadata": {"n": [-1.5E+999]}}', "body: the number '-1.5E+999' is too large"),
        (b'{"a": 1, "a": 2}', "a: the key occurs twice"),
        (b'{"x": {"b": 1, "b": 2}}', "b: the key occurs twice"),
        (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", "a: nested deeper than 64"),
        (b'{"a": ' * 150_000, "nested deeper"),
        (b'{"note": "\\ud83d"}', "note: contains half of a surrogate pair"),
        (b'{"x": [{"y": "\\udc00"}]}', "x.y: contains half of a surrogate pair"),
        (b'{"\\ud800": 1}', "surrogate"),
        (b'{"a": "\xff"}', "body: not UTF-8 at byte 7"),
        (b'{"a": "\xed\xa0\x80"}', "body: not UTF-8"),
        ('{"a": "é"}'.encode("utf-16"), "body: not UTF-8"),
    ],
)
def test_v2_is_strict_where_the_old_paths_are_not(api: Installation, path: str, body: bytes, says: str) -> None:
    reply, message = refused(api, path, body)
    assert reply.status == 400
    assert says in message


@pytest.mark.parametrize("path", [RECORD, PROMPT, WEBHOOK, "/v2/tasks", "/v2/operations"])
def test_a_missing_body_is_400(api: Installation, path: str) -> None:
    reply, message = refused(api, path, b"")
    assert reply.status == 400 and "body: empty" in message


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ('{"id": 1}', "table_name: required"),
        ('{"table_name": null, "id": 1}', "table_name: required"),
        ('{"table_name": "", "id": 1}', "table_name: must not be empty"),
        ('{"table_name": 7, "id": 1}', "table_name: must be a string, not a number"),
        ('{"table_name": ["valuation_records"], "id": 1}', "table_name: must be a string, not an array"),
        ('{"table_name": "sytq_tasks", "id": 1}', "valid: valuation_records"),
        ('{"table_name": "Valuation_Records", "id": 1}', "table_name:"),
        ('{"table_name": "valuation_records; DROP TABLE x", "id": 1}', "table_name:"),
        ('{"table_name": "valuation_records\\u0000", "id": 1}', "table_name: must not contain NUL"),
        ('{"table_name": "valuation_records"}', "id: required"),
        ('{"table_name": "valuation_records", "id": null}', "id: required"),
        ('{"table_name": "valuation_records", "id": 0}', "id: must be a signed 64 bit integer and not 0"),
        ('{"table_name": "valuation_records", "id": -0}', "id: "),
        ('{"table_name": "valuation_records", "id": "1"}', "id: must be an integer, not a string"),
        ('{"table_name": "valuation_records", "id": true}', "id: must be an integer, not a boolean"),
        ('{"table_name": "valuation_records", "id": 1.0}', "id: must be an integer, not a number with a fraction"),
        ('{"table_name": "valuation_records", "id": 1e3}', "id: must be an integer"),
        ('{"table_name": "valuation_records", "id": 1e999}', "id: must be an integer"),
        ('{"table_name": "valuation_records", "id": %s}' % ("9" * 5000), "id: must be an integer"),
        ('{"table_name": "valuation_records", "id": "7", "ID": 7}', "id: must be an integer, not a string"),
        ('{"table_name": "valuation_records", "id": {}}', "id: must be an integer, not an object"),
        ('{"table_name": "valuation_records", "id": 9223372036854775808}', "id: must be a signed 64 bit"),
        ('{"table_name": "valuation_records", "id": -9223372036854775809}', "id: must be a signed 64 bit"),
    ],
)
def test_a_bad_record_task_is_400_and_names_the_field(api: Installation, fields: str, says: str) -> None:
    reply, message = refused(api, RECORD, fields.encode())
    assert reply.status == 400
    assert says in message


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ("{}", "prompt: required"),
        ('{"prompt": null}', "prompt: required"),
        ('{"prompt": ""}', "prompt: must not be empty"),
        ('{"prompt": " \\n "}', "prompt: must not be empty"),
        ('{"prompt": 1}', "prompt: must be a string"),
        ('{"prompt": "a\\u0000b"}', "prompt: must not contain NUL"),
        ('{"prompt": "x", "system": false}', "system: must be a string, not a boolean"),
        ('{"prompt": "x", "model": 3}', "model: must be a string"),
        ('{"prompt": "x", "model": "%s"}' % ("m" * 201), "model: longer than 200"),
        ('{"prompt": "x", "callback_url": "http://example.com/%s"}' % ("c" * 255), "callback_url: longer than 255"),
        ('{"prompt": "x", "callback_url": "ftp://example.com"}', "callback_url: the URL must start with"),
        ('{"prompt": "x", "callback_url": "http://127.0.0.1:1"}', "callback_url: 127.0.0.1 is not a public address"),
        ('{"prompt": "x", "callback_url": "http://[::ffff:10.0.0.1]/"}', "callback_url: "),
        ('{"prompt": "x", "callback_url": "http://169.254.169.254/latest"}', "callback_url: "),
        ('{"prompt": "x", "callback_url": "http://localhost/"}', "callback_url: "),
        ('{"prompt": "x", "callback_url": "http://u:p@example.com/"}', "callback_url: "),
    ],
)
def test_a_bad_prompt_task_is_400_and_names_the_field(api: Installation, fields: str, says: str) -> None:
    rows = api.rows("SELECT COUNT(*) FROM valuation_records")
    reply, message = refused(api, PROMPT, fields.encode())
    assert reply.status == 400
    assert says in message
    assert api.rows("SELECT COUNT(*) FROM valuation_records") == rows


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ("{}", "url: "),
        ('{"url": null}', "url: "),
        ('{"url": ""}', "url: "),
        ('{"url": 5}', "url: "),
        ('{"url": "example.com"}', "url: "),
        ('{"url": "file:///etc/passwd"}', "url: "),
        ('{"url": "http://10.1.2.3/"}', "url: 10.1.2.3 is not a public address"),
        ('{"url": "http://2130706433/"}', "url: "),
        ('{"url": "http://exa mple.com/"}', "url: "),
        ('{"url": "http://example.com/", "method": "BREW"}', "method: "),
        ('{"url": "http://example.com/", "method": 1}', "method: "),
        ('{"url": "http://example.com/", "headers": []}', "headers: "),
        ('{"url": "http://example.com/", "headers": {"A": 1}}', "headers.A: "),
        ('{"url": "http://example.com/", "headers": {"A": "b\\r\\nC: d"}}', "headers: "),
        ('{"url": "http://example.com/", "headers": {"A B": "c"}}', "headers: "),
        ('{"url": "http://example.com/", "body": {"a": 1}}', "body: "),
    ],
)
def test_a_bad_http_request_task_is_400_and_names_the_field(api: Installation, fields: str, says: str) -> None:
    reply, message = refused(api, WEBHOOK, fields.encode())
    assert reply.status == 400
    assert says in message


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "multipart/form-data; boundary=x", "x", "application/xml",
     "application/json; charset=latin-1"],
)  # fmt: skip
def test_another_content_type_is_415_under_v2(api: Installation, content_type: str) -> None:
    for path in NATIVE:
        reply, message = refused(api, path, b"{}", {"Content-Type": content_type})
        assert reply.status == 415
        assert "Content-Type" in message


def test_unusual_json_values_are_stored_unchanged(api: Installation) -> None:
    odd = {"n": 2**63, "m": -(2**200), "x": 1e308, "nul": "a\u0000b", "emoji": "\U0001f600", "": [[]], "\u0000": None}
    reply = api.request("POST", "/v2/tasks", {"type": "default", "payload": odd, "metadata": odd})
    assert reply.status == 202, reply
    shown = api.request("GET", reply.headers["location"]).json
    assert shown["payload"] == shown["metadata"] == odd


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "Application/JSON; charset=UTF-8", 'application/json;charset="utf-8"', "application/x+json",
     "application/x-www-form-urlencoded"],  # the default of PHP's curl
)  # fmt: skip
def test_every_json_content_type_is_accepted_under_v2(api: Installation, content_type: str) -> None:
    assert api.request("POST", "/v2/tasks", b'{"type": "default"}', {"Content-Type": content_type}).status == 202


def test_a_missing_content_type_is_json(api: Installation) -> None:
    body = b'{"table_name":"valuation_records","id":1}'
    head = f"POST {RECORD} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    assert b" 200 OK" in api.raw(head.encode() + body)


def test_a_chunked_body_without_length_is_accepted(api: Installation) -> None:
    head = f"POST {RECORD} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    chunks = b'10\r\n{"table_name":"v\r\n19\r\naluation_records","id":1}\r\n0\r\n\r\n'
    assert b" 200 OK" in api.raw(head.encode() + chunks)


def test_a_body_of_exactly_the_limit_is_accepted(api: Installation) -> None:
    body = b'{"url": "http://example.com/", "body": "%s"}'
    body = body % (b"x" * (1024 * 1024 - len(body) + 2))
    assert len(body) == 1024 * 1024
    assert api.request("POST", WEBHOOK, body, {"Content-Type": "application/json"}).status == 200


@pytest.mark.parametrize("path", [RECORD, PROMPT, WEBHOOK, JOB, *NATIVE])
def test_a_body_over_the_limit_is_413(api: Installation, path: str) -> None:
    reply, message = refused(api, path, b'{"a": "' + b"x" * 1024 * 1024 + b'"}')
    assert reply.status == 413
    assert "1048576" in message


def test_a_chunked_body_over_the_limit_is_413(api: Installation) -> None:
    head = f"POST {WEBHOOK} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    reply = api.raw(head.encode() + (b"10000\r\n" + b"x" * 0x10000 + b"\r\n") * 20 + b"0\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 413 ")
    assert json.loads(reply.partition(b"\r\n\r\n")[2])["error"].startswith("body: ")


def test_expect_continue_with_too_large_a_body_is_413_at_once(api: Installation) -> None:
    head = f"POST {WEBHOOK} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n"
    reply = api.raw(head.encode())
    assert reply.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\xff?\xff=\xff HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(200)) + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20000 + b"\r\n\r\n",
        b"BREW /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /api/tasks/%e0%a4%a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /api/tasks?\xc3\xa9=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ],
)
def test_malformed_http_is_4xx(api: Installation, data: bytes) -> None:
    assert api.raw(data).split(b" ")[1][:1] == b"4"


def test_a_disconnect_during_a_request_leaves_the_api_healthy(api: Installation) -> None:
    for part in (b"POST /api/v1/tasks HT", b"POST /api/v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{"):
        with socket.create_connection(("127.0.0.1", api.port)) as connection:
            connection.sendall(part)
    assert api.request("GET", "/health").status == 200

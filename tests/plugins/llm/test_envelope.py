"""A provider's words are read out of every envelope in which providers and gateways report errors."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sytq_plugins.llm.envelope import error_in, error_in_body, read_error

#: name -> body, the provider's words, codes that are read
ENVELOPES: dict[str, tuple[Any, str, set[str]]] = {
    "OpenAI": ({"error": {"message": "slow down", "type": "tokens", "code": "rate_limit_exceeded"}}, "slow down",
               {"tokens", "rate_limit_exceeded"}),
    "text": ({"error": "model is loading"}, "model is loading", set()),
    "Anthropic": ({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "Overloaded",
                  {"error", "overloaded_error"}),
    "DashScope": ({"code": "Arrearage", "message": "Access denied, account is in arrears", "request_id": "x"},
                  "Access denied, account is in arrears", {"arrearage"}),
    "Baidu": ({"error_code": 336501, "error_msg": "qps limit", "id": "as-1"}, "qps limit", {"336501"}),
    "MiniMax": ({"choices": None, "base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}},
                "insufficient balance", {"1008"}),
    "Spark": ({"code": 10013, "message": "audit not passed", "sid": "cht-1"}, "audit not passed", {"10013"}),
    "Cloudflare": ({"success": False, "errors": [{"code": 3040, "message": "capacity exceeded"}], "result": None},
                   "capacity exceeded", {"3040"}),
    "vLLM": ({"object": "error", "message": "engine is dead", "code": 400}, "engine is dead", {"400"}),
    "an API gateway": ({"statusCode": 429, "message": "Rate limit is exceeded."}, "Rate limit is exceeded.", {"429"}),
    "Apigee": ({"fault": {"faultstring": "quota violation", "detail": {"errorcode": "q.QuotaViolation"}}},
               "quota violation", set()),
    "Tencent": ({"Response": {"Error": {"Code": "LimitExceeded", "Message": "busy"}, "RequestId": "x"}}, "busy",
                {"limitexceeded"}),
    "a response in an event": ({"type": "response.failed", "response": {"error": {"code": "server_error",
                               "message": "died"}}}, "died", {"server_error"}),
    "another wrapper": ({"data": {"err": "no worker"}, "ok": True}, "no worker", set()),
    "RFC 9457": ({"title": "Too Many Requests", "status": 429, "detail": "wait a minute"}, "wait a minute", {"429"}),
    "an error in an error": ({"error": {"error": {"message": "inner", "code": 500}}}, "inner", {"500"}),
    "JSON in a message": ({"error": {"message": '{"error": {"message": "deep", "code": "quota"}}'}}, "deep", {"quota"}),
    "a router's, with the words behind it": (
        {"error": {"message": "Provider returned error", "code": 429, "metadata": {"raw": '{"detail": "busy"}'}}},
        "Provider returned error: busy", {"429"}),
    "a flag beside the words": ({"error": True, "message": "out of memory"}, "out of memory", set()),
    "a code alone": ({"error": {"code": "server_busy"}}, "server_busy", {"server_busy"}),
    "Groq's, in a chunk": ({"choices": [{"index": 0, "delta": {}}], "x_groq": {"error": "over capacity"}},
                           "over capacity", set()),
    "OpenRouter's, in a choice": ({"choices": [{"delta": {}, "error": {"code": 502, "message": "upstream died"}}]},
                                  "upstream died", {"502"}),
    "OpenRouter's, beside no choices": ({"id": "g", "choices": [], "error": {"code": 502, "message": "no capacity"}},
                                        "no capacity", {"502"}),
}  # fmt: skip


@pytest.mark.parametrize("name", ENVELOPES)
def test_error_with_status_200_is_found_with_its_words_and_codes(name: str) -> None:
    body, words, codes = ENVELOPES[name]
    found = error_in(body)
    assert found is not None
    assert found.words == words
    assert codes <= found.codes


@pytest.mark.parametrize(
    "event",
    [
        {"choices": [{"delta": {"content": "a"}}], "code": 0, "message": "Success", "sid": "cht-1"},  # Spark
        {"choices": [{"delta": {"content": "a"}}], "base_resp": {"status_code": 0, "status_msg": ""}},  # MiniMax
        {"choices": [{"message": {"content": "a"}}], "error": {"message": "", "type": "", "param": "", "code": None}},
        {"choices": [{"message": {"content": "a"}}], "error": None, "errors": [], "success": True},
        {"choices": [], "usage": {"total_tokens": 1}, "code": None},
        {"type": "ping"},
        {"status": "searching", "message": "looking for sources"},
        {"code": 200, "message": "ok", "success": True},
    ],
)
def test_answer_or_notice_is_no_error(event: dict[str, Any]) -> None:
    assert error_in(event) is None


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'[{"error": {"code": 429, "message": "Resource exhausted", "status": "RESOURCE_EXHAUSTED"}}]',
         "Resource exhausted"),  # Gemini
        (b'{"detail": [{"loc": ["body", "model"], "msg": "Field required", "type": "missing"}]}', "Field required"),
        (b'{"message": "no Route matched with those values"}', "no Route matched with those values"),
        (b"upstream connect error, reset before headers\n", "upstream connect error, reset before headers"),
        (b'{"Response": {"Error": {"Code": "AuthFailure", "Message": "no such key"}}}', "no such key"),  # Tencent
        (b"<html>Bad gateway</html>", None),
        (b'{"error": ', None),
        (b"", None),
        (b"{}", None),
    ],
)  # fmt: skip
def test_body_of_a_refusal_is_read_whatever_it_is(body: bytes, words: str | None) -> None:
    found = error_in_body(body)
    assert (found.words if found else None) == words


def test_status_that_a_body_names_is_read() -> None:
    for body, status in (({"error": {"code": 429}}, 429), ({"statusCode": "503"}, 503), ({"code": 10013}, None)):
        found = read_error(body)
        assert found is not None
        assert found.status == status


def test_endless_nesting_ends() -> None:
    nested: Any = "words"
    for _ in range(100):
        nested = {"error": nested}
    assert read_error(nested) is None
    text = "words"
    for _ in range(10):
        text = json.dumps({"error": text})
    assert read_error(json.loads(text)) is not None

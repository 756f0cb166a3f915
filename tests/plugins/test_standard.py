"""The standard tests, applied to built-in types as any plugin would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sytq.testing import FakeHttp, Harness, Reply, TypeSuite


class TestDefault(TypeSuite):
    type = "default"
    payload: ClassVar[Any] = {"a": [1, None, "é"], "b": {}}


class TestWebhook(TypeSuite):
    type = "webhook"
    payload: ClassVar[Any] = {
        "url": "https://example.com/hook?key=url-key-1234",
        "headers": {"Authorization": "Bearer tok-5678"},
        "body": '{"card": "4111-1111"}',
    }
    failures = (*TypeSuite.failures, (404, "retrying"), (302, "retrying"), (Reply(429), "retrying"))
    secrets = ("url-key-1234", "tok-5678", "whsec_", "hush-9012")
    settings: ClassVar[Any] = {"webhook": {"secret": "whsec_aHVzaC05MDEyLWh1c2gtOTAxMi1odXNoLTkwMTI="}}

    def fake_http(self, http: FakeHttp) -> None:
        http.answer(self.payload["url"], 204)


class TestHttpType(TypeSuite):
    type = "notify"
    config: ClassVar[Any] = {
        "http": {"url": "https://example.com/{room}", "headers": {"Authorization": "Bearer tok-5678"}},
        "payload": {"room": "text"},
    }
    payload: ClassVar[Any] = {"room": "a/b"}
    failures = (*TypeSuite.failures, (404, "dead"), (500, "retrying"))
    secrets = ("tok-5678",)

    def fake_http(self, http: FakeHttp) -> None:
        http.answer("https://example.com/a%2Fb", Reply(json={"ok": True}))


class TestCommandType(TypeSuite):
    type = "greet"
    config: ClassVar[Any] = {"command": ["printf", "hello %s", "{name}"], "payload": {"name": "text"}}
    payload: ClassVar[Any] = {"name": "Ada"}


class TestReport(TypeSuite):
    type = "report"
    payload: ClassVar[Any] = {"until": "2026-07-02T00:00:00Z", "email": ["a@example.com"]}

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(type(self), "config", {"folder": str(tmp_path)})
        email = {"types": {"email": {"host": "127.0.0.1", "sender": "a@example.org"}}}
        monkeypatch.setattr(type(self), "settings", email)

    def same(self, first: Any, second: Any) -> bool:
        return json.dumps(first)[:50] == json.dumps(second)[:50]


class WithRow(Harness):
    """A harness with a row for the task."""

    def __enter__(self) -> Harness:
        entered = super().__enter__()
        insert = "INSERT INTO valuation_records (id, status, user_message, callback_url) VALUES (1, 'pending', ?, ?)"
        with self.runtime.database.connection_context():
            self.runtime.database.execute_sql(
                insert, ("What is my house at 1 Elm Street, Springfield worth?", "https://example.com/done")
            )
        return entered


class TestLlm(TypeSuite):
    type = "llm"
    payload: ClassVar[Any] = {"table_name": "valuation_records", "id": 1}
    settings: ClassVar[Any] = {
        "providers": {
            "one": {"base_url": "https://llm.example.com/v1", "api_key": "sk-3456", "model": "m", "stream": False}
        }
    }
    failures = (*TypeSuite.failures, (400, "dead"), (200, "retrying"))
    secrets = ("sk-3456", "my house at 1 Elm Street, Springfield")

    def harness(self) -> Harness:
        return WithRow(self.type, settings=self.settings)

    def fake_http(self, http: FakeHttp) -> None:
        answer = {"choices": [{"message": {"content": "Much."}, "finish_reason": "stop"}], "usage": {"total_tokens": 9}}
        http.answer("https://llm.example.com/v1/chat/completions", Reply(json=answer))

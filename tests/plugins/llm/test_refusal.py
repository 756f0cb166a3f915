"""Refusals in the words of providers and gateways (refusals.yaml), by what a person has to do about each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from sytq_plugins.llm.answer import Answer, ChatError
from sytq_plugins.llm.envelope import error_in_body

MODEL = "qwen-plus"
FILE = Path(__file__).with_name("refusals.yaml")
REFUSALS = [
    pytest.param(kind, status, body, id=f"{kind}: {who}")
    for kind, refusals in yaml.safe_load(FILE.read_text(encoding="utf-8")).items()
    for who, status, body in refusals
]


@pytest.mark.parametrize(("kind", "status", "body"), REFUSALS)
def test_refusal_is_read_as_what_a_person_has_to_do(kind: str, status: int, body: str) -> None:
    answer = Answer(MODEL, "sk-key", ["a prompt"])
    if status == 200:
        with pytest.raises(ChatError) as caught:
            answer.take(json.loads(body))
        assert caught.value.kind == kind
        return
    error = error_in_body(body.encode())
    words = answer.say(error.words) if error is not None else ""
    assert answer.classify(status, error, words) == kind, words


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("Invalid content: the balance is insufficient for this house", "rejected"),
        ("Invalid content: 欠费通知", "rejected"),
        ("Invalid content: 欠费通知. Your account has arrears", "no_credit"),
    ],
)
def test_words_of_the_prompt_pause_no_provider(words: str, kind: str) -> None:
    answer = Answer(MODEL, "sk-key", ["Value this: the balance is insufficient for this house of 欠费通知"])
    error = error_in_body(json.dumps({"error": {"message": words}}).encode())
    assert error is not None
    assert answer.classify(400, error, answer.say(error.words)) == kind

"""Errors of tasks are explained, and each explanation names a heading of the docs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sytq_plugins.llm.explanations import EXPLANATIONS as OF_LLM
from sytq_plugins.llm.explanations import HAPPENED
from sytq_plugins.llm.policy import POLICIES
from sytq_plugins.webhook.explanations import EXPLANATIONS as OF_WEBHOOK

from sytq import Plugin
from sytq.service.explanations import EXPLANATIONS, explanation
from tests.docs.test_links import anchors

DOCS = Path(__file__).parents[2] / "docs"
PLUGINS = [Plugin("llm", explanations=OF_LLM), Plugin("webhook", explanations=OF_WEBHOOK)]


@pytest.mark.parametrize("docs", sorted({each.docs for each in (*EXPLANATIONS, *OF_LLM, *OF_WEBHOOK)}))
def test_heading_that_an_explanation_names_exists(docs: str) -> None:
    page, _, anchor = docs.partition("#")
    assert anchor in anchors(DOCS / page)


def test_every_failure_of_a_call_has_the_row_of_the_docs() -> None:
    text = (DOCS / "llm.md").read_text("utf-8")
    table = re.findall(r"^\| `([a-z_]+)` \| (.*?) \| \d \| (?:yes|no) \| .*? \| \w+ \|$", text, re.MULTILINE)
    assert dict(table) == dict(HAPPENED)
    assert HAPPENED.keys() == POLICIES.keys()


@pytest.mark.parametrize(
    ("error", "docs"),
    [
        ("deepseek: HTTP 402 [no_credit]: pay, or raise the limit at the provider", "llm.md#failures"),
        ("the budget of provider deepseek for 2026-11-29 (UTC) has no room: $9 of $10 is spent", "llm.md#spend"),
        ("waiting for provider:deepseek: 50 of 50 run, 12 ahead", "runbook.md#a-provider-is-paused"),
        ("waiting for host:example.org:443: paused", "webhooks.md#limits-per-host"),
        ("waiting for mail:a: 1 of 1 run", "limiters.md#waiting"),
        ("waiting for its turn: 3 before it", "webhooks.md#order"),
        ("HTTP 410 from example.org: it is gone for good", "webhooks.md#retries"),
        ("HTTP 301 from example.org: redirects are not followed", "webhooks.md#retries"),
        ("10.0.0.7 answered 'SSH-2.0' and no final HTTP status", "webhooks.md#answers-as-they-are"),
        ("connection refused by example.org", "webhooks.md#retries"),
        ("timed out after 10 s", "plugins.md#the-policy"),
        ("RedisUnavailable: Redis does not answer", "runbook.md#redis-is-down"),
        ("DatabaseUnavailable: gone away", "runbook.md#the-database-is-down"),
        (
            "the worker died each of the 3 times that this task ran alone",
            "runbook.md#a-task-kills-its-worker",
        ),
        ("not run: plain 01a2 is dead", "workflows.md#failures-and-changes"),
        ("no worker here knows the task type 'x'", "runbook.md#processes-differ"),
        ("attempt 7 of task 01a2 no longer holds it", "task-life.md#the-token"),
    ],
)
def test_error_is_explained(error: str, docs: str) -> None:
    found = explanation(error, PLUGINS)
    assert found is not None
    assert found["docs"] == docs


def test_unknown_errors_are_not_explained() -> None:
    assert explanation("ValueError: x", PLUGINS) is None
    assert explanation(None, PLUGINS) is None

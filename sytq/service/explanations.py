"""What the errors of tasks mean, and where the docs say what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable

from typing_extensions import TypedDict

from sytq.plugins import Explanation, Plugin

#: Errors of sytq itself, whatever the task type; the more special ones first.
EXPLANATIONS = (
    Explanation(
        r"^waiting for provider:|^waiting for model:",
        "The provider has no permit free, or is paused. The task waits without using an attempt.",
        "runbook.md#a-provider-is-paused",
    ),
    Explanation(
        r"^waiting for host:",
        "As many requests to this host run as may, or its deliveries fail. The task waits without using an attempt.",
        "webhooks.md#limits-per-host",
    ),
    Explanation(
        r"^waiting for its turn",
        "An earlier task with its ordering key has not ended. The task waits without using an attempt.",
        "webhooks.md#order",
    ),
    Explanation(
        r"^waiting for ",
        "A limiter has no permit free, or is paused. The task waits without using an attempt.",
        "limiters.md#waiting",
    ),
    Explanation(
        r"^no worker here knows ",
        "The worker that fetched the task does not have its type, or this version of it. It is tried again every 5 s.",
        "runbook.md#processes-differ",
    ),
    Explanation(r"^not run: ", "A task that this one depends on did not succeed.", "workflows.md#failures-and-changes"),
    Explanation(
        r"^the worker died each of the ",
        "The worker process died whenever it ran this task: it ran out of memory, or its code crashed the interpreter.",
        "runbook.md#a-task-kills-its-worker",
    ),
    Explanation(
        r"refuses the checkpoint of step|^DatabaseUnavailable\b|^the database ",
        "The database did not answer, or took no writes. The task goes on by itself once it does.",
        "runbook.md#the-database-is-down",
    ),
    Explanation(
        r"^RedisUnavailable\b|^Redis |still holds its task",
        "Redis did not answer. The task goes on by itself once it does.",
        "runbook.md#redis-is-down",
    ),
    Explanation(r"^timed out", "The attempt took longer than the `timeout` of its task type.", "plugins.md#the-policy"),
    Explanation(
        r"^(?:attempt|start) \d+ of task .* no longer holds it",
        "The worker was silent for longer than its lease, so another attempt has the task. Nothing of this one counts.",
        "task-life.md#the-token",
    ),
)


class ExplanationView(TypedDict):
    """What an error means, and the page and heading of the docs that say what to do."""

    text: str
    docs: str


def explanation(error: str | None, plugins: Iterable[Plugin]) -> ExplanationView | None:
    """The explanation of a task's error; those of plugins come first."""
    if not error:
        return None
    known = [each for plugin in plugins for each in plugin.explanations]
    for each in (*known, *EXPLANATIONS):
        if re.search(each.pattern, error):
            return {"text": each.text, "docs": each.docs}
    return None

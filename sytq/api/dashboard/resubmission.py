"""What is needed to submit a task again: its payload as a person may see and edit it, and as commands for a shell."""

from __future__ import annotations

import json
import shlex
from typing import Any

from sytq.config.masking import masked
from sytq.service.task_view import TaskDetail

#: The key of the new task's metadata that names the task which it repeats.
FROM = "resubmitted_from"
_MAX_COPIED = 16_000  # characters of a payload in a command


def editable(payload: Any) -> str:
    """The payload as text to edit; what is secret by its name or form is masked."""
    text = json.dumps(_masked(payload), ensure_ascii=False, indent=2)
    return text.encode("utf-8", "backslashreplace").decode()


def unmasked(edited: Any, original: Any, key: str = "") -> Any:
    """The edited payload, in which what is masked still has the original's value."""
    if isinstance(edited, dict) and isinstance(original, dict):
        return {name: unmasked(inner, original.get(name), name) for name, inner in edited.items()}
    if isinstance(edited, list) and isinstance(original, list):
        rest = [None] * (len(edited) - len(original))
        return [unmasked(inner, before, key) for inner, before in zip(edited, [*original, *rest], strict=False)]
    return original if isinstance(edited, str) and edited == masked(key, original) else edited


def _masked(value: Any) -> Any:
    try:
        return masked("", value)
    except RecursionError:  # of another program's row: a submission has a bounded depth
        return {}


def commands(task: TaskDetail, root: str, needs_key: bool) -> dict[str, str]:
    """Commands for a shell, by what they do; `root` is the API's public URL. No secret is in them."""
    key = ' -H "Authorization: Bearer $SYTQ_API_KEY"' if needs_key else ""
    here, there = shlex.quote(f"{root}/v2/tasks/{task['id']}"), shlex.quote(f"{root}/v2/tasks")
    found = {"Show this task": f"curl -sS{key} {here}"}
    body = {"type": task["type"], "payload": _masked(task["payload"]), "priority": task["priority"]}
    if task["metadata"]:
        body["metadata"] = _masked(task["metadata"])
    text = json.dumps(body)  # ASCII: whatever the terminal's encoding is
    if len(text) <= _MAX_COPIED:
        sent = f" -H 'Content-Type: application/json' --data-raw {shlex.quote(text)}"
        found["Submit it again"] = f"curl -sS{key}{sent} {there}"
    return found

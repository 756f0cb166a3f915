"""What is needed to submit a task again: the secrets of its payload, which an editor does not see, and commands."""

from __future__ import annotations

import json
import shlex
from typing import Any

from sytq.config.masking import MASK, masked
from sytq.errors import InvalidInput
from sytq.service.task_view import TaskDetail

#: The key of the new task's metadata that names the task which it repeats.
FROM = "resubmitted_from"
_MAX_COPIED = 16_000  # characters of a payload in a command


def unmasked(edited: Any, original: Any, path: str, key: str = "") -> Any:
    """The edited value, in which what is masked still has the original's value; `key` names it.

    Raises InvalidInput for a list with masked values that cannot be told apart, as it has become longer or shorter.
    """
    if isinstance(edited, dict) and isinstance(original, dict):
        pairs = edited.items()
        return {name: unmasked(inner, original.get(name), f"{path}.{name}", name) for name, inner in pairs}
    if isinstance(edited, list) and isinstance(original, list) and MASK in json.dumps(edited):
        shown = [masked(key, one) for one in original]
        return [_item(n, one, original, shown, key, path, len(edited)) for n, one in enumerate(edited)]
    return original if isinstance(edited, str) and edited == masked(key, original) else edited


def _item(n: int, one: Any, original: list[Any], shown: list[Any], key: str, path: str, length: int) -> Any:
    """An item of a list as it was: the same item, or the only item that looks like it; else the edited item."""
    if n < len(shown) and shown[n] == one and length == len(shown):
        return original[n]
    alike = [known for known, seen in zip(original, shown, strict=True) if seen == one]
    if alike and all(known == alike[0] for known in alike):
        return alike[0]
    if length == len(shown):
        return unmasked(one, original[n], f"{path}.{n}", key)
    if MASK in json.dumps(one):
        raise InvalidInput(path, f"say what stands in place of {MASK} in item {n}: the list has another length now")
    return one


def _masked(value: Any) -> Any:
    try:
        return masked("", value)
    except RecursionError:  # of another program's row: a submission has a bounded depth
        return {}


def commands(task: TaskDetail, size: int, root: str, *, needs_key: bool) -> dict[str, str]:
    """Commands for a shell, by what they do, for a task whose payload has this size; `root` is the API's public URL.

    No secret is in them.
    """
    key = ' -H "Authorization: Bearer $SYTQ_API_KEY"' if needs_key else ""
    here, there = shlex.quote(f"{root}/v2/tasks/{task['id']}"), shlex.quote(f"{root}/v2/tasks")
    found = {"Show this task": f"curl -sS{key} {here}"}
    if size > _MAX_COPIED:
        return found
    body = {"type": task["type"], "payload": _masked(task["payload"]), "priority": task["priority"]}
    if task["metadata"]:
        body["metadata"] = _masked(task["metadata"])
    text = json.dumps(body)  # ASCII: whatever the terminal's encoding is
    sent = f" -H 'Content-Type: application/json' --data-raw {shlex.quote(text)}"
    return found | {"Submit it again": f"curl -sS{key}{sent} {there}"}

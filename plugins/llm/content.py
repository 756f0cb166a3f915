"""The text of a message or of a delta, in every form that `content` takes, apart from reasoning and refusals."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

_THINKING = ("thinking", "redacted_thinking", "reasoning", "thought")  # and what begins so, as `thinking_delta`
#: Types of parts that hold no text of the answer.
_TEXTLESS = (
    "image", "image_url", "audio", "input_audio", "output_audio", "file", "document_url", "reference", "tool_reference",
    "tool_use", "tool_call", "function_call",
)  # fmt: skip
_TEXT = ("text", "content", "value", "parts", "output_text")
_TYPES = ("text", "output_text", "refusal", *_THINKING, *_TEXTLESS)
#: Fields of a message that show that the model works.
_PROGRESS = ("reasoning_content", "reasoning", "reasoning_details", "thinking", "tool_calls", "function_call")


@dataclass(slots=True)
class Content:
    """What a message or a delta says. `unread` are the types of its parts in which no text was found."""

    text: str = ""
    refusal: str = ""
    progress: bool = False
    unread: list[str] = field(default_factory=list)


def read(message: object) -> Content:
    """The content of a `message` or `delta`, or of a choice that has its `text` itself."""
    found = Content()
    if isinstance(message, str):
        found.text = message
    elif isinstance(message, dict):
        content = message.get("content")
        _collect(message.get("text") if content is None else content, found)
        if isinstance(message.get("refusal"), str):
            found.refusal += message["refusal"]
        if not found.text:
            found.progress = found.progress or any(message.get(name) for name in _PROGRESS)
    return found


def _collect(content: object, found: Content) -> None:
    if isinstance(content, str):
        found.text += content
    elif isinstance(content, list):
        for part in content:
            if isinstance(part, dict):
                _part(part, found)
            else:
                _collect(part, found)
    elif isinstance(content, dict) and (content.get("type") in _TYPES or set(content) <= {*_TEXT, "annotations"}):
        _part(content, found)
    elif content is not None:
        # An answer in JSON that a gateway has parsed.
        found.text += json.dumps(content, ensure_ascii=False)


def _part(part: dict[str, Any], found: Content) -> None:
    kind = str(part.get("type") or "")
    if kind.startswith(_THINKING) or part.get("thought") is True:
        found.progress = True
        return
    if isinstance(part.get("refusal"), str):
        found.refusal += part["refusal"]
        return
    for name in _TEXT:
        if part.get(name) is not None:
            return _collect(part[name], found)
    if kind not in _TYPES:
        found.unread.append(kind or "object")

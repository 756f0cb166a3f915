"""A chat provider's answer as it arrives, and whether it is complete; defines the names of all failures.

A provider's error text passes only as one short line without the key and the prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Literal, TypedDict

from .envelope import error_in

#: How a call failed. docs/llm.md says what follows from each.
Kind = Literal[
    "first_content", "silence", "total", "network", "broken_off",
    "rejected", "unauthorized", "no_credit", "rate_limited", "overloaded", "unavailable", "redirect",
    "error_in_answer", "not_json", "html", "malformed", "too_large",
    "no_finish_reason", "length", "content_filter", "no_resource", "other_finish_reason", "blank", "schema",
]  # fmt: skip

# A report is stored as JSON in a callback's payload inside an SQL literal; at this size every escape together
# stays under the 16 MiB packet that MySQL and MariaDB accept by default.
MAX_CONTENT = 2 << 20
_MAX_SAID = 300
_ECHO = 24  # characters of a prompt that count as a quotation


class ChatError(Exception):
    """The call gave no complete answer. `after` is the delay in seconds that the provider asked for, `again` its
    statement on whether a repetition makes sense (None: no statement)."""

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        status: int | None = None,
        after: float | None = None,
        again: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status
        self.after = after
        self.again = again


class Reply(TypedDict):
    """A complete answer. `usage` is the provider's own object, empty if absent."""

    content: str
    model: str
    finish_reason: str
    usage: dict[str, Any]


class Answer:
    """The answer so far, and the `usage` that the provider reports. No error may repeat the key and the prompts."""

    def __init__(self, model: str, key: str, prompts: Sequence[str]) -> None:
        self.finish_reason: str | None = None
        self.usage: dict[str, Any] = {}
        self.chunks = 0  # with progress; providers send one token per chunk
        self._model = model
        self._key = key
        self._prompts = prompts
        self._parts: list[str] = []
        self._size = 0

    @property
    def has_content(self) -> bool:
        return bool(self._parts)

    def take(self, event: dict[str, Any]) -> bool:
        """Process one event of a stream, or a whole answer; return whether it made progress.

        Raises ChatError (error_in_answer, too_large).
        """
        if (error := error_in(event)) is not None:
            raise ChatError("error_in_answer", f"the provider reported an error: {self.say(error.words)}")
        if isinstance(event.get("model"), str) and event["model"]:
            self._model = event["model"][:200]
        if isinstance(event.get("usage"), dict):
            self.usage = event["usage"]
        choice = _first_choice(event)
        delta = choice.get("delta") or choice.get("message")
        delta = delta if isinstance(delta, dict) else {}
        text = delta.get("content")
        if isinstance(text, str) and text:
            self._size += len(text.encode("utf-8", "surrogatepass"))
            if self._size > MAX_CONTENT:
                raise ChatError("too_large", f"the answer is longer than {MAX_CONTENT} bytes")
            self._parts.append(text)
        finished = self.finish_reason is None and isinstance(choice.get("finish_reason"), str)
        if finished:
            self.finish_reason = choice["finish_reason"]
        # Reasoning is not part of the report, but it counts as progress.
        return finished or bool(text or delta.get("reasoning_content") or delta.get("reasoning"))

    def reply(self) -> Reply:
        """The complete answer. Raises ChatError when it is incomplete."""
        reason = self.finish_reason
        if reason is None:
            raise ChatError("no_finish_reason", "the answer ended without a finish_reason")
        if reason == "length":
            raise ChatError("length", "the answer was cut at max_tokens; raise max_tokens of the model")
        if reason == "content_filter":
            raise ChatError("content_filter", "the provider's content filter withheld the answer")
        if reason == "insufficient_system_resource":
            raise ChatError("no_resource", "the provider ran out of resources and broke the answer off")
        if reason != "stop":
            raise ChatError("other_finish_reason", f"finish_reason is '{self.say(reason)[:50]}', not 'stop'")
        # Half a surrogate pair cannot be stored; two halves from two events are one character.
        content = "".join(self._parts).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if not content.strip():
            raise ChatError("blank", "the answer is blank")
        return Reply(content=content, model=self._model, finish_reason=reason, usage=self.usage)

    def say(self, words: str) -> str:
        """A provider's words as one line that is safe to show."""
        # Mask the key before cutting, so that no part of it remains at the end.
        said = words[: _MAX_SAID * 4]
        if self._key:
            said = said.replace(self._key, "***")
        said = re.sub(r"[\s\x00-\x1f\x7f]+", " ", said).strip()[:_MAX_SAID]
        for start in range(len(said) - _ECHO + 1):
            if any(said[start : start + _ECHO] in prompt for prompt in self._prompts):
                return f"{said[:start]}(here it quotes the prompt)"
        return said


def parse(text: bytes) -> dict[str, Any]:
    """Parse a JSON object. Raises ChatError (html, not_json, malformed)."""
    if text.lstrip()[:1] == b"<":
        raise ChatError("html", "the provider answered with a web page")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise ChatError("not_json", "the answer is not whole JSON") from None
    if not isinstance(value, dict):
        raise ChatError("malformed", "the answer is not a JSON object")
    return value


def _first_choice(event: dict[str, Any]) -> dict[str, Any]:
    choices = event.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and choice.get("index") in (0, None):
            return choice
    return {}

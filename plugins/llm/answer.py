"""A chat provider's answer as it arrives, and whether it is complete; defines the names of all failures.

A provider's error text passes only as one short line without the key and the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, TypedDict

from . import finish
from .content import Content, read
from .envelope import ProviderError, error_in, read_error
from .refusal import classify

#: How a call failed. docs/llm.md says what follows from each.
Kind = Literal[
    "first_content", "silence", "total", "network", "broken_off",
    "rejected", "unauthorized", "no_credit", "no_model", "no_path", "bad_parameter", "redirect", "tls", "proxy",
    "rate_limited", "overloaded", "unavailable",
    "error_in_answer", "not_json", "html", "malformed", "too_large",
    "no_finish_reason", "length", "content_filter", "no_resource", "other_finish_reason", "blank", "schema",
]  # fmt: skip

# A report is stored as JSON in a callback's payload inside an SQL literal; at this size every escape together
# stays under the 16 MiB packet that MySQL and MariaDB accept by default.
MAX_CONTENT = 2 << 20
_NO_REPORT: Mapping[finish.Meaning, tuple[Kind, str]] = {
    "length": ("length", "the answer was cut"),
    "content_filter": ("content_filter", "the provider's content filter withheld the answer"),
    "tool_calls": ("other_finish_reason", "the model calls a tool, and there is none: see extra"),
    "error": ("error_in_answer", "the provider broke the answer off"),
    "no_resource": ("no_resource", "the provider ran out of resources and broke the answer off"),
}
_MAX_SAID = 300
_MAX_UNREAD = 10
_ECHO = 24  # characters of a prompt that count as a quotation


@dataclass(eq=False)
class ChatError(Exception):
    """The call gave no complete answer. `after` is the delay in seconds that the provider asked for, `again` its
    statement on whether a repetition makes sense (None: no statement); `times` counts such failures of the question."""

    kind: Kind
    message: str
    _: KW_ONLY
    status: int | None = None
    after: float | None = None
    again: bool | None = None
    times: int = 1

    def __str__(self) -> str:
        return self.message


class Reply(TypedDict):
    """A complete answer. `usage` is the provider's own object, empty if absent."""

    content: str
    model: str
    finish_reason: str
    usage: dict[str, Any]


class Answer:
    """The answer so far, and the `usage` that the provider reports. No error may repeat the key and the prompts.

    `finish_reasons` are the provider's own words beside the table of finish.py. `alone` says that one choice was asked
    for: then it is read whatever its index.
    """

    def __init__(
        self,
        model: str,
        key: str,
        prompts: Sequence[str],
        finish_reasons: Mapping[str, finish.Meaning] | None = None,
        alone: bool = True,
    ) -> None:
        self.finish_reason: str | None = None
        self.ended = False  # the provider marked the end, with [DONE] or of a whole JSON document
        self.usage: dict[str, Any] = {}
        self.chunks = 0  # with progress; providers send one token per chunk
        self.unread: set[str] = set()  # types of parts in which no text was found
        self._own = finish_reasons or {}
        self._model = model
        self._key = key
        self._prompts = prompts
        self._parts: list[str] = []
        self._size = 0
        self._alone = alone
        self._is_empty = True
        self._has_choices = False
        self._by_deltas = False
        self._reasoned = False
        self._refusal = ""
        self._went_on = False  # text came after a finish_reason, which then proves nothing
        self._word_is_last = False  # no text came after the latest finish_reason
        self._notice: ProviderError | None = None

    @property
    def has_content(self) -> bool:
        return bool(self._parts)

    @property
    def is_finished(self) -> bool:
        """Whether nothing more is needed than numbers: what fails after that does not concern the answer."""
        return self.finish_reason is not None and (self.ended or not self._went_on)

    @property
    def is_marked(self) -> bool:
        """Whether text came and the provider marked its end, but did not say why."""
        return self.finish_reason is None and self.ended and self.has_content

    def take(self, event: dict[str, Any]) -> bool:
        """Process one event of a stream, or a whole answer; return whether it made progress.

        Raises ChatError (too_large, and error_in_answer or what the error means).
        """
        if (error := error_in(event)) is not None:
            raise self.reported(error)
        if (inner := _inner(event)) is not None:
            return self.take(event | inner)
        choice = self._choice(event)
        self._is_empty = self._is_empty and not event
        self._has_choices = self._has_choices or bool(choice)
        if not choice and (notice := read_error(event)) is not None and notice.words.lower() not in notice.codes:
            self.note(notice)
        if isinstance(event.get("model"), str) and event["model"]:
            self._model = event["model"][:200]
        for place in (event, choice, event.get("x_groq")):
            if isinstance(place, dict) and isinstance(place.get("usage"), dict) and place["usage"]:
                self.usage = place["usage"]
        found = self._content(choice)
        word = finish.said(choice, self._own)
        if found.text:
            self._went_on = self._went_on or self.finish_reason is not None
            self._word_is_last = False
            self._add(found.text)
        self._reasoned = self._reasoned or found.progress
        self._refusal = (self._refusal + found.refusal)[: _MAX_SAID * 4]
        if len(self.unread) < _MAX_UNREAD:
            self.unread.update(kind[:50] for kind in found.unread)
        finished = word is not None and word != self.finish_reason
        if word is not None:
            # Some gateways end every stream with a `stop` of their own: it takes nothing back.
            if not self._word_is_last or finish.meaning(word, self._own) != "stop":
                self.finish_reason = word
            self._word_is_last = True
        # Reasoning is not part of the report, but it counts as progress.
        return bool(finished or found.text or found.progress or found.refusal)

    def note(self, notice: ProviderError) -> None:
        """Remember words that may be an error: they matter only if no answer comes."""
        self._notice = notice

    def heard(self) -> str:
        """What the provider said instead of an answer, for the end of an error."""
        return f"; the provider said: {self.say(self._notice.words)}" if self._notice else ""

    def classify(self, status: int, error: ProviderError | None, words: str) -> Kind:
        """The kind of a refusal, whose `words` are safe to show."""
        return classify(status, error, words, self._model, self._prompts)

    def reported(self, error: ProviderError) -> ChatError:
        """The failure for what the provider reports in place of an answer, or in the middle of one."""
        words = self.say(error.words)
        kind = self.classify(200, error, words)
        if kind == "rate_limited" and self.has_content:
            kind = "error_in_answer"  # what was paid for uses an attempt
        return ChatError(kind, f"the provider reported an error: {words}")

    def reply(self) -> Reply:
        """The complete answer. Raises ChatError when it is incomplete."""
        reason = self.finish_reason
        known = finish.meaning(reason, self._own) if reason or self.ended else None
        shown = f"finish_reason '{self.say(reason or finish.NONE)[:50]}'"
        if self._refusal:
            raise ChatError("content_filter", f"the model refused: {self.say(self._refusal)}")
        if known is None and reason is None:
            if self._notice and not self._parts:
                raise self.reported(self._notice)
            if self._is_empty and not self._notice:
                raise ChatError("no_finish_reason", "the provider answered with nothing")
            missing = "a finish_reason" if self._has_choices else "choices: it is not in OpenAI's form"
            hint = "; if this provider never sends one: finish_reasons: {none: stop}" if self.is_marked else ""
            raise ChatError("no_finish_reason", f"the answer ended without {missing}{self.heard()}{hint}")
        if known is None:
            raise ChatError("other_finish_reason", f"{shown} is not known")
        if known != "stop":
            kind, said = _NO_REPORT[known]
            raise ChatError(kind, f"{said} ({shown}){self.heard()}")
        if not self.is_finished and reason is not None:
            raise ChatError("broken_off", "the stream went on after its finish_reason and ended without [DONE]")
        # Half a surrogate pair cannot be stored; two halves from two events are one character.
        content = "".join(self._parts).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if not content.strip():
            said = "has nothing but reasoning" if self._reasoned else "is blank"
            raise ChatError("blank", f"the answer {said}{self.heard()}")
        return Reply(content=content, model=self._model, finish_reason=reason or finish.NONE, usage=self.usage)

    def _content(self, choice: dict[str, Any]) -> Content:
        """What a choice says beyond the answer so far."""
        found = read(choice.get("delta"))
        if found.text:
            self._by_deltas = True
            return found
        message = read(choice.get("message") or choice)
        if self._by_deltas and message.text:
            # MiniMax and Perplexity repeat the whole text in a `message` beside or after the deltas.
            if len(message.text) > sum(map(len, self._parts)):
                self._parts, self._size = [], 0
                self._add(message.text)
            message.text = ""
        message.progress = message.progress or found.progress
        message.refusal = message.refusal or found.refusal
        message.unread += found.unread
        return message

    def _choice(self, event: dict[str, Any]) -> dict[str, Any]:
        """The first choice. TGI and Foundry Local count tokens in `index`; some gateways count from 1."""
        choices = event.get("choices")
        found = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
        first = next((choice for choice in found if choice.get("index") in (0, None, "0")), None)
        return first or (found[0] if found and self._alone else {})

    def _add(self, text: str) -> None:
        self._size += len(text.encode("utf-8", "surrogatepass"))
        if self._size > MAX_CONTENT:
            raise ChatError("too_large", f"the answer is longer than {MAX_CONTENT} bytes")
        self._parts.append(text)

    def say(self, words: str) -> str:
        """A provider's words as one line that is safe to show."""
        # Mask the key before cutting, so that no part of it remains at the end.
        said = words.replace(self._key, "***") if self._key else words
        said = re.sub(r"[\s\x00-\x1f\x7f\ud800-\udfff]+", " ", said[: _MAX_SAID * 4]).strip()[:_MAX_SAID]
        for start in range(len(said) - _ECHO + 1):
            if any(said[start : start + _ECHO] in prompt for prompt in self._prompts):
                return f"{said[:start]}(here it quotes the prompt)"
        return said


def _inner(event: dict[str, Any]) -> dict[str, Any] | None:
    """The answer inside a gateway's wrapper, as {"code": 0, "data": {"choices": ...}}."""
    if "choices" in event:
        return None
    return next((value for value in event.values() if isinstance(value, dict) and "choices" in value), None)

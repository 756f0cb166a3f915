"""What a provider's `finish_reason` means: one table of the words in use, which a provider's settings extend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

#: The words that OpenAI and OpenRouter use, and what DeepSeek alone has a word for.
Meaning = Literal["stop", "length", "content_filter", "tool_calls", "error", "no_resource"]

#: Each word with whom it comes from where that is not the word's own meaning. Without regard to case, `-` and spaces.
_WORDS: Mapping[Meaning, tuple[str, ...]] = {
    "stop": (
        "stop",
        "eos",  # Together
        "eos_token",  # Text Generation Inference, watsonx
        "stop_sequence",  # Anthropic, Cohere, Text Generation Inference
        "end_turn",  # Anthropic, Bedrock
        "complete", "completed",  # Cohere, Oracle; the Responses API
        "finish", "finished",  # Titan
        "endoftext",  # AI21
        "normal",  # Baidu
    ),
    "length": (
        "length",
        "max_tokens",  # Anthropic, Bedrock, Gemini, Cohere
        "max_output_tokens", "max_output", "max_length", "max_completion_tokens",
        "model_length",  # Mistral: the context window is full
        "model_context_window_exceeded", "context_length_exceeded", "context",  # Anthropic, Z.ai; SenseNova
        "error_limit",  # Cohere
        "token_limit", "truncated", "incomplete",
    ),
    "content_filter": (
        "content_filter", "content_filtered",  # Azure; Titan, Bedrock
        "sensitive",  # Zhipu, Hunyuan, SenseNova
        "refusal",  # Anthropic
        "safety", "recitation", "blocklist", "prohibited_content", "spii", "image_safety", "model_armor",  # Gemini
        "blacklist",  # GigaChat
        "guardrail_intervened",  # Bedrock
        "error_toxic",  # Cohere
        "blocked",
        "data_inspection_failed",  # DashScope
    ),
    "tool_calls": ("tool_calls", "tool_call", "tool_use", "function_call"),
    "error": (
        "error", "failed",  # OpenRouter, Mistral; the Responses API
        "network_error",  # Zhipu
        "abort", "aborted", "cancel", "cancelled", "canceled", "user_cancel",  # vLLM, SGLang, Cohere
        "timeout", "time_limit",  # watsonx
        "malformed_function_call", "unexpected_tool_call",  # Gemini
    ),
    "no_resource": ("insufficient_system_resource",),  # DeepSeek
}  # fmt: skip
MEANINGS: Mapping[str, Meaning] = {word: meaning for meaning, words in _WORDS.items() for word in words}
#: The word for none: Ollama and GLM routes send "", DashScope "null", gateways in Python "None"; watsonx and Gemini
#: have words for it.
NONE = "none"
_NONE = ("", "null", NONE, "not_finished", "unspecified")
#: Where it stands. Old vision models have `finish_details`, gateways to Claude `stop_reason`.
_FIELDS = ("finish_reason", "finishReason", "finish_details", "stop_reason")


def said(choice: Mapping[str, Any], own: Mapping[str, Meaning]) -> str | None:
    """The word of a choice, which may stand in its delta or message. The model's own word counts where a router calls
    a cut or filtered answer `stop`."""
    places = [place for place in (choice, choice.get("delta"), choice.get("message")) if isinstance(place, dict)]
    found = next((said for place in places for name in _FIELDS if (said := word(place.get(name))) is not None), None)
    native = word(choice.get("native_finish_reason"))
    return native if meaning(found, own) == "stop" and meaning(native, own) in ("length", "content_filter") else found


def word(value: object) -> str | None:
    """A provider's word as it stands in the table; None where it has not said why it stopped."""
    if isinstance(value, dict):
        value = value.get("type") or value.get("reason")
    if not isinstance(value, str):
        return None
    # `FinishReason.STOP` and `FINISH_REASON_STOP` are names that enumerations have in a gateway's own language.
    plain = value.strip().lower().rpartition(".")[2].replace("-", "_").replace(" ", "_").removeprefix("finish_reason_")
    return None if plain in _NONE else plain


def meaning(word: str | None, own: Mapping[str, Meaning]) -> Meaning | None:
    """What a word means, with a provider's own words before the table's; None when nobody knows."""
    named = word or NONE
    return own.get(named) or MEANINGS.get(named)

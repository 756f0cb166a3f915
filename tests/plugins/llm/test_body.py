"""The body of an answer, as providers and gateways really send it: nothing is lost, nothing cut passes for whole."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sytq_plugins.llm import finish
from sytq_plugins.llm.answer import Answer, ChatError
from sytq_plugins.llm.body import receive

from sytq.tasktypes.payload import encode
from tests.provider import REPORT, USAGE


def taken(*chunks: bytes, **words: Any) -> Answer:
    async def body() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    answer = Answer("valuer-1", "sk-test", ["a prompt"], words)
    asyncio.run(receive(body(), answer, lambda: None))
    return answer


def content(*chunks: bytes, **words: Any) -> str:
    return taken(*chunks, **words).reply()["content"]


def failure(*chunks: bytes, **words: Any) -> ChatError:
    with pytest.raises(ChatError) as caught:
        content(*chunks, **words)
    return caught.value


def chunk(delta: Any = None, finish: Any = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {} if delta is None else delta, "finish_reason": finish, **more}]}


def stream(*events: dict[str, Any] | str, end: str = "\n\n", done: bool = True) -> bytes:
    texts = [event if isinstance(event, str) else json.dumps(event, ensure_ascii=False) for event in events]
    return "".join(f"data: {text}{end}" for text in [*texts, *(["[DONE]"] if done else [])]).encode()


TEXT = [{"content": REPORT[:9]}, {"content": REPORT[9:]}]
DELTAS = [chunk(delta) for delta in TEXT]
STOP = chunk(finish="stop")
WHOLE = {"choices": [{"index": 0, "message": {"role": "assistant", "content": REPORT}, "finish_reason": "stop"}]}
HEARTBEAT = b"data:\n\n"

#: What a gateway does -> the body; each is the same report.
BODIES: dict[str, bytes] = {
    "as OpenAI": stream(*DELTAS, STOP),
    "an empty finish_reason in every chunk": stream(chunk(TEXT[0], ""), chunk(TEXT[1], ""), STOP),
    "finish_reason as the words null and None": stream(chunk(TEXT[0], "null"), chunk(TEXT[1], "None"), STOP),
    "no key finish_reason until the end": stream({"choices": [{"delta": TEXT[0]}]}, DELTAS[1], STOP),
    "the finish_reason beside the last text": stream(DELTAS[0], chunk(TEXT[1], "stop")),
    "finishReason": stream(*DELTAS, {"choices": [{"delta": {}, "finishReason": "STOP"}]}),
    "stop in every chunk, and an end": stream(chunk(TEXT[0], "stop"), chunk(TEXT[1], "stop")),
    "an empty chunk after the finish_reason": stream(*DELTAS, STOP, chunk({"content": ""})),
    "empty data as a heartbeat": HEARTBEAT + stream(DELTAS[0]).replace(b"data: [DONE]\n\n", HEARTBEAT)
    + b"data\n\n" + stream(DELTAS[1], STOP),
    "blank data as a heartbeat": b"data:   \n\n" + stream(*DELTAS, STOP),
    "heartbeats of every other form": b": ping\n\nevent: ping\ndata: {}\n\ndata: {\"type\": \"ping\"}\n\ndata: null\n\n"
    b"data: ping\n\nevent: heartbeat\n\n" + stream(*DELTAS, STOP),
    "CRLF": stream(*DELTAS, STOP, end="\r\n\r\n"),
    "CR": stream(*DELTAS, STOP, end="\r\r"),
    "no blank lines": stream(*DELTAS, STOP, end="\n"),
    "no line end at the end": stream(*DELTAS, STOP).rstrip(),
    "no [DONE]": stream(*DELTAS, STOP, done=False),
    "no space after data:": stream(*DELTAS, STOP).replace(b"data: ", b"data:"),
    "a byte order mark": b"\xef\xbb\xbf" + stream(*DELTAS, STOP),
    "ids, names and retry": b"retry: 3000\nid: 1\nevent: message\n" + stream(*DELTAS, STOP),
    "an object over several data lines": b"data: {\ndata: \"choices\":\ndata: " + json.dumps(WHOLE["choices"]).encode()
    + b"}\n\n",
    "JSON over lines of which one has data:": b"data: " + json.dumps(WHOLE, indent=1).encode() + b"\n\n",
    "[DONE] in quotation marks": stream(*DELTAS, STOP, '"[DONE]"', done=False),
    "the first chunk without choices": stream({"choices": [], "prompt_filter_results": []}, *DELTAS, STOP),
    "success codes in every chunk": stream(*(event | {"code": 0, "message": "Success"} for event in (*DELTAS, STOP))),
    "empty error objects": stream(*(event | {"error": {"message": "", "code": None}} for event in (*DELTAS, STOP))),
    "chunks without data:": b"\n".join(json.dumps(event).encode() for event in (*DELTAS, STOP)),
    "the whole message after its deltas": stream(*DELTAS, STOP, WHOLE),
    "the whole message in the last chunk": stream(*DELTAS, WHOLE, done=False),
    "the whole message beside each delta": stream(
        chunk(TEXT[0], message={"content": REPORT[:9]}), chunk(TEXT[1], message={"content": REPORT}),
        chunk({"content": ""}, "stop", message={"content": REPORT})),
    "messages in place of deltas": stream({"choices": [{"message": TEXT[0]}]},
                                          {"choices": [{"message": TEXT[1], "finish_reason": "stop"}]}),
    "an error after the end": stream(*DELTAS, STOP, {"error": {"message": "no usage"}}),
    "half an event after the end": stream(*DELTAS, STOP, done=False) + b'data: {"choices": [], "usa',
    "a web page after the end": stream(*DELTAS, STOP, done=False) + b"<html>",
    "JSON": json.dumps(WHOLE).encode(),
    "JSON over lines": json.dumps(WHOLE, indent=2).encode(),
    "JSON after blank lines": b"\n\n\n" + json.dumps(WHOLE).encode(),
    "JSON and then [DONE]": json.dumps(WHOLE).encode() + b"\n\ndata: [DONE]\n\n",
    "JSON in a list": json.dumps([WHOLE]).encode(),
    "JSON with a raw line feed in a text": json.dumps(WHOLE).replace('"assistant"', '"assis\ntant"').encode(),
    "the whole message as the only event": stream(WHOLE),
    "tokens counted in index": stream(*({"choices": [choice | {"index": n}]} for n, choice in enumerate(
        (event["choices"][0] for event in (*DELTAS, STOP)), 1))),
    "the index as text": stream(*({"choices": [event["choices"][0] | {"index": "0"}]} for event in (*DELTAS, STOP))),
    "an answer in a wrapper": json.dumps({"code": 0, "message": "success", "data": WHOLE}).encode(),
    "chunks in a wrapper": stream(*({"output": event, "usage": USAGE} for event in (*DELTAS, STOP))),
    "JSON over lines after comments": b": PROCESSING\n\n: PROCESSING\n\n" + json.dumps(WHOLE, indent=2).encode(),
    "zeros before a chunk": b"\x00\x00" + stream(*DELTAS, STOP),
    "one data: with a capital": stream(*DELTAS, STOP).replace(b"data:", b"Data:", 1),
    "data: twice": stream(*DELTAS, STOP).replace(b"data: ", b"data: data: "),
    "JSON encoded twice": json.dumps(json.dumps(WHOLE)).encode(),
    "events encoded twice": stream(*(json.dumps(json.dumps(event)) for event in (*DELTAS, STOP))),
    "a finish_reason in the delta": stream(*DELTAS, chunk({"finish_reason": "stop"})),
    "finish_details": stream(*DELTAS, chunk(finish_details={"type": "stop", "stop": "<|im_end|>"})),
    "stop_reason": stream(*DELTAS, chunk(stop_reason="end_turn")),
    "the same word of the model itself": stream(*DELTAS, chunk(finish="stop", native_finish_reason="completed")),
    "a word for more to come": stream(chunk(TEXT[0], "not_finished"), chunk(TEXT[1], "NOT_FINISHED"), STOP),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_report_is_complete_whatever_a_gateway_makes_of_the_stream(name: str) -> None:
    body = BODIES[name]
    assert content(body) == REPORT
    assert content(*(body[n : n + 7] for n in range(0, len(body), 7))) == REPORT
    assert content(*(body[n : n + 1] for n in range(len(body)))) == REPORT


#: What breaks -> the body, the kind of the failure, words of the error.
CUT: dict[str, tuple[bytes, str, str]] = {
    "no finish_reason but [DONE]": (stream(*DELTAS), "no_finish_reason", "finish_reasons: {none: stop}"),
    "an empty finish_reason to the end": (stream(chunk(TEXT[0], ""), chunk(TEXT[1], "")), "no_finish_reason", ""),
    "closed before the finish_reason": (stream(*DELTAS, done=False), "no_finish_reason", ""),
    "stop in every chunk, and no end": (stream(chunk(TEXT[0], "stop"), chunk(TEXT[1], "stop"), done=False),
                                        "broken_off", "without [DONE]"),
    "stop in every line of JSON": (
        b"\n".join(json.dumps(chunk(delta, "stop")).encode() for delta in TEXT), "broken_off", ""),
    "text after the finish_reason, and no end": (stream(DELTAS[0], STOP, DELTAS[1], done=False), "broken_off", ""),
    "stop, more text, then length": (stream(chunk(TEXT[0], "stop"), chunk(TEXT[1], "length")), "length", "cut"),
    "length, then a stop of the gateway": (stream(*DELTAS, chunk(finish="length"), STOP), "length", "cut"),
    "filtered, then a stop of the gateway": (stream(DELTAS[0], chunk(finish="content_filter"), STOP, done=False),
                                             "content_filter", "withheld"),
    "broken off, then a stop of the gateway": (stream(DELTAS[0], chunk(finish="abort"), STOP), "error_in_answer",
                                               "'abort'"),
    "stop, and the model's own word for cut": (stream(*DELTAS, chunk(finish="stop", native_finish_reason="MAX_TOKENS")),
                                               "length", "'max_tokens'"),
    "a chunk cut behind something else": (
        stream(DELTAS[0], done=False) + b'\x00data: {"choices": [{"del\n\n' + stream(STOP), "not_json", ""),
    "compressed without saying so": (gzip.compress(stream(*DELTAS, STOP)), "malformed", "compressed"),
    "an error under another name": (b'data: {"modelStreamErrorException": {"message": "model died"}}\n\n',
                                    "error_in_answer", "model died"),
    "an error in a header": (b'{"header": {"code": 10013, "message": "input blocked"}}', "error_in_answer", "blocked"),
    "nothing": (b"\n\n", "no_finish_reason", "answered with nothing"),
    "nothing but [DONE]": (stream(), "no_finish_reason", "answered with nothing"),
    "an event cut in the middle": (stream(DELTAS[0], done=False) + b'data: {"choices": [{"del\n\n', "not_json", ""),
    "an event cut by the end": (stream(DELTAS[0], done=False) + b'data: {"choices": [{"del', "not_json", ""),
    "a web page in the middle": (stream(DELTAS[0], done=False) + b"<html>Bad gateway\n", "broken_off", "web page"),
    "a web page": (b"<!doctype html>", "html", "web page"),
    "a web page as data": (b"data: <html>\n\n", "html", "web page"),
    "JSON that is cut": (json.dumps(WHOLE)[:-3].encode(), "not_json", ""),
    "an error inside an event": (
        stream(DELTAS[0], done=False) + b'data: {"cho\ndata: {"error": {"message": "gone"}}\n\n',
        "error_in_answer", "reported an error: gone"),
    "an error in the stream": (stream(DELTAS[0], {"error": {"message": "died", "code": 502}}), "error_in_answer",
                               "died"),
    "an error named by its event": (b'event: error\ndata: {"message": "busy"}\n\n', "error_in_answer", "error: busy"),
    "an error in plain text": (b"event: error\ndata: out of memory\n\n", "error_in_answer", "out of memory"),
    "an error as a field": (stream(DELTAS[0], done=False) + b'error: {"code": 500, "message": "slot lost"}\n\n',
                            "error_in_answer", "slot lost"),
    "an error without data:": (stream(DELTAS[0], done=False) + b'{"error": {"message": "cut off"}}\n',
                               "error_in_answer", "cut off"),
    "an error without data:, over lines": (
        stream(DELTAS[0], done=False) + json.dumps({"detail": "engine died"}, indent=1).encode(),
        "no_finish_reason", "the provider said: engine died"),
    "words without a code": (stream({"message": "Too many requests"}), "rate_limited", "Too many requests"),
    "plain text in place of a chunk": (stream("upstream connect error"), "error_in_answer", "upstream connect error"),
    "a list with an error": (b'[{"error": {"code": 429, "message": "Resource exhausted"}}]', "rate_limited",
                             "Resource exhausted"),
    "a message of a gateway as JSON": (b'{"detail": "Not Found"}', "error_in_answer", "Not Found"),
    "an error in a choice": (stream(DELTAS[0], chunk(finish="error", error={"message": "upstream"})),
                             "error_in_answer", "upstream"),
    "error as finish_reason": (stream(DELTAS[0], chunk(finish="network_error")), "error_in_answer", "network_error"),
    "a refusal": (stream(chunk({"refusal": "I cannot "}), chunk({"refusal": "do that."}), STOP), "content_filter",
                  "the model refused: I cannot do that."),
    "a refusal after text": (stream(DELTAS[0], chunk({"refusal": "No."}), STOP), "content_filter", "refused: No."),
    "nothing but reasoning": (stream(chunk({"reasoning_content": "hm"}), STOP), "blank", "nothing but reasoning"),
    "another API's form": (b'{"output": {"text": "a"}, "request_id": "x"}', "no_finish_reason", "without choices"),
    "a tool call": (stream(chunk({"tool_calls": [{"function": {"name": "f"}}]}), chunk(finish="tool_calls")),
                    "other_finish_reason", "calls a tool"),
}  # fmt: skip


@pytest.mark.parametrize("name", CUT)
def test_cut_or_failed_answer_is_no_report_and_says_why(name: str) -> None:
    body, kind, words = CUT[name]
    for pieces in ([body], [body[n : n + 1] for n in range(len(body))]):
        error = failure(*pieces)
        assert error.kind == kind
        assert words in str(error)


def test_deep_nesting_fails_the_call_and_nothing_else() -> None:
    for depth in (90, 300, 900, 2000):  # a parser or this reader gives up, at a depth that depends on Python
        nested = b"[" * depth + b"]" * depth
        failure(b'{"choices": [], "error": ' + nested + b"}")
        failure(b'data: {"choices": [{"delta": {"content": ' + nested + b"}}]}\n\n")


def test_report_needs_every_byte_up_to_its_finish_reason() -> None:
    body = stream(*DELTAS, STOP)
    end = body.index(b'"stop"')
    for cut in range(end):
        failure(body[:cut])
    assert content(body[: end + len('"stop"}]}')]) == REPORT


def test_first_of_several_choices_that_were_asked_for_is_the_report() -> None:
    other = {"index": 1, "delta": {"content": "another report"}, "finish_reason": "stop"}
    events = [item for event in (*DELTAS, STOP) for item in ({"choices": [other]}, event)]
    answer = Answer("valuer-1", "sk-test", [], alone=False)
    for event in events:
        answer.take(event)
    assert answer.reply()["content"] == REPORT


# -- content

THINKS = {"type": "thinking", "thinking": [{"type": "text", "text": "let me see"}]}
#: Whose form -> content of a message, or the pieces of it as deltas.
FORMS: dict[str, list[Any]] = {
    "text": [REPORT],
    "text parts": [[{"type": "text", "text": REPORT}]],
    "several parts": [[{"type": "text", "text": REPORT[:5]}, {"type": "text", "text": REPORT[5:]}]],
    "parts of Mistral's reasoning models": [[THINKS, {"type": "text", "text": REPORT}]],
    "Mistral's, as deltas": ["", [THINKS], [THINKS], [{"type": "text", "text": REPORT[:5]}], REPORT[5:]],
    "Mistral's references": [[{"type": "text", "text": REPORT}, {"type": "reference", "reference_ids": [1]}]],
    "parts of the Responses API": [[{"type": "output_text", "text": REPORT, "annotations": []}]],
    "text in an object": [[{"type": "text", "text": {"value": REPORT, "annotations": []}}]],
    "parts without a type": [[{"text": REPORT}]],
    "texts in a list": [[REPORT[:7], REPORT[7:]]],
    "one part": [{"type": "text", "text": REPORT}],
    "Gemini's parts": [{"parts": [{"text": "let me see", "thought": True}, {"text": REPORT}]}],
    "Claude's deltas": [[{"type": "thinking_delta", "thinking": "hm"}], [{"type": "text_delta", "text": REPORT}]],
    "parts without their text yet": [[{"type": "text"}], [{"type": "text", "text": None}], REPORT],
    "Claude's thinking": [[{"type": "thinking", "thinking": "hm", "signature": "x"}, {"type": "text", "text": REPORT}]],
    "an image beside the text": [[{"type": "image_url", "image_url": {}}, {"type": "text", "text": REPORT}]],
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_content_is_read_in_every_form_whole_and_as_deltas(name: str) -> None:
    pieces = FORMS[name]
    answer = taken(stream(*(chunk({"content": piece}) for piece in pieces), STOP))
    assert answer.reply()["content"] == REPORT
    assert answer.unread == set()
    if len(pieces) == 1:
        choice = {"message": {"role": "assistant", "content": pieces[0]}, "finish_reason": "stop"}
        assert content(json.dumps({"choices": [choice]}).encode()) == REPORT


def test_text_beside_content_is_read() -> None:
    for choice in ({"text": REPORT}, {"message": REPORT}, {"message": {"text": REPORT}}, {"delta": REPORT}):
        assert content(stream({"choices": [choice | {"finish_reason": "stop"}]})) == REPORT


def test_answer_that_a_gateway_has_parsed_is_its_json() -> None:
    for value in ({"price": 420, "type": "house"}, {"text": "a", "price": 1}):
        choice = {"message": {"content": value}, "finish_reason": "stop"}
        assert json.loads(content(json.dumps({"choices": [choice]}).encode())) == value


def test_part_in_which_no_text_is_found_is_reported() -> None:
    parts = [{"type": "text", "text": REPORT}, {"type": "hologram", "lines": "..."}]
    answer = taken(stream(chunk({"content": parts}), STOP))
    assert answer.reply()["content"] == REPORT
    assert answer.unread == {"hologram"}


@pytest.mark.parametrize(
    "last",
    [
        {"choices": [], "usage": USAGE},
        chunk(finish="stop", usage=USAGE),  # Moonshot
        STOP | {"x_groq": {"usage": USAGE}},
    ],
)
def test_usage_is_found_where_providers_put_it(last: dict[str, Any]) -> None:
    assert taken(stream(*DELTAS, STOP, last)).reply()["usage"] == USAGE


def test_numbers_that_json_does_not_have_cost_no_answer() -> None:
    usage = b'{"prompt_tokens": 7, "cost": NaN, "rates": [-Infinity, 1e999, 0.5]}'
    for body in (stream(*DELTAS, STOP | {"usage": "?"}), json.dumps(WHOLE | {"usage": "?"}).encode()):
        reply = taken(body.replace(b'"?"', usage)).reply()
        assert json.loads(encode(reply))["usage"] == {"prompt_tokens": 7, "cost": None, "rates": [None, None, 0.5]}


# -- finish reasons

MEANINGS = {
    "stop": ["stop", "eos", "eos_token", "end_turn", "stop_sequence", "STOP", "COMPLETE", "FinishReason.STOP",
             "FINISH_REASON_STOP", " Stop ", {"type": "stop", "matched": 2}],
    "length": ["length", "max_tokens", "MAX_TOKENS", "model_length", "max-tokens", "model_context_window_exceeded"],
    "content_filter": ["content_filter", "content-filter", "SAFETY", "sensitive", "refusal", "guardrail_intervened",
                       "PROHIBITED_CONTENT", "RECITATION", "ERROR_TOXIC"],
    "no_resource": ["insufficient_system_resource"],
    "error_in_answer": ["error", "network_error", "abort", "cancelled", "MALFORMED_FUNCTION_CALL"],
    "other_finish_reason": ["tool_calls", "tool_use", "function_call", "banana", "OTHER", "unknown"],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "word"), [(kind, word) for kind, words in MEANINGS.items() for word in words])
def test_finish_reason_of_every_family_has_its_meaning(kind: str, word: Any) -> None:
    body = stream(*DELTAS, chunk(finish=word))
    if kind == "stop":
        assert content(body) == REPORT
    else:
        assert failure(body).kind == kind


def test_unknown_finish_reason_is_named() -> None:
    assert str(failure(stream(chunk(finish="Banana")))) == "finish_reason 'banana' is not known"


def test_settings_of_a_provider_say_what_its_words_mean() -> None:
    body = stream(*DELTAS, chunk(finish="Banana-Split"))
    assert content(body, banana_split="stop") == REPORT
    assert failure(body, banana_split="length").kind == "length"
    assert failure(stream(*DELTAS, STOP), stop="content_filter").kind == "content_filter"


def test_missing_finish_reason_may_mean_stop_but_not_for_a_cut_answer() -> None:
    assert content(stream(*DELTAS), none="stop") == REPORT
    choice = {"message": {"content": REPORT}}
    assert content(json.dumps({"choices": [choice]}).encode(), none="stop") == REPORT
    lines = b"\n".join(json.dumps(delta).encode() for delta in DELTAS)
    for cut in (stream(*DELTAS, done=False), lines, lines + b"\n"):
        assert failure(cut, none="stop").kind == "no_finish_reason"


def test_documented_words_are_those_of_the_table() -> None:
    page = (Path(__file__).parents[3] / "docs" / "llm.md").read_text(encoding="utf-8")
    lines = page.partition("| meaning | words |\n|---|---|\n")[2].partition("\n\n")[0].splitlines()
    rows = [re.findall(r"`(\w+)`", line) for line in lines]
    documented = {word: meaning for meaning, *words in rows for word in words}
    assert documented == finish.MEANINGS

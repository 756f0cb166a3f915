"""What the errors of valuations mean: the table of docs/llm.md, for the page of a task."""

from __future__ import annotations

from collections.abc import Mapping

from sytq.plugins import Explanation

from .answer import Kind
from .policy import POLICIES

#: What happened. What follows from it stands in policy.py.
HAPPENED: Mapping[Kind, str] = {
    "rejected": "HTTP 400, 413, 422 and any other 4xx not below; a prompt that is too long, with any status",
    "unauthorized": "HTTP 401, 403; a refused key or a disabled account, with any status",
    "no_credit": "HTTP 402; an account without money, with any status (DashScope's 400 `Arrearage`, OpenAI's"
    " 429 `insufficient_quota`)",
    "no_model": "a model that the provider has no more, never had, or does not let this account use; HTTP 410",
    "bad_parameter": "a parameter that the model does not take, such as `max_tokens`",
    "no_path": "HTTP 404, 405, 501 that name no model",
    "tls": "TLS with the provider fails: an expired or unknown certificate, another host's, none at all",
    "proxy": "the proxy of `proxy` does not answer, wants a login (407), or does not connect to the provider",
    "redirect": "HTTP 3xx: none is followed",
    "rate_limited": "HTTP 429",
    "overloaded": "HTTP 498, 503, 529",
    "unavailable": "HTTP 408, 409, 425, any other 5xx, and any other 4xx that is not of the request: something"
    " on the way",
    "network": "no connection, an unknown host, a connection closed or reset before the answer",
    "broken_off": "the connection broke in the middle of the answer",
    "first_content": "no content within `first_content`",
    "silence": "no further content within `silence`",
    "total": "no end within `total`",
    "no_finish_reason": "the answer ended without a finish reason",
    "no_resource": "`finish_reason` `insufficient_system_resource`",
    "other_finish_reason": "`finish_reason` is a word that nobody knows, or a call of a tool",
    "blank": "nothing but whitespace",
    "error_in_answer": "an error object in an answer with status 200, or in the stream",
    "not_json": "the answer's JSON is cut off",
    "malformed": "the answer is JSON but not an object, or is compressed in another way than with gzip",
    "html": "a web page, with status 200 or with one like 400 and 403: of a gateway, a proxy or a firewall",
    "length": "cut at `max_tokens`, and again with twice as many",
    "content_filter": "withheld by the provider's filter",
    "too_large": "beyond one of the bounds above",
    "schema": "does not match the node's JSON schema, not even after the error was sent back (`schema_retries`)",
}

_THEN = {
    "retry": "The attempt is used up; a further one follows while there are any",
    "wait": "No attempt is used; the task is tried again after the delay that the provider asks for",
    "pause": "No attempt is used; all its tasks wait until somebody does this, or resumes the limiter",
    "dead": "The task is dead at once",
}


def _explained(kind: Kind) -> str:
    policy, happened = POLICIES[kind], HAPPENED[kind]
    todo = f": {policy.todo.format(name='<name>')}" if policy.todo else ""
    return f"{happened[0].upper()}{happened[1:]}. {_THEN[policy.then]}{todo}."


EXPLANATIONS = [Explanation(rf"\[{kind}\]", _explained(kind), "llm.md#failures") for kind in HAPPENED] + [
    Explanation(
        r"^table |^column |has no row with id|allow-list llm\.tables",
        "The callers' table does not have what a valuation needs; `sytq doctor` says what stands in the way.",
        "llm.md#tables-that-differ",
    ),
    Explanation(
        r"^the budget of ",
        "The day's budget is used up. The task waits without using an attempt until the next day, or a larger budget.",
        "llm.md#spend",
    ),
]

"""What every endpoint takes and answers: the one place that says so.

Owns the list, path by path; a test compares it with the app's routes. The old contracts' shapes are in `contracts`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sytq.api.openapi import contracts
from sytq.api.v2 import answers as shapes
from sytq.api.v2 import requests
from sytq.ledger.spend import GROUPS
from sytq.service.task_view import TaskDetail
from sytq.service.tree import Tree

JsonSchema = dict[str, Any]

_LIMIT: JsonSchema = {
    "name": "limit",
    "in": "query",
    "schema": contracts.or_empty({"type": "integer", "minimum": 1, "maximum": 200}),
}
_CURSOR: JsonSchema = {
    "name": "cursor",
    "in": "query",
    "description": "`next` of the page before",
    "schema": {"type": "string"},
}
_QUERY: JsonSchema = {
    "name": "q",
    "in": "query",
    "description": "which tasks; see docs/query.md",
    "schema": {"type": "string", "maxLength": 2000},
    "examples": {"dead webhooks": {"value": "state:dead type:webhook age:>1h"}},
}
_BY: JsonSchema = {"name": "by", "in": "query", "schema": {"type": "string", "enum": ["", *GROUPS]}}
_SINCE: JsonSchema = {
    "name": "since",
    "in": "query",
    "description": "only the calls of that UTC day and later ones",
    "schema": contracts.or_empty({"type": "string", "format": "date"}),
}
_SUMS: JsonSchema = {
    "name": "limit",
    "in": "query",
    "schema": contracts.or_empty({"type": "integer", "minimum": 1, "maximum": 1000}),
}
_NODES: JsonSchema = {
    "name": "limit",
    "in": "query",
    "description": "how many tasks at most, those near the root first (200)",
    "schema": contracts.or_empty({"type": "integer", "minimum": 1, "maximum": 1000}),
}
_TOTAL: JsonSchema = {"name": "total", "in": "query", "schema": contracts.or_empty({"type": "boolean"})}
_PAGE = (_QUERY, _LIMIT, _CURSOR, _TOTAL)
_WAIT: JsonSchema = {
    "name": "Prefer",
    "in": "header",
    "description": "wait=N: answer when the task has ended, or after N seconds (at most 60)",
    "schema": {"type": "string"},
}
_KNOWN: JsonSchema = {"name": "If-None-Match", "in": "header", "schema": {"type": "string"}}
_LAST_EVENT: JsonSchema = {"name": "Last-Event-ID", "in": "header", "schema": {"type": "string"}}
IDEMPOTENCY_KEY: JsonSchema = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "the same request with the same key, within 24 h, gets the first answer again",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"},
}
IDEMPOTENT_REPLAYED: JsonSchema = {
    "Idempotent-Replayed": {
        "description": "this answer is that of an earlier request with the same Idempotency-Key",
        "schema": {"const": "true"},
    }
}
#: What an Idempotency-Key may be answered with besides.
ONCE_REFUSED = {
    409: "A request with this Idempotency-Key is still running, or another owner's task has the unique key",
    422: "This Idempotency-Key stands for another request",
}
_ETAG: JsonSchema = {"ETag": {"description": "for If-None-Match", "schema": {"type": "string"}}}
_LINK: JsonSchema = {"Link": {"description": "the next page", "schema": {"type": "string"}}}
_LOCATION: JsonSchema = {"Location": {"description": "the task", "schema": {"type": "string"}}}


@dataclass(frozen=True)
class Answer:
    """One status: what it means, and the shape (a model, a JSON schema, None for no body) of its body."""

    meaning: str
    shape: Any = None
    headers: JsonSchema | None = None
    media_type: str = "application/json"


@dataclass(frozen=True)
class Operation:
    """One method of one path. `refusal` is the shape of every error that is not declared; `once` is whether it takes an
    Idempotency-Key."""

    method: str
    path: str
    name: str
    summary: str
    answers: dict[int, Answer]
    tag: str
    request: Any = None
    body_required: bool = True
    parameters: tuple[JsonSchema, ...] = ()
    refusal: Any = shapes.Problem
    once: bool = False


_BAD = Answer("The request is not valid", shapes.Problem, media_type="application/problem+json")
_UNKNOWN = Answer("There is no such task", shapes.Problem, media_type="application/problem+json")
_CONFLICT = Answer("Its state does not allow this", shapes.Problem, media_type="application/problem+json")


def _list(name: str, summary: str, shape: Any) -> Operation:
    return Operation("get", f"/v2/{name}", f"list_{name}", summary, {200: Answer("All", shape), 400: _BAD}, "service")


NATIVE = (
    Operation(
        "post", "/v2/tasks", "submit", "Submit a task of any type",
        {
            202: Answer("Accepted", shapes.Accepted, _LOCATION),
            200: Answer(
                "An unfinished task has this unique key; or the task, which has ended while the request waited for it",
                shapes.Accepted | TaskDetail, _LOCATION,
            ),
            400: _BAD,
        },
        "tasks", requests.NewTask, parameters=(_WAIT,), once=True,
    ),
    Operation(
        "post", "/v2/tasks/batch", "submit_batch", "Submit up to 1,000 tasks, the good ones in one transaction",
        {
            202: Answer("All were accepted", shapes.BatchAnswer),
            207: Answer("Some were refused", shapes.BatchAnswer),
            400: _BAD,
        },
        "tasks", requests.NewTasks, once=True,
    ),
    Operation(
        "get", "/v2/tasks", "list_tasks", "The tasks that match a query, the latest first",
        {200: Answer("A page", shapes.TaskPage, _LINK), 400: _BAD}, "tasks", parameters=_PAGE,
    ),
    Operation(
        "get", "/v2/tasks/{task_id}", "show", "All that is known of a task",
        {
            200: Answer("The task", TaskDetail, _ETAG),
            304: Answer("The client has it already"),
            404: _UNKNOWN,
        },
        "tasks", parameters=(_WAIT, _KNOWN),
    ),
    Operation(
        "get", "/v2/tasks/{task_id}/events", "watch", "The task's state and progress as server-sent events",
        {
            200: Answer("The events", {"type": "string"}, media_type="text/event-stream"),
            204: Answer("Last-Event-ID was the end: there are no more"),
            404: _UNKNOWN,
        },
        "tasks", parameters=(_LAST_EVENT,),
    ),
    Operation(
        "get", "/v2/tasks/{task_id}/tree", "tree", "A task and those below it: what it started, and so on",
        {200: Answer("Each task before its children", Tree), 400: _BAD, 404: _UNKNOWN},
        "tasks", parameters=(_NODES,),
    ),
    Operation(
        "delete", "/v2/tasks/{task_id}", "delete", "Delete a task that has ended",
        {204: Answer("It is gone"), 404: _UNKNOWN, 409: _CONFLICT}, "tasks",
    ),
    Operation(
        "post", "/v2/tasks/{task_id}/cancel", "cancel", "Cancel a task",
        {
            200: Answer("It is cancelled", shapes.Outcome),
            202: Answer("It runs, and ends at its next step", shapes.Outcome),
            400: _BAD, 404: _UNKNOWN, 409: _CONFLICT,
        },
        "tasks", requests.Reason, body_required=False,
    ),
    Operation(
        "post", "/v2/tasks/{task_id}/retry", "retry", "Run a dead or cancelled task again",
        {202: Answer("It is queued", shapes.Outcome), 404: _UNKNOWN, 409: _CONFLICT}, "tasks",
    ),
    Operation(
        "post", "/v2/tasks/{task_id}/reschedule", "reschedule", "Give a waiting task another time",
        {200: Answer("It has it", shapes.Outcome), 400: _BAD, 404: _UNKNOWN, 409: _CONFLICT},
        "tasks", requests.NewTime,
    ),
    Operation(
        "post", "/v2/operations", "operate", "Cancel, retry, reschedule or delete all tasks that match a query",
        {
            202: Answer("It has begun", shapes.OperationAnswer, _LOCATION),
            200: Answer("How many it would be (dry_run)", shapes.DryRun),
            400: _BAD,
        },
        "tasks", requests.NewOperation, once=True,
    ),
    Operation(
        "get", "/v2/dead", "list_dead", "The dead tasks that match a query",
        {200: Answer("A page", shapes.TaskPage, _LINK), 400: _BAD}, "tasks", parameters=_PAGE,
    ),
    Operation(
        "get", "/v2/dead/unreadable", "list_unreadable", "Messages that no worker could decode",
        {200: Answer("A page", shapes.UnreadablePage), 400: _BAD}, "tasks", parameters=(_LIMIT, _CURSOR),
    ),
    Operation(
        "get", "/v2/spend", "spend", "What the calls of providers cost",
        {200: Answer("The sums", shapes.Spend), 400: _BAD}, "service", parameters=(_BY, _SINCE, _SUMS),
    ),
    _list("types", "The task types, with the schemas of their payloads", shapes.Types),
    _list("queues", "The queues, with what waits and runs in them", shapes.Queues),
    _list("workers", "The workers", shapes.Workers),
    _list("schedules", "The schedules", shapes.Schedules),
)  # fmt: skip

OLD = (
    Operation(
        "post", "/api/tasks/llm", "submit_record", "Run the LLM task of a row",
        {200: Answer("Accepted", contracts.ENQUEUED_RECORD), 400: Answer("Not valid", contracts.ENVELOPE)},
        "contract A", contracts.RECORD, refusal=contracts.ENVELOPE, once=True,
    ),
    Operation(
        "get", "/api/tasks", "old_list", "The latest tasks",
        {200: Answer("A page", contracts.TASKS), 400: Answer("Not valid", contracts.ENVELOPE)},
        "contract A", parameters=contracts.LIST_PARAMETERS, refusal=contracts.ENVELOPE,
    ),
    Operation(
        "get", "/api/tasks/{task_id}", "old_show", "The status of a task",
        {200: Answer("The task", contracts.ONE_TASK), 404: Answer("Unknown", contracts.ENVELOPE)},
        "contract A", refusal=contracts.ENVELOPE,
    ),
    Operation(
        "post", "/api/v1/tasks/llm", "submit_prompt", "Run an LLM task from a prompt",
        {200: Answer("Accepted", contracts.ENQUEUED), 400: Answer("Not valid", contracts.ERROR)},
        "contract B", contracts.PROMPT, refusal=contracts.ERROR, once=True,
    ),
    Operation(
        "post", "/jobs", "submit_job", "Submit a job; the body is its payload",
        {202: Answer("Accepted", contracts.JOB), 400: Answer("Not valid", contracts.ERROR)},
        "contract D", {"type": "object"}, body_required=False, parameters=contracts.JOB_PARAMETERS,
        refusal=contracts.ERROR, once=True,
    ),
    Operation(
        "get", "/stats", "stats", "The whole in numbers", {200: Answer("The numbers", contracts.STATS)},
        "contract D", refusal=contracts.ERROR,
    ),
    Operation(
        "get", "/workers", "count_workers", "How many there are", {200: Answer("The workers", contracts.WORKERS)},
        "contract D", refusal=contracts.ERROR,
    ),
    Operation(
        "post", "/api/v1/tasks", "submit_request", "Make an HTTP request until it succeeds",
        {200: Answer("Accepted", contracts.CREATED), 400: Answer("Not valid", contracts.ERROR)},
        "contract E", contracts.REQUEST, refusal=contracts.ERROR, once=True,
    ),
    *(
        Operation(
            "get", path, name, summary, {200: Answer("It is", contracts.HEALTH), **unready}, "service",
            refusal=contracts.ERROR,
        )
        for path, name, summary, unready in (
            ("/health", "health", "The process answers", {}),
            ("/healthz/startup", "startup", "The process has started", {}),
            ("/healthz/live", "live", "The process works", {503: Answer("It hangs", contracts.ERROR)}),
            ("/healthz/ready", "ready", "Database and Redis answer", {503: Answer("They do not", contracts.HEALTH)}),
        )
    ),
    Operation(
        "get", "/metrics", "metrics", "Prometheus' text format",
        {200: Answer("The metrics", {"type": "string"}, media_type="text/plain")}, "service", refusal=contracts.ERROR,
    ),
    Operation(
        "get", "/openapi.json", "openapi", "This document", {200: Answer("The document", {"type": "object"})},
        "service", refusal=contracts.ERROR,
    ),
    Operation(
        "get", "/docs", "docs", "This document for people",
        {200: Answer("The page", {"type": "string"}, media_type="text/html")}, "service", refusal=contracts.ERROR,
    ),
)  # fmt: skip

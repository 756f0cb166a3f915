"""The parameters, bodies and responses of every endpoint, for the OpenAPI document.

A test compares the list with the app's routes. The old contracts' shapes are in `contracts`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sytq.api.openapi import contracts
from sytq.api.v2 import answers as shapes
from sytq.api.v2 import requests
from sytq.service.task_view import TaskDetail
from sytq.service.tree import Tree

JsonSchema = dict[str, Any]

_LIMIT: JsonSchema = {
    "name": "limit",
    "in": "query",
    "description": "Page size",
    "schema": contracts.or_empty({"type": "integer", "minimum": 1, "maximum": 200}),
}
_CURSOR: JsonSchema = {
    "name": "cursor",
    "in": "query",
    "description": "The `next` value of the previous page",
    "schema": {"type": "string"},
}
_QUERY: JsonSchema = {
    "name": "q",
    "in": "query",
    "description": "Selects tasks, in the query language of docs/query.md; all tasks when left out",
    "schema": {"type": "string", "maxLength": 2000},
    "examples": {"dead webhooks": {"value": "state:dead type:webhook age:>1h"}},
}
_NODES: JsonSchema = {
    "name": "limit",
    "in": "query",
    "description": "Maximum number of tasks; those nearest the root come first (default 200)",
    "schema": contracts.or_empty({"type": "integer", "minimum": 1, "maximum": 1000}),
}
_TOTAL: JsonSchema = {
    "name": "total",
    "in": "query",
    "description": "Whether to count all matching tasks, up to 10,000",
    "schema": contracts.or_empty({"type": "boolean"}),
}
_PAGE = (_QUERY, _LIMIT, _CURSOR, _TOTAL)
_WAIT: JsonSchema = {
    "name": "Prefer",
    "in": "header",
    "description": "`wait=N` delays the response until the task has ended, for at most N seconds (up to 60)",
    "schema": {"type": "string"},
}
_KNOWN: JsonSchema = {
    "name": "If-None-Match",
    "in": "header",
    "description": "The ETag of an earlier response",
    "schema": {"type": "string"},
}
_LAST_EVENT: JsonSchema = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "The id of the last event received; the stream continues once the task differs from it",
    "schema": {"type": "string"},
}
IDEMPOTENCY_KEY: JsonSchema = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "For 24 hours the same request with the same key gets the first response again",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"},
}
IDEMPOTENT_REPLAYED: JsonSchema = {
    "Idempotent-Replayed": {
        "description": "Set when this is the response to an earlier request with the same Idempotency-Key",
        "schema": {"const": "true"},
    }
}
#: Further responses to a request with an Idempotency-Key.
ONCE_REFUSED = {
    409: "A request with this Idempotency-Key is still in progress, or the unique key belongs to another owner's task",
    422: "This Idempotency-Key was used for a different request",
}
_ETAG: JsonSchema = {"ETag": {"description": "Version of the task, for If-None-Match", "schema": {"type": "string"}}}
_LINK: JsonSchema = {"Link": {"description": "URL of the next page (`rel=next`)", "schema": {"type": "string"}}}
_LOCATION: JsonSchema = {"Location": {"description": "Path of the task", "schema": {"type": "string"}}}


@dataclass(frozen=True)
class Answer:
    """A response: its meaning, and the shape of its body (a model, a JSON schema, None for no body)."""

    meaning: str
    shape: Any = None
    headers: JsonSchema | None = None
    media_type: str = "application/json"


@dataclass(frozen=True)
class Operation:
    """One method of one path. `refusal` is the shape of errors that are not declared; `once` says whether the operation
    takes an Idempotency-Key."""

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


BAD = Answer("Request not valid", shapes.Problem, media_type="application/problem+json")
_UNKNOWN = Answer("Task not found", shapes.Problem, media_type="application/problem+json")
_CONFLICT = Answer("The task's state does not allow this", shapes.Problem, media_type="application/problem+json")


def _list(name: str, summary: str, answer: str, shape: Any) -> Operation:
    return Operation("get", f"/v2/{name}", f"list_{name}", summary, {200: Answer(answer, shape), 400: BAD}, "service")


#: What each tag stands for.
TAGS = {
    "tasks": "Submit, inspect and change tasks of any type",
    "service": "Task types, queues, workers, spend, health and metrics",
    "contract A": "An earlier interface: LLM tasks for rows",
    "contract B": "An earlier interface: LLM tasks from prompts",
    "contract D": "An earlier interface: jobs",
    "contract E": "An earlier interface: HTTP requests",
}
NATIVE = (
    Operation(
        "post", "/v2/tasks", "submit", "Submit a task of any type",
        {
            202: Answer("Task accepted", shapes.Accepted, _LOCATION),
            200: Answer(
                "An unfinished task has this unique key already, or the task ended within the requested wait",
                shapes.Accepted | TaskDetail, _LOCATION,
            ),
            400: BAD,
        },
        "tasks", requests.NewTask, parameters=(_WAIT,), once=True,
    ),
    Operation(
        "post", "/v2/tasks/batch", "submit_batch", "Submit up to 1,000 tasks; the valid ones share a transaction",
        {
            202: Answer("All tasks accepted", shapes.BatchAnswer),
            207: Answer("Some tasks accepted, some refused", shapes.BatchAnswer),
            400: BAD,
        },
        "tasks", requests.NewTasks, once=True,
    ),
    Operation(
        "get", "/v2/tasks", "list_tasks", "List the tasks that match a query, newest first",
        {200: Answer("A page of tasks", shapes.TaskPage, _LINK), 400: BAD}, "tasks", parameters=_PAGE,
    ),
    Operation(
        "get", "/v2/tasks/{task_id}", "show", "Show a task with its attempts, steps and timeline",
        {
            200: Answer("The task", TaskDetail, _ETAG),
            304: Answer("Task unchanged since the given ETag"),
            404: _UNKNOWN,
        },
        "tasks", parameters=(_WAIT, _KNOWN),
    ),
    Operation(
        "get", "/v2/tasks/{task_id}/events", "watch", "Stream a task's state and progress as server-sent events",
        {
            200: Answer("A stream of events", {"type": "string"}, media_type="text/event-stream"),
            204: Answer("Last-Event-ID was the final event; do not reconnect"),
            404: _UNKNOWN,
        },
        "tasks", parameters=(_LAST_EVENT,),
    ),
    Operation(
        "get", "/v2/tasks/{task_id}/tree", "tree", "Show a task and all its descendants",
        {200: Answer("The tasks, each before its children", Tree), 400: BAD, 404: _UNKNOWN},
        "tasks", parameters=(_NODES,),
    ),
    Operation(
        "delete", "/v2/tasks/{task_id}", "delete", "Delete a task that has ended",
        {204: Answer("Task deleted"), 404: _UNKNOWN, 409: _CONFLICT}, "tasks",
    ),
    Operation(
        "post", "/v2/tasks/{task_id}/cancel", "cancel", "Cancel a task",
        {
            200: Answer("Task cancelled", shapes.Outcome),
            202: Answer("Cancellation requested; the running task ends at its next step", shapes.Outcome),
            400: BAD, 404: _UNKNOWN, 409: _CONFLICT,
        },
        "tasks", requests.Reason, body_required=False,
    ),
    Operation(
        "post", "/v2/tasks/{task_id}/retry", "retry", "Run a dead or cancelled task again",
        {202: Answer("Task queued", shapes.Outcome), 404: _UNKNOWN, 409: _CONFLICT}, "tasks",
    ),
    Operation(
        "post", "/v2/tasks/{task_id}/reschedule", "reschedule", "Reschedule a waiting task",
        {200: Answer("Task rescheduled", shapes.Outcome), 400: BAD, 404: _UNKNOWN, 409: _CONFLICT},
        "tasks", requests.NewTime,
    ),
    Operation(
        "post", "/v2/operations", "operate", "Cancel, retry, reschedule or delete all tasks that match a query",
        {
            202: Answer("Operation started", shapes.OperationAnswer, _LOCATION),
            200: Answer("Number of tasks that match (dry_run)", shapes.DryRun),
            400: BAD,
        },
        "tasks", requests.NewOperation, once=True,
    ),
    Operation(
        "get", "/v2/dead", "list_dead", "List the dead tasks that match a query",
        {200: Answer("A page of tasks", shapes.TaskPage, _LINK), 400: BAD}, "tasks", parameters=_PAGE,
    ),
    Operation(
        "get", "/v2/dead/unreadable", "list_unreadable", "List dead letters: messages that could not be decoded",
        {200: Answer("Dead letters", shapes.UnreadablePage), 400: BAD}, "tasks", parameters=(_LIMIT, _CURSOR),
    ),
    _list("types", "List task types with their payload schemas", "The task types", shapes.Types),
    _list("queues", "List queues with their depth, running tasks and limits", "The queues", shapes.Queues),
    _list("workers", "List worker processes", "The workers", shapes.Workers),
    _list("schedules", "List schedules with their previous and next runs", "The schedules", shapes.Schedules),
)  # fmt: skip

OLD = (
    Operation(
        "post", "/api/tasks/llm", "submit_record", "Submit an LLM task for an existing row",
        {200: Answer("Task accepted", contracts.ENQUEUED_RECORD), 400: Answer("Request not valid", contracts.ENVELOPE)},
        "contract A", contracts.RECORD, refusal=contracts.ENVELOPE, once=True,
    ),
    Operation(
        "get", "/api/tasks", "old_list", "List tasks, newest first",
        {200: Answer("A page of tasks", contracts.TASKS), 400: Answer("Request not valid", contracts.ENVELOPE)},
        "contract A", parameters=contracts.LIST_PARAMETERS, refusal=contracts.ENVELOPE,
    ),
    Operation(
        "get", "/api/tasks/{task_id}", "old_show", "Show the status of a task",
        {200: Answer("The task", contracts.ONE_TASK), 404: Answer("Task not found", contracts.ENVELOPE)},
        "contract A", refusal=contracts.ENVELOPE,
    ),
    Operation(
        "post", "/api/v1/tasks/llm", "submit_prompt", "Submit an LLM task from a prompt",
        {200: Answer("Task accepted", contracts.ENQUEUED), 400: Answer("Request not valid", contracts.ERROR)},
        "contract B", contracts.PROMPT, refusal=contracts.ERROR, once=True,
    ),
    Operation(
        "post", "/jobs", "submit_job", "Submit a job with the request body as its payload",
        {202: Answer("Job accepted", contracts.JOB), 400: Answer("Request not valid", contracts.ERROR)},
        "contract D", {"type": "object"}, body_required=False, parameters=contracts.JOB_PARAMETERS,
        refusal=contracts.ERROR, once=True,
    ),
    Operation(
        "get", "/stats", "stats", "Show statistics of all processes", {200: Answer("The statistics", contracts.STATS)},
        "contract D", refusal=contracts.ERROR,
    ),
    Operation(
        "get", "/workers", "count_workers", "Count workers and running jobs",
        {200: Answer("The workers", contracts.WORKERS)},
        "contract D", refusal=contracts.ERROR,
    ),
    Operation(
        "post", "/api/v1/tasks", "submit_request", "Submit an HTTP request to repeat until it succeeds",
        {200: Answer("Task accepted", contracts.CREATED), 400: Answer("Request not valid", contracts.ERROR)},
        "contract E", contracts.REQUEST, refusal=contracts.ERROR, once=True,
    ),
    *(
        Operation(
            "get", path, name, summary, {200: Answer("Yes", contracts.HEALTH), **unready}, "service",
            refusal=contracts.ERROR,
        )
        for path, name, summary, unready in (
            ("/health", "health", "Check whether the process answers", {}),
            ("/healthz/startup", "startup", "Check whether the process has started", {}),
            ("/healthz/live", "live", "Check whether the process works", {503: Answer("No", contracts.ERROR)}),
            ("/healthz/ready", "ready", "Check whether both stores answer", {503: Answer("No", contracts.HEALTH)}),
        )
    ),
    Operation(
        "get", "/metrics", "metrics", "Show metrics in Prometheus' text format",
        {200: Answer("The metrics", {"type": "string"}, media_type="text/plain")}, "service", refusal=contracts.ERROR,
    ),
    Operation(
        "get", "/openapi.json", "openapi", "Show this document", {200: Answer("The document", {"type": "object"})},
        "service", refusal=contracts.ERROR,
    ),
    Operation(
        "get", "/docs", "docs", "Show this document as a web page",
        {200: Answer("The page", {"type": "string"}, media_type="text/html")}, "service", refusal=contracts.ERROR,
    ),
)  # fmt: skip

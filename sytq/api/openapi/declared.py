"""The parameters, bodies and responses of every endpoint, for the OpenAPI document.

A test compares the list with the app's routes. The old contracts' shapes are in `contracts`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sytq.api.openapi import contracts
from sytq.api.v2 import answers as shapes
from sytq.api.v2 import requests
from sytq.ledger.failures import PERIODS
from sytq.service.failures import FailuresView
from sytq.service.task_view import TaskDetail
from sytq.service.tree import Tree

JsonSchema = dict[str, Any]
_TEXT: JsonSchema = {"type": "string"}


def query(name: str, description: str, schema: JsonSchema) -> JsonSchema:
    return {"name": name, "in": "query", "description": description, "schema": schema}


def header(name: str, description: str, **limits: Any) -> JsonSchema:
    return {"name": name, "in": "header", "description": description, "schema": {"type": "string", **limits}}


_LIMIT = query("limit", "Page size", contracts.or_empty({"type": "integer", "minimum": 1, "maximum": 200}))
_CURSOR = query("cursor", "The `next` value of the previous page", {"type": "string"})
_QUERY = query(
    "q",
    "Selects tasks, in the query language of docs/query.md; all tasks when left out",
    {"type": "string", "maxLength": 2000},
) | {"examples": {"dead webhooks": {"value": "state:dead type:webhook age:>1h"}}}
_NODES = query(
    "limit",
    "Maximum number of tasks; those nearest the root come first (default 200)",
    contracts.or_empty({"type": "integer", "minimum": 1, "maximum": 1000}),
)
_TOTAL = query("total", "Whether to count all matching tasks, up to 10,000", contracts.or_empty({"type": "boolean"}))
_PERIOD = query("period", "What died within (default day)", contracts.or_empty({"enum": list(PERIODS)}))
_TYPE = query("type", "Only tasks of this type", _TEXT)
_AUDITED = (
    *(query(name, f"Only entries whose `{name}` contains this", _TEXT) for name in ("who", "what", "about")),
    *(
        query(name, f"{said} this time (RFC 3339), day (UTC), or duration before now", _TEXT)
        for name, said in (("since", "Not before"), ("until", "Before"))
    ),
)
_PAGE = (_QUERY, _LIMIT, _CURSOR, _TOTAL)
_WAIT = header("Prefer", "`wait=N` delays the response until the task has ended, for at most N seconds (up to 60)")
_KNOWN = header("If-None-Match", "The ETag of an earlier response")
_LAST_EVENT = header(
    "Last-Event-ID", "The id of the last event received; the stream continues once the task differs from it"
)
IDEMPOTENCY_KEY = header(
    "Idempotency-Key",
    "For 24 hours the same request with the same key gets the first response again",
    minLength=1,
    maxLength=255,
    pattern="^[!-~]([ -~]*[!-~])?$",
)
TASK_ID: JsonSchema = {
    "name": "task_id",
    "in": "path",
    "required": True,
    "description": "Id of the task",
    "schema": {"type": "string"},
}
IDEMPOTENT_REPLAYED: JsonSchema = {
    "Idempotent-Replayed": {
        "description": "Set when this is the response to an earlier request with the same Idempotency-Key",
        "schema": {"const": "true"},
    }
}
#: The usual errors by status.
REFUSALS = {400: "Request not valid", 404: "Task not found", 409: "The task's state does not allow this"}
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
    """One method of one path. `refusals` are the statuses of its usual errors, keys of REFUSALS; `once` says whether it
    takes an Idempotency-Key."""

    method: str
    path: str
    name: str
    summary: str
    tag: str
    answers: dict[int, Answer]
    refusals: tuple[int, ...] = ()
    request: Any = None
    body_required: bool = True
    parameters: tuple[JsonSchema, ...] = ()
    once: bool = False

    @property
    def refusal(self) -> Answer:
        """An error: problem details under /v2, and what `sytq.api.problems` makes of it elsewhere."""
        if self.path.startswith("/v2/"):
            return Answer("Request refused", shapes.Problem, media_type="application/problem+json")
        is_record = self.path.startswith("/api/tasks")
        return Answer("Request refused", contracts.ENVELOPE if is_record else contracts.ERROR)


def _list(name: str, summary: str, meaning: str, shape: Any) -> Operation:
    return Operation(
        "get", f"/v2/{name}", f"list_{name}", summary, "service", {200: Answer(meaning, shape)}, refusals=(400,)
    )


def _probe(path: str, name: str, summary: str, no: Any = None) -> Operation:
    answers = {200: Answer("Yes", contracts.HEALTH)}
    return Operation("get", path, name, summary, "service", answers | ({503: Answer("No", no)} if no else {}))


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
        "post", "/v2/tasks", "submit", "Submit a task of any type", "tasks",
        {
            202: Answer("Task accepted", shapes.Accepted, _LOCATION),
            200: Answer(
                "An unfinished task has this unique key already, or the task ended within the requested wait",
                shapes.Accepted | TaskDetail, _LOCATION,
            ),
        },
        (400,), requests.NewTask, parameters=(_WAIT,), once=True,
    ),
    Operation(
        "post", "/v2/tasks/batch", "submit_batch", "Submit up to 1,000 tasks; the valid ones share a transaction",
        "tasks",
        {
            202: Answer("All tasks accepted", shapes.BatchAnswer),
            207: Answer("Some tasks accepted, some refused", shapes.BatchAnswer),
        },
        (400,), requests.NewTasks, once=True,
    ),
    Operation(
        "get", "/v2/tasks", "list_tasks", "List the tasks that match a query, newest first", "tasks",
        {200: Answer("A page of tasks", shapes.TaskPage, _LINK)}, (400,), parameters=_PAGE,
    ),
    Operation(
        "get", "/v2/tasks/{task_id}", "show", "Show a task with its attempts, steps and timeline", "tasks",
        {200: Answer("The task", TaskDetail, _ETAG), 304: Answer("Task unchanged since the given ETag")},
        (404,), parameters=(_WAIT, _KNOWN),
    ),
    Operation(
        "get", "/v2/tasks/{task_id}/events", "watch", "Stream a task's state and progress as server-sent events",
        "tasks",
        {
            200: Answer("A stream of events", _TEXT, media_type="text/event-stream"),
            204: Answer("Last-Event-ID was the final event; do not reconnect"),
        },
        (404,), parameters=(_LAST_EVENT,),
    ),
    Operation(
        "get", "/v2/tasks/{task_id}/tree", "tree", "Show a task and all its descendants", "tasks",
        {200: Answer("The tasks, each before its children", Tree)}, (400, 404), parameters=(_NODES,),
    ),
    Operation(
        "delete", "/v2/tasks/{task_id}", "delete", "Delete a task that has ended", "tasks",
        {204: Answer("Task deleted")}, (404, 409),
    ),
    Operation(
        "post", "/v2/tasks/{task_id}/cancel", "cancel", "Cancel a task", "tasks",
        {
            200: Answer("Task cancelled", shapes.ChangeOutcome),
            202: Answer("Cancellation requested; the running task is interrupted", shapes.ChangeOutcome),
        },
        (400, 404, 409), requests.Cancellation, body_required=False,
    ),
    Operation(
        "post", "/v2/tasks/{task_id}/retry", "retry", "Run a dead or cancelled task again", "tasks",
        {202: Answer("Task queued", shapes.ChangeOutcome)}, (404, 409),
    ),
    Operation(
        "post", "/v2/tasks/{task_id}/reschedule", "reschedule", "Reschedule a waiting task", "tasks",
        {200: Answer("Task rescheduled", shapes.ChangeOutcome)}, (400, 404, 409), requests.NewTime,
    ),
    Operation(
        "post", "/v2/operations", "operate", "Cancel, retry, reschedule or delete all tasks that match a query",
        "tasks",
        {
            202: Answer("Operation started", shapes.OperationAnswer, _LOCATION),
            200: Answer("Number of tasks that match (dry_run)", shapes.DryRun),
        },
        (400,), requests.NewOperation, once=True,
    ),
    Operation(
        "get", "/v2/dead", "list_dead", "List the dead tasks that match a query", "tasks",
        {200: Answer("A page of tasks", shapes.TaskPage, _LINK)}, (400,), parameters=_PAGE,
    ),
    Operation(
        "get", "/v2/dead/unreadable", "list_unreadable", "List dead letters: messages that could not be decoded",
        "tasks", {200: Answer("Dead letters", shapes.UnreadablePage)}, (400,), parameters=(_LIMIT, _CURSOR),
    ),
    Operation(
        "get", "/v2/failures", "list_failures", "List dead tasks by cause", "tasks",
        {200: Answer("The causes, the most frequent first", FailuresView)}, (400,), parameters=(_PERIOD, _TYPE),
    ),
    Operation(
        "get", "/v2/audit", "list_audit", "List who did what, newest first", "tasks",
        {200: Answer("A page of entries", shapes.AuditPage)}, (400,), parameters=(*_AUDITED, _LIMIT, _CURSOR),
    ),
    _list("types", "List task types with their payload schemas", "The task types", shapes.TypeList),
    _list("queues", "List queues with their depth, running tasks and limits", "The queues", shapes.QueueList),
    _list("workers", "List worker processes", "The workers", shapes.WorkerList),
    _list("limiters", "List limiters with what they let pass and hold up", "The limiters", shapes.LimiterList),
    Operation(
        "post", "/v2/limiters/pause", "pause_limiter", "Pause a limiter, a type or a queue", "service",
        {200: Answer("Limiter paused", shapes.LimiterPaused)}, (400,), requests.LimiterPause,
    ),
    Operation(
        "post", "/v2/limiters/resume", "resume_limiter", "Resume a limiter, a type or a queue", "service",
        {200: Answer("Limiter resumed", shapes.LimiterResumed)}, (400,), requests.LimiterResumption,
    ),
    _list("mismatches", "List what differs between processes", "The mismatches", shapes.MismatchList),
    Operation(
        "get", "/v2/doctor", "diagnose", "Check the installation as sytq doctor does", "service",
        {200: Answer("What the checks found", shapes.Diagnosis)}, (400,),
    ),
    _list("schedules", "List schedules with their previous and next runs", "The schedules", shapes.ScheduleList),
    Operation(
        "post", "/v2/schedules/pause", "pause_schedule", "Pause a schedule", "service",
        {200: Answer("Schedule paused", shapes.SchedulePaused)}, (400,), requests.SchedulePause,
    ),
    Operation(
        "post", "/v2/schedules/resume", "resume_schedule", "Resume a schedule", "service",
        {200: Answer("Schedule resumed", shapes.ScheduleResumed)}, (400,), requests.OneSchedule,
    ),
    Operation(
        "post", "/v2/schedules/trigger", "trigger_schedule", "Submit the task of a schedule now", "service",
        {
            202: Answer("Task accepted", shapes.ScheduleTriggered, _LOCATION),
            200: Answer("An unfinished task has its unique key already", shapes.ScheduleTriggered, _LOCATION),
        },
        (400,), requests.OneSchedule, once=True,
    ),
)  # fmt: skip

OLD = (
    Operation(
        "post", "/api/tasks/llm", "submit_record", "Submit an LLM task for an existing row", "contract A",
        {200: Answer("Task accepted", contracts.ENQUEUED_RECORD)}, (400,), contracts.RECORD, once=True,
    ),
    Operation(
        "get", "/api/tasks", "old_list", "List tasks, newest first", "contract A",
        {200: Answer("A page of tasks", contracts.TASKS)}, (400,), parameters=contracts.LIST_PARAMETERS,
    ),
    Operation(
        "get", "/api/tasks/{task_id}", "old_show", "Show the status of a task", "contract A",
        {200: Answer("The task", contracts.ONE_TASK)}, (404,),
    ),
    Operation(
        "post", "/api/v1/tasks/llm", "submit_prompt", "Submit an LLM task from a prompt", "contract B",
        {200: Answer("Task accepted", contracts.ENQUEUED)}, (400,), contracts.PROMPT, once=True,
    ),
    Operation(
        "post", "/jobs", "submit_job", "Submit a job with the request body as its payload", "contract D",
        {202: Answer("Job accepted", contracts.JOB)}, (400,), {"type": "object"}, body_required=False,
        parameters=contracts.JOB_PARAMETERS, once=True,
    ),
    Operation(
        "get", "/stats", "stats", "Show statistics of all processes", "contract D",
        {200: Answer("The statistics", contracts.STATS)},
    ),
    Operation(
        "get", "/workers", "count_workers", "Count workers and running jobs", "contract D",
        {200: Answer("The workers", contracts.WORKERS)},
    ),
    Operation(
        "post", "/api/v1/tasks", "submit_request", "Submit an HTTP request to repeat until it succeeds", "contract E",
        {200: Answer("Task accepted", contracts.CREATED)}, (400,), contracts.REQUEST, once=True,
    ),
    _probe("/health", "health", "Check whether the process answers"),
    _probe("/healthz/startup", "startup", "Check whether the process has started"),
    _probe("/healthz/live", "live", "Check whether the process works", contracts.ERROR),
    _probe("/healthz/ready", "ready", "Check whether both stores answer", contracts.HEALTH),
    Operation(
        "get", "/metrics", "metrics", "Show metrics in Prometheus' text format", "service",
        {200: Answer("The metrics", _TEXT, media_type="text/plain")},
    ),
    Operation(
        "get", "/openapi.json", "openapi", "Show this document", "service",
        {200: Answer("The document", {"type": "object"})},
    ),
    Operation(
        "get", "/docs", "docs", "Show this document as a web page", "service",
        {200: Answer("The page", _TEXT, media_type="text/html")},
    ),
)  # fmt: skip

"""The bodies and parameters of the old contracts, as JSON Schemas."""

from __future__ import annotations

from typing import Any

from sytq.api.compat.llm_record import STATUS
from sytq.states import PRIORITIES

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_WHOLE: Schema = {"type": "integer"}
_MAYBE: Schema = {"type": ["string", "null"]}


def _object(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    return {"type": "object", "properties": required | (optional or {}), "required": list(required)}


def _success(data: Schema) -> Schema:
    return _object({"code": {"const": 200}, "message": _TEXT, "data": data})


ERROR = _object({"error": _TEXT})
ENVELOPE = _object({"code": _WHOLE, "message": _TEXT})

RECORD = _object(
    {
        "table_name": {"type": "string", "description": "A table of `llm.tables`"},
        "id": {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1, "not": {"const": 0}},
    }
)
ENQUEUED = _object({"task_id": _TEXT, "status": {"const": "enqueued"}})
ENQUEUED_RECORD = _success(ENQUEUED)
PROMPT = _object(
    {"prompt": {"type": "string", "minLength": 1}}, {"system": _MAYBE, "model": _MAYBE, "callback_url": _MAYBE}
)
REQUEST = _object(
    {"url": {"type": "string", "minLength": 1, "maxLength": 2048}},
    {
        "method": {"type": ["string", "null"], "description": "Default: POST"},
        "headers": {"type": ["object", "null"], "additionalProperties": _TEXT},
        "body": _MAYBE,
    },
)
CREATED = _object({"task_id": _TEXT, "message": _TEXT})

_TASK = _object(
    {
        "task_id": _TEXT,
        "status": {"enum": list(STATUS.values())},
        "queue_name": _TEXT,
        "created_at": {"type": "integer", "description": "Unix time in seconds"},
        "retry_count": _WHOLE,
        "type": _TEXT,
    }
)
ONE_TASK = _success(_TASK)
TASKS = _success(
    _object({"tasks": {"type": "array", "items": _TASK}, "total_count": _WHOLE, "limit": _WHOLE, "offset": _WHOLE})
)


def or_empty(schema: Schema) -> Schema:
    """The schema, or an empty value, which counts as no value."""
    return {"anyOf": [schema, {"const": ""}]}


def _forgiving(name: str, meaning: str, type: str | list[str] = "string") -> Schema:
    """A parameter whose values are never refused."""
    return {"name": name, "in": "query", "schema": {"type": type}, "description": meaning}


LIST_PARAMETERS: tuple[Schema, ...] = (
    _forgiving("status", f"One of {', '.join(STATUS.values())}; another word finds nothing"),
    _forgiving("queue_name", "A queue; `default` finds the valuations too"),
    _forgiving("limit", "1 to 100, default 10; else the default or the bound", ["integer", "string"]),
    _forgiving("offset", "Default 0", ["integer", "string"]),
)

JOB_PARAMETERS: tuple[Schema, ...] = (
    {"name": "type", "in": "query", "schema": {"type": "string"}, "description": "Task type (default `default`)"},
    {"name": "priority", "in": "query", "schema": {"enum": ["", *PRIORITIES]}},
)
JOB = _object({"job_id": _TEXT, "status": {"const": "submitted"}})
STATS = _object(
    {
        "jobs_submitted": _WHOLE,
        "jobs_completed": _WHOLE,
        "jobs_failed": _WHOLE,
        "workers_active": _WHOLE,
        "queue_size": _WHOLE,
        "uptime": {"type": "string", "examples": ["1h30m45s"]},
    }
)
WORKERS = _object(
    {
        "workers": _WHOLE,
        "jobs_running": _WHOLE,
        "list": {"type": "array", "items": _object({"worker_id": _TEXT, "heartbeat_age": {"type": "number"}})},
    }
)
HEALTH = _object(
    {
        "code": _WHOLE,
        "message": _TEXT,
        "status": _TEXT,
        "timestamp": {"type": "string", "format": "date-time"},
        "data": {"type": "object"},
    }
)

"""Contract B: an LLM task from a prompt, whose row this endpoint inserts."""

from __future__ import annotations

import secrets
from typing import Any, ClassVar

import falcon
import falcon.asgi
import peewee
from sytq_plugins.llm.config import LlmSettings
from sytq_plugins.llm.row import ValuationRecord

from sytq.api import problems
from sytq.api.body import text
from sytq.api.compat.body import read_object
from sytq.api.parts import Parts
from sytq.errors import InvalidInput, OutboundRefused

#: The table of the rows, and the widths of its columns.
_TABLE = "valuation_records"
_MAX_CALLBACK = 255
_FIELD_OF_COLUMN = {"user_message": "prompt", "sys_message": "system", "callback_url": "callback_url"}
_NAMES = frozenset(("prompt", "system", "model", "callback_url"))
_COLLISIONS = 3  # of 62 random bits; more means a faulty database


class PromptTasks:
    """POST /api/v1/tasks/llm"""

    scopes: ClassVar = {"POST": "submit"}

    def __init__(self, parts: Parts) -> None:
        settings = parts.runtime.settings.of(LlmSettings).llm
        self._enabled = _TABLE in settings.tables
        self._pending = settings.status_labels.pending
        self._submission = parts.submission
        self._guard = parts.runtime.guard

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        if not self._enabled:
            raise falcon.HTTPForbidden(description=f"llm.tables does not list {_TABLE}, which this endpoint fills")
        fields = read_object(req, _NAMES)
        row: dict[str, Any] = {
            "status": self._pending,
            "user_message": text(fields, "prompt", required=True),
            "sys_message": text(fields, "system") or "",
            "callback_url": self._callback(fields) or "",
            **dict.fromkeys(("report", "failed_info", "progress", "progress_info"), ""),  # Go cannot read NULL
        }
        model = text(fields, "model", max_length=200)
        for again in range(_COLLISIONS):
            # Negative: the callers of contract A count up from 1.
            row["id"] = -1 - secrets.randbits(62)
            payload = {"table_name": _TABLE, "id": row["id"]} | ({"model": model} if model else {})
            try:
                task_id = await self._submission.enqueue(
                    req, "llm", payload, also=lambda: ValuationRecord.insert(row).execute()
                )
                break
            except peewee.IntegrityError:
                if again == _COLLISIONS - 1:
                    raise
            except peewee.DataError as error:
                raise _unfit(error) from None
        resp.data = problems.encode({"task_id": task_id, "status": "enqueued"})

    def _callback(self, fields: dict[str, Any]) -> str | None:
        url = text(fields, "callback_url", max_length=_MAX_CALLBACK)
        if url is not None:
            try:
                self._guard.check_url(url)
            except OutboundRefused as error:
                raise InvalidInput("callback_url", str(error)) from None
        return url


def _unfit(error: peewee.DataError) -> Exception:
    """An error for a value too long for the caller's table; the database's own text may quote the prompt."""
    for column, field in _FIELD_OF_COLUMN.items():
        if column in str(error):
            return InvalidInput(
                field, f"does not fit into {_TABLE}.{column} (too long, or not in the column's character set)"
            )
    return RuntimeError(f"{_TABLE} refused a row: error {error.args[0] if error.args else ''}"[:200])

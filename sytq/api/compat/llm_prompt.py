"""Contract B: an LLM task from a prompt, whose row this endpoint inserts."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar

import falcon.asgi
import peewee
import structlog
from sytq_plugins.llm import obstacles
from sytq_plugins.llm.config import LlmSettings, StatusLabels
from sytq_plugins.llm.row import FORM_TABLE, Rows, ValuationRecord, column_of, explain

from sytq import Fail
from sytq.api import problems
from sytq.api.body import text
from sytq.api.compat.body import read_object
from sytq.api.parts import Parts
from sytq.errors import DatabaseUnavailable, InvalidInput, OutboundRefused
from sytq.ledger.database import is_mysql
from sytq.ledger.refusals import code_of, text_of

log = structlog.get_logger(__name__)

#: The width of a column in contract A.
_MAX_CALLBACK = 255
_FIELD_OF_COLUMN = {"user_message": "prompt", "sys_message": "system", "callback_url": "callback_url"}
_NAMES = frozenset(("prompt", "system", "model", "callback_url"))
_RETRY_AFTER = 60  # seconds; the table's owner has to mend it
_COLLISIONS = 3  # of 62 random bits; more means a faulty database


class PromptTasks:
    """POST /api/v1/tasks/llm"""

    scopes: ClassVar = {"POST": "submit"}

    def __init__(self, parts: Parts) -> None:
        settings = parts.runtime.settings.of(LlmSettings).llm
        self._enabled = FORM_TABLE in settings.tables
        self._pending = settings.status_labels.pending
        self._submission = parts.submission
        self._guard = parts.runtime.guard
        self._rows = Rows(parts.runtime.database, FORM_TABLE)
        if self._enabled and is_mysql(parts.runtime.database):
            parts.at_start.append(partial(_tell_obstacles, parts.runtime.database, settings.status_labels))

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        if not self._enabled:
            raise falcon.HTTPForbidden(description=f"llm.tables does not list {FORM_TABLE}, which this endpoint fills")
        fields = read_object(req, _NAMES)
        row: dict[str, Any] = {
            "status": self._pending,
            "user_message": text(fields, "prompt", required=True),
            "sys_message": text(fields, "system") or "",
            "callback_url": self._callback(fields) or "",
            **dict.fromkeys(("report", "failed_info", "progress", "progress_info"), ""),  # Go cannot read NULL
        }
        model = text(fields, "model", max_length=200)
        refusals: list[peewee.PeeweeException] = []  # of the row, not of the task

        def insert() -> None:
            try:
                ValuationRecord.insert(row).execute()
            except peewee.PeeweeException as error:
                refusals.append(error)
                raise
            self._rows.get(row["id"])  # raises Fail where ids are texts, which take a number too

        for again in range(_COLLISIONS):
            # Negative: the callers of contract A count up from 1.
            row["id"] = -1 - secrets.randbits(62)
            payload = {"table_name": FORM_TABLE, "id": row["id"]} | ({"model": model} if model else {})
            try:
                task_id = await self._submission.enqueue(req, "llm", payload, also=insert)
                break
            except Fail as error:
                raise _unfit(str(error)) from None
            except peewee.PeeweeException as error:
                if error not in refusals:
                    raise
                if again == _COLLISIONS - 1 or not _is_collision(error):
                    raise _refusal(error, row) from None
        resp.data = problems.encode({"task_id": task_id, "status": "enqueued"})

    def _callback(self, fields: dict[str, Any]) -> str | None:
        url = text(fields, "callback_url", max_length=_MAX_CALLBACK)
        if url is not None:
            try:
                self._guard.check_url(url)
            except OutboundRefused as error:
                raise InvalidInput("callback_url", str(error)) from None
        return url


def _tell_obstacles(database: peewee.Database, labels: StatusLabels) -> None:
    with suppress(DatabaseUnavailable, peewee.PeeweeException):  # /healthz/ready says so
        for obstacle in obstacles.obstacles(database, FORM_TABLE, labels):
            obstacles.tell(FORM_TABLE, obstacle)


def _is_collision(error: peewee.PeeweeException) -> bool:
    """Whether the new id is taken, rather than another value of the row."""
    code, text = code_of(error), text_of(error)
    taken = f"UNIQUE constraint failed: {FORM_TABLE}.id"
    return bool(text == taken if code is None else code == 1062 and text.endswith("PRIMARY'"))


def _refusal(error: peewee.PeeweeException, row: Mapping[str, Any]) -> Exception:
    """The response for a row that the caller's table does not take; the database's own text may quote the prompt."""
    column = column_of(error)
    if column in _FIELD_OF_COLUMN:
        said = f"does not fit into {FORM_TABLE}.{column} (too long, or not in the column's character set)"
        return InvalidInput(_FIELD_OF_COLUMN[column], said)
    reason = explain(error, FORM_TABLE, dict(row))
    if reason is None:
        return error
    return _unfit(reason)


def _unfit(reason: str) -> Exception:
    log.error("prompt refused: its row does not fit the table", table=FORM_TABLE, error=reason)
    return falcon.HTTPServiceUnavailable(description=f"{reason}; nothing was accepted", retry_after=_RETRY_AFTER)

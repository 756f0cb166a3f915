"""The form that submits a task of a type, made from the schemas of the payload and of POST /v2/tasks."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from functools import cache, partial
from typing import Any, ClassVar

import falcon.asgi
from multidict import MultiDict
from pydantic import BaseModel

from sytq.api.dashboard.fields import ABSENT, Field
from sytq.api.dashboard.page import Answer, Done, Page
from sytq.api.dashboard.prefill import json_form, prefill
from sytq.api.dashboard.resubmission import FROM, unmasked
from sytq.api.dashboard.schema import Schema
from sytq.api.dashboard.schema_form import changed, fields, value_of
from sytq.api.v2 import requests
from sytq.api.v2.tasks import prepared
from sytq.config.masking import masked
from sytq.errors import InvalidFields, InvalidInput
from sytq.ids import new_id
from sytq.ledger.insert import Existing
from sytq.ledger.models import Task
from sytq.ledger.values import parsed
from sytq.tasktypes.payload import written
from sytq.tasktypes.tasktype import TaskType

#: The fields of a request beside its type and payload.
_OPTIONS = ("priority", "delay", "run_at", "unique_key", "metadata", "callback")
#: Characters of a payload that are edited in a browser.
_MAX_PREFILL = 1_000_000

Form = Mapping[str, str]


class NewTask(Page):
    """GET and POST /dashboard/types/{name}/new; `from` is a task whose payload is in the form at first."""

    template = "new_task.html"
    section = "/types"
    scopes: ClassVar = {"GET": "submit", "POST": "submit"}
    parameters: ClassVar = {"GET": ("from",)}

    async def read(self, req: falcon.asgi.Request, **path: str) -> dict[str, Any]:
        declared, form = self._type(req, path["name"]), {}
        if like := req.get_param("from"):
            form = _form_of(await self._like(req, like, declared), declared)
        return {
            "type": declared,
            "like": like,
            "key": new_id(),
            "drawn": partial(_drawn, _schema(declared.payload), form),
        }

    async def act(self, req: falcon.asgi.Request, form: MultiDict[str], **path: str) -> Done | Answer:
        declared = self._type(req, path["name"])
        if "change" in form:
            req.context.audit_detail = None  # a button changed the form alone
            return Answer({"form": form})
        wanted = _values(_schema(declared.payload), form)
        if like := form.get("like"):
            row = await self._like(req, like, declared)
            wanted["payload"] = unmasked(wanted.get("payload"), _payload(row, declared), "payload")
            metadata = unmasked(wanted.get("metadata") or {}, parsed(row.metadata), "metadata")
            wanted["metadata"] = metadata | {FROM: row.id} if isinstance(metadata, dict) else metadata
        req.context.idempotency_key = form.get("key") or None  # a form that is sent twice submits one task
        tasks = prepared(self._parts, req, {"type": declared.name, **wanted})
        (accepted,) = await self._parts.submission.accept(req, tasks)
        if isinstance(accepted, Existing):
            return self._done(req, accepted.id, "Nothing was submitted: this unfinished task has the unique key")
        return self._done(req, accepted.id, "The task is submitted")

    def _type(self, req: falcon.asgi.Request, name: str) -> TaskType:
        """Raises HTTPNotFound, HTTPForbidden."""
        registry = self._parts.runtime.registry
        if name not in registry or registry.get(name).internal:
            raise falcon.HTTPNotFound(description=f"there is no task type {name[:64]!r} that can be submitted")
        self._parts.submission.check_type(req.context.caller, name)
        return registry.get(name)

    async def _like(self, req: falcon.asgi.Request, task_id: str, declared: TaskType) -> Task:
        req.context.caller.require_scope("read", "to submit a task like another one, ")
        row, _ = await self._parts.data_loader.get(task_id)
        if row is None or not req.context.caller.can_see(row.owner) or row.type != declared.name:
            raise falcon.HTTPNotFound(description=f"there is no task {task_id[:64]!r} of this type")
        return row

    def _done(self, req: falcon.asgi.Request, task_id: str, said: str) -> Done:
        if req.context.caller.may("read"):
            return Done(f"/tasks/{task_id}", said)
        return Done(req.path.removeprefix("/dashboard"), f"{said}: {task_id}")


def _schema(model: type[BaseModel]) -> Schema:
    return Schema(model.model_json_schema() | {"title": "payload"})


@cache
def _options() -> Schema:
    found = requests.NewTask.model_json_schema()
    properties = {name: found["properties"][name] for name in _OPTIONS}
    properties["delay"] |= {
        "anyOf": [{"type": "string", "minLength": 1, "maxLength": 100}, {"type": "null"}]
    }  # as text alone
    return Schema(found | {"title": "task", "description": "", "properties": properties, "required": []})


def _values(schema: Schema, form: Form) -> dict[str, Any]:
    """The payload and the options of a form; all that cannot be read is in one InvalidFields."""
    wrong: list[tuple[str, str]] = []
    found: dict[str, Any] = {}
    for name, known in (("payload", schema), ("task", _options())):
        try:
            found[name] = value_of(fields(known, form, name))
        except InvalidInput as error:
            wrong += error.fields
    if wrong:
        raise InvalidFields([(path.removeprefix("task."), said) for path, said in wrong])
    given = {} if found["payload"] is ABSENT else {"payload": found["payload"]}
    return {**given, **found["task"]}


def _drawn(schema: Schema, prefilled: Form, form: Form, errors: Mapping[str, str]) -> tuple[Field, Field]:
    """The fields of the payload and of the options, with what was sent and what is wrong with it."""
    form = _after(schema, form) if form else prefilled
    payload, options = fields(schema, form, "payload"), fields(_options(), form, "task")
    for path, said in errors.items():
        root, _, rest = path.partition(".")
        if root == "payload":
            payload.place(rest, said)
        elif root in _OPTIONS:
            options.place(path, said)
    return payload, options


def _after(schema: Schema, form: Form) -> Form:
    """The form after one of its buttons; what would make it too large is not done."""
    change = form.get("change", "")
    if change in ("as-json", "as-fields"):
        payload = fields(schema, form, "payload")
        if any(field.errors for _, field in payload.all()):
            return form
        rest = {name: value for name, value in form.items() if not name.startswith("payload")}
        value = payload.value()
        return rest | (json_form(value, "payload") if change == "as-json" else prefill(schema, value, "payload"))
    after = changed(form, change)
    try:
        fields(schema, after, "payload")
    except InvalidInput:
        return form
    return after


def _form_of(row: Task, declared: TaskType) -> dict[str, str]:
    """The form of a task like this one, in which secrets are masked; without its unique key and callback."""
    if len(row.payload) > _MAX_PREFILL:
        raise falcon.HTTPConflict(description=f"the payload has more than {_MAX_PREFILL:,} characters; use the API")
    options = {"priority": row.priority, "metadata": masked("", parsed(row.metadata))}
    given = {name: value for name, value in options.items() if value is not None}
    try:
        payload = masked("", _payload(row, declared))
        return prefill(_schema(declared.payload), payload, "payload") | prefill(_options(), given, "task")
    except RecursionError:  # of another program's row: a submission has a bounded depth
        raise falcon.HTTPConflict(description="the payload is nested too deep for a form; use the API") from None


def _payload(row: Task, declared: TaskType) -> Any:
    """A task's payload in its present form, or as it is when it is not valid any more."""
    payload = parsed(row.payload)
    with contextlib.suppress(Exception):  # InvalidFields, and whatever the type's `upgrade` raises
        payload = json.loads(written(declared.parse(payload, row.version)))
    return payload

"""The task types: what is declared and configured of each, pause and resume."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import falcon.asgi
from multidict import MultiDict

from sytq.api.dashboard.page import Done, Page
from sytq.api.dashboard.pausing import LATER, SCOPES, reason
from sytq.api.dashboard.schema import Schema, hint, word
from sytq.api.dashboard.stores import gathered
from sytq.config.masking import mask_text
from sytq.errors import RedisUnavailable
from sytq.ledger.models import Pause
from sytq.ledger.search import COUNT_MAX
from sytq.service import status
from sytq.states import STATES
from sytq.tasktypes.tasktype import TaskType

_SCHEMA_MAX = 50_000  # characters that are shown


class Types(Page):
    """GET /dashboard/types"""

    template = "types.html"
    section = "/types"
    is_shared = True

    async def read(self, req: falcon.asgi.Request, **path: str) -> dict[str, Any]:
        runtime = self._parts.runtime
        found = await gathered(pauses=self._parts.sql.run(runtime.operator.pauses))
        quarantined = [(each.source, mask_text(each.error)) for each in runtime.registry.quarantined]
        types = status.types(runtime.registry, found["pauses"] or ())
        types = sorted(types, key=lambda one: one["paused"] is None)  # the overview leads here to those that are paused
        return found | {"types": types, "quarantined": quarantined}


class OneType(Page):
    """GET /dashboard/types/{name}"""

    template = "type.html"
    section = "/types"
    scopes: ClassVar = SCOPES

    async def read(self, req: falcon.asgi.Request, **path: str) -> dict[str, Any]:
        name, runtime, sql = path["name"], self._parts.runtime, self._parts.sql
        declared = runtime.registry.get(name) if name in runtime.registry else None
        # Counts are over all owners.
        counting = {"counts": sql.run(self._parts.search.counts, [name])} if req.context.caller.is_admin else {}
        found = await gathered(pauses=sql.run(runtime.operator.pauses), **counting)
        pauses: list[Pause] = found["pauses"] or []
        view = next((each for each in status.types(runtime.registry, pauses) if each["type"] == name), None)
        if view is None:
            raise falcon.HTTPNotFound(description=f"there is no task type {name[:64]!r}")
        counts = found.get("counts")
        numbers = counts.by_type[name] if counts is not None else {}
        schema = json.dumps(declared.payload.model_json_schema(), ensure_ascii=False, indent=2) if declared else None
        return found | {
            "view": view,
            "type": declared,
            "counts": {state: numbers.get(state) for state in STATES},
            "count_max": COUNT_MAX,
            "schedules": [
                (each, scheduled.schedule)
                for each, scheduled in sorted(runtime.registry.schedules.items())
                if scheduled.type == name
            ],
            "limits": runtime.settings.queue_limits.get(declared.queue) if declared else None,
            "search_fields": declared.search if declared else (),
            "fields": _fields(declared) if declared else [],
            "schema": schema[:_SCHEMA_MAX] if schema else None,
        }


class PauseType(OneType):
    """POST /dashboard/types/{name}/pause"""

    async def act(self, req: falcon.asgi.Request, form: MultiDict[str], **path: str) -> Done:
        name, why, caller = path["name"], reason(form), req.context.caller
        said = f"{name} is paused"
        try:
            await self._parts.sql.finish(self._parts.runtime.operator.pause, name, by=caller.name, why=why)
        except RedisUnavailable:
            said = f"{name} is paused. {LATER}"
        req.context.audit_detail = why
        return Done(f"/types/{name}", said)


class ResumeType(OneType):
    """POST /dashboard/types/{name}/resume"""

    async def act(self, req: falcon.asgi.Request, form: MultiDict[str], **path: str) -> Done:
        name = path["name"]
        try:
            resumed = await self._parts.sql.finish(self._parts.runtime.operator.resume, name)
            said = f"{name} is resumed" if resumed else f"{name} was not paused"
        except RedisUnavailable:
            said = f"{name} is resumed. {LATER}"
        return Done(f"/types/{name}", said)


def _fields(declared: TaskType) -> list[dict[str, Any]]:
    """The fields of a payload in words."""
    schema = Schema(declared.payload.model_json_schema())
    variants, _ = schema.variants(schema.root)
    found = []
    for root in variants[:1]:
        for name, node in root.get("properties", {}).items():
            kinds, nullable = schema.variants(node)
            words = list(dict.fromkeys(word(kind) for kind in kinds)) + (["null"] if nullable else [])
            found.append(
                {
                    "name": name,
                    "kind": " or ".join(words) or "any",
                    "is_required": name in root.get("required", ()),
                    "hint": hint(name, node, kinds[0] if kinds else {}),
                }
            )
    return found

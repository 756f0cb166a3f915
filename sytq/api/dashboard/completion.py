"""What the field for a query offers while it is typed into."""

from __future__ import annotations

from typing import ClassVar

import falcon.asgi

from sytq.api import problems
from sytq.api.parameters import number, parameter
from sytq.api.parts import Resource
from sytq.ledger.completion import Completion as Known
from sytq.ledger.query.completion import Completion, complete
from sytq.ledger.query.parse import LONGEST
from sytq.ledger.values import utcnow


class Complete(Resource):
    """GET /dashboard/tasks/complete: what may stand in `q` from `start` to `end`, for a cursor at `at`."""

    parameters: ClassVar = {"GET": ("q", "at")}

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        text = (parameter(req, "q") or "")[:LONGEST]
        at = number(req, "at", len(text), min_value=0)
        found = await self._parts.sql.run(self._complete, text, at, req.context.caller.visible_owner)
        offered = [{"text": one.text, "note": one.note} for one in found.suggestions]
        resp.data = problems.encode({"start": found.start, "end": found.end, "suggestions": offered})
        resp.set_header("Cache-Control", "no-store")

    def _complete(self, text: str, at: int, owner: str | None) -> Completion:
        registry, ledger = self._parts.runtime.registry, Known(self._parts.runtime.database)

        def values(field: str, path: tuple[str, ...], typed: str) -> list[str]:
            if field == "type":
                return sorted(declared.name for declared in registry)
            if field == "queue":
                return sorted(registry.queues)
            if field in ("host", "worker"):
                return ledger.recent(field, owner=owner)
            if field == "owner" or path:
                return ledger.values(".".join((field, *path)), typed, owner=owner)
            return []

        def below(field: str) -> list[str]:
            prefix = f"{field}."
            return [name.removeprefix(prefix) for name in ledger.names(owner) if name.startswith(prefix)]

        return complete(text, at, values, below, utcnow().date())

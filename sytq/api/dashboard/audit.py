"""The page of the audit log."""

from __future__ import annotations

from typing import Any, ClassVar

import falcon.asgi

from sytq.api.dashboard.page import Page
from sytq.api.parameters import number, parameter
from sytq.errors import InvalidInput
from sytq.ledger.audit import Audit, AuditFilter, AuditPage, read_period

_LIMIT = 100
_TEXTS = ("who", "what", "about")
_PERIOD = ("since", "until")


class AuditLog(Page):
    """GET /dashboard/audit"""

    template = "audit.html"
    section = "/audit"
    scopes: ClassVar = {"GET": "admin"}
    parameters: ClassVar = {"GET": (*_TEXTS, *_PERIOD, "before")}

    async def read(self, req: falcon.asgi.Request, **path: str) -> dict[str, Any]:
        asked = {name: (parameter(req, name) or "").strip()[:255] for name in (*_TEXTS, *_PERIOD)}
        errors, period = {}, {}
        for name in _PERIOD:
            try:
                period[name] = read_period(name, asked[name])
            except InvalidInput as error:
                errors[name] = error.message
        before = number(req, "before", 0, min_value=0) or None
        found = AuditPage([], None, None)
        if not errors:
            wanted = AuditFilter(asked["who"], asked["what"], asked["about"], period["since"], period["until"])
            audit = Audit(self._parts.runtime.database)
            found = await self._parts.sql.run(audit.page, wanted, limit=_LIMIT, before=before)
        given = {name: text or None for name, text in asked.items()}
        return {"page": found, "asked": asked, "given": given, "errors": errors, "before": before}

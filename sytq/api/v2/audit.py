"""GET /v2/audit: who did what to what, and when."""

from __future__ import annotations

from typing import ClassVar

import falcon.asgi

from sytq.api import problems
from sytq.api.parameters import number, parameter
from sytq.api.parts import Resource
from sytq.api.v2.answers import AuditPage
from sytq.ledger.audit import Audit, AuditFilter, read_period
from sytq.ledger.values import iso

_MAX_LIMIT = 200


class AuditLog(Resource):
    """GET /v2/audit, newest first; a page may have fewer entries than `limit` and a next one all the same."""

    scopes: ClassVar = {"GET": "admin"}
    parameters: ClassVar = {"GET": ("who", "what", "about", "since", "until", "limit", "cursor")}

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        who, what, about = (parameter(req, name) or "" for name in ("who", "what", "about"))
        since, until = (read_period(name, parameter(req, name) or "") for name in ("since", "until"))
        limit = number(req, "limit", 50, min_value=1, max_value=_MAX_LIMIT)
        before = number(req, "cursor", 0, min_value=0) or None
        audit = Audit(self._parts.runtime.database)
        wanted = AuditFilter(who, what, about, since, until)
        found = await self._parts.sql.run(audit.page, wanted, limit=limit, before=before)
        page: AuditPage = {
            "entries": [
                {"at": iso(row.at), "who": row.who, "what": row.what, "about": row.about, "detail": row.detail}
                for row in found.entries
            ],
            "next": None if found.next is None else str(found.next),
            "searched_to": None if found.looked_back_to is None else iso(found.looked_back_to),
        }
        resp.data = problems.encode(page)

"""GET /v2/doctor: what `sytq doctor` finds on the machine of this process, kept for a minute."""

from __future__ import annotations

from dataclasses import asdict
from typing import ClassVar, cast

import falcon.asgi

from sytq.api import problems
from sytq.api.parts import Resource
from sytq.api.v2.answers import Diagnosis, FindingView
from sytq.ledger.values import iso
from sytq.service.finding import FAIL


class Checks(Resource):
    """GET /v2/doctor"""

    scopes: ClassVar = {"GET": "admin"}

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        found = await self._parts.doctor.findings()
        if found.failed:
            raise falcon.HTTPServiceUnavailable(description=found.failed)
        ok = not any(each.verdict == FAIL for each in found.findings)
        checks = [cast(FindingView, asdict(each)) for each in found.findings]
        answer: Diagnosis = {"ok": ok, "at": iso(found.at), "checks": checks}
        resp.data = problems.encode(answer)

"""POST /v2/operations: one change to all matching tasks, done by a task of the type `bulk`."""

from __future__ import annotations

import falcon.asgi

from sytq import clock
from sytq.api import problems
from sytq.api.body import read_object
from sytq.api.parts import Resource
from sytq.api.task_control import signed
from sytq.api.v2.requests import NewOperation, when
from sytq.service.bulk import description, plan
from sytq.tasktypes.payload import validated


class Operations(Resource):
    """POST /v2/operations. Without the scope admin, limited to the owner's tasks."""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        wanted = validated(NewOperation, read_object(req), "body")
        now = await self._parts.sql.run(self._parts.search.now)
        run_at = None
        if wanted.delay is not None or wanted.run_at is not None:
            run_at = when(wanted) or clock.utc()
        owner = req.context.caller.visible_owner
        payload = description(wanted.action, wanted.q, now, signed(req, wanted.reason), run_at, owner)
        if wanted.dry_run:
            req.context.audit_detail = None
            found = await self._parts.sql.run(plan, self._parts.search, wanted.action, wanted.q, now, owner)
            counted = {"matched": found.matched.number, "matched_is_exact": found.matched.exact}
            unchanged = {state: count.number for state, count in found.unchanged.items()}
            answer = {"action": wanted.action, "q": wanted.q, **counted, "unchanged": unchanged}
            resp.data = problems.encode(answer)
            return
        task_id = await self._parts.submission.operation(req, payload)
        req.context.audit_detail = f"{wanted.action} as {task_id}: {wanted.q}"
        resp.status = falcon.HTTP_202
        resp.set_header("Location", f"/v2/tasks/{task_id}")
        resp.data = problems.encode(
            {"id": task_id, "action": wanted.action, "q": wanted.q, "href": f"/v2/tasks/{task_id}"}
        )

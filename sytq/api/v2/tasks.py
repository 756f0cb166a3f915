"""POST /v2/tasks, POST /v2/tasks/batch, GET /v2/tasks and GET /v2/dead. Lists are read from the ledger alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar
from urllib.parse import urlencode

import falcon.asgi

from sytq.api import problems
from sytq.api.body import read_object
from sytq.api.parameters import flag, number, parameter
from sytq.api.parts import Parts, Resource
from sytq.api.task_control import detail
from sytq.api.v2.requests import NewTask, NewTasks, NextTask, checked, when
from sytq.api.v2.waiting import wait_preferred
from sytq.errors import InvalidFields, InvalidInput
from sytq.ledger.insert import Acceptance, Existing, Refused
from sytq.ledger.insert import NewTask as Prepared
from sytq.ledger.query import Filter, parse
from sytq.ledger.search import COUNT_MAX
from sytq.ledger.values import iso
from sytq.service.bulk import dead_or_cancelled
from sytq.service.task_view import task_view
from sytq.tasktypes.payload import validated

_LIMIT, _MAX_LIMIT = 20, 200
_PAGE = ("q", "limit", "cursor", "total")


class Tasks(Resource):
    """POST /v2/tasks and GET /v2/tasks"""

    scopes: ClassVar = {"POST": "submit"}
    parameters: ClassVar = {"GET": _PAGE}

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        tasks = prepared(self._parts, req, read_object(req))
        accepted = await self._parts.submission.accept(req, tasks)
        answer, *then = map(_result, tasks, accepted)
        if then:
            answer["then"] = then
        resp.status = falcon.HTTP_200 if answer["existing"] else falcon.HTTP_202
        resp.set_header("Location", f"/v2/tasks/{answer['id']}")
        resp.data = problems.encode(answer)
        caller = req.context.caller
        if caller.may("read") and await wait_preferred(self._parts, req, resp, answer["id"]):
            row, live = await self._parts.data_loader.get(answer["id"])
            if row is not None and caller.can_see(row.owner):
                resp.status, resp.data = falcon.HTTP_200, problems.encode(await detail(self._parts, row, live))

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        await _page(self._parts, req, resp, parse)


class Dead(Resource):
    """GET /v2/dead: the list of dead tasks, or of cancelled ones with `state:cancelled`."""

    parameters: ClassVar = {"GET": _PAGE}

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        await _page(self._parts, req, resp, dead_or_cancelled)


class Batch(Resource):
    """POST /v2/tasks/batch"""

    scopes: ClassVar = {"POST": "submit"}

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        wanted = validated(NewTasks, read_object(req), "body").tasks
        outcomes: list[Prepared | InvalidInput] = []
        for item in wanted:
            try:
                if not isinstance(item, dict):
                    raise InvalidInput("task", "a JSON object is needed")
                task, *then = prepared(self._parts, req, item)
                if then:
                    raise InvalidInput("then", "not for a task of a batch")
                outcomes.append(task)
            except InvalidInput as error:
                outcomes.append(error)
        good = [one for one in outcomes if not isinstance(one, InvalidInput)]
        if not good:
            raise InvalidFields(
                [(f"tasks.{n}.{e.field}", e.message) for n, e in enumerate(outcomes) if isinstance(e, InvalidInput)]
            )
        accepted = await self._parts.submission.accept_each(req, good)
        if len(accepted) != len(good):  # from an earlier request, made when other types were installed
            raise falcon.HTTPConflict(
                description=f"Idempotency-Key: the first request with this key accepted {len(accepted)} tasks, but"
                f" {len(good)} tasks of this batch are valid now; see GET /v2/tasks"
            )
        rest = iter(accepted)
        results = [_error(one) if isinstance(one, InvalidInput) else _result(one, next(rest)) for one in outcomes]
        refused = sum("error" in result for result in results)
        resp.status = falcon.HTTP_207 if refused else falcon.HTTP_202
        resp.data = problems.encode({"accepted": len(wanted) - refused, "refused": refused, "results": results})


async def _page(
    parts: Parts, req: falcon.asgi.Request, resp: falcon.asgi.Response, read: Callable[[str], Filter]
) -> None:
    """Answer with a page of the tasks that match the query as parsed by `read`."""
    text = parameter(req, "q") or ""
    wanted = req.context.caller.limited(read(text))
    limit = number(req, "limit", _LIMIT, min_value=1, max_value=_MAX_LIMIT)
    counted = flag(req, "total")
    try:
        page = await parts.sql.run(parts.search.page, wanted, limit=limit, after=parameter(req, "cursor"))
    except InvalidInput as error:
        raise InvalidInput("cursor", error.message) from None
    registry = parts.runtime.registry
    answer: dict[str, Any] = {
        "tasks": [task_view(task, registry) for task in page.tasks],
        "next": page.next,
        "searched_to": iso(page.searched_to) if page.searched_to else None,
    }
    if counted:
        total = await parts.sql.run(parts.search.count, wanted, COUNT_MAX)
        answer |= {"total": total.number, "total_is_exact": total.exact}
    if page.next is not None:
        following = {"q": text, "limit": limit, "cursor": page.next}
        resp.set_header("Link", f'<{req.path}?{urlencode(following)}>; rel="next"')
    resp.data = problems.encode(answer)


def prepared(parts: Parts, req: falcon.asgi.Request, fields: dict[str, Any]) -> list[Prepared]:
    """The task of a request's object and its `then` tasks, not accepted yet. Raises InvalidInput."""
    wanted = validated(NewTask, fields, "body")
    tasks = [_prepared(parts, req, wanted, run_at=when(wanted), unique_key=wanted.unique_key)]
    for place, described in enumerate(wanted.then):
        behind = {"parent": tasks[0].id, "after": (tasks[-1].id,), "on_failure": described.on_failure}
        try:
            tasks.append(_prepared(parts, req, described, **behind))
        except InvalidInput as error:
            raise InvalidFields([(f"then.{place}.{name}", said) for name, said in error.fields]) from None
    return tasks


def _prepared(parts: Parts, req: falcon.asgi.Request, wanted: NewTask | NextTask, **options: Any) -> Prepared:
    try:
        return parts.submission.prepare(
            req,
            wanted.type,
            wanted.payload,
            priority=wanted.priority,
            metadata=wanted.metadata,
            callback=checked(wanted.callback, parts.runtime.guard),
            **options,
        )
    except InvalidFields as error:
        # The type's own model does not know the path of its payload.
        raise InvalidFields(
            [(f"payload.{name}".removesuffix(".payload"), said) for name, said in error.fields]
        ) from None
    except InvalidInput as error:
        if error.field == "url":  # the guard refuses the URL that the task would call
            raise InvalidInput("payload.url", error.message) from None
        raise


def _result(task: Prepared, acceptance: Acceptance) -> dict[str, Any]:
    if isinstance(acceptance, Refused):
        return _error(InvalidInput("unique_key", problems.Taken.said))
    existing = isinstance(acceptance, Existing)
    state = None if existing else "scheduled" if task.run_at or task.after else "queued"
    href = f"/v2/tasks/{acceptance.id}"
    return {"id": acceptance.id, "type": task.type, "state": state, "existing": existing, "href": href}


def _error(error: InvalidInput) -> dict[str, Any]:
    return {"error": {"errors": problems.field_errors(error)}}

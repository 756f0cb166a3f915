"""The list of tasks: a query, the page of tasks that match, and links to what can be done to all of them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, ClassVar

import falcon.asgi

from sytq.api.caller import Caller
from sytq.api.dashboard.page import Page
from sytq.api.dashboard.stores import gathered
from sytq.api.parameters import parameter
from sytq.config.masking import mask_text, masked
from sytq.errors import InvalidInput, InvalidQuery
from sytq.ledger.query import parse
from sytq.ledger.saved_views import SavedViews
from sytq.ledger.state_counts import StateCounts
from sytq.ledger.values import iso
from sytq.service.task_view import TaskView, task_view
from sytq.states import TERMINAL

LIMIT = 50
#: Pages that a reader can go back by the trail.
_TRAIL_MAX = 20
_EXCERPT, _KEYS, _VALUE = 160, 3, 40
QUICK = (("all", ""), ("dead in 24 h", "state:dead finished:<24h"))


class Tasks(Page):
    """GET /dashboard/tasks

    `trail` has the cursors of the pages that the reader came by: "newer" leads to the same page as before, whatever
    has come in since.
    """

    template = "tasks.html"
    section = "/tasks"
    parameters: ClassVar = {"GET": ("q", "cursor", "trail")}

    def audience(self, caller: Caller) -> Hashable:
        return caller.rights, views_of(caller)

    async def read(self, req: falcon.asgi.Request, **path: str) -> dict[str, Any]:
        caller: Caller = req.context.caller
        text, cursor = (parameter(req, "q") or "").strip(), parameter(req, "cursor")
        trail = (parameter(req, "trail") or "").split(".")[-_TRAIL_MAX:]
        names: dict[str, Any] = {"q": text, "cursor": cursor, "trail": [one for one in trail if one], "quick": QUICK}
        names |= {"viewer": views_of(caller), "read_only": self._parts.runtime.settings.dashboard.read_only}
        names |= {"views": [], "counts": {}, "tasks": None, "next": None, "searched_to": None, "missing": []}
        names |= {"position": None}
        sql, search = self._parts.sql, self._parts.search
        try:
            wanted = caller.limited(parse(text))
            found = await gathered(
                page=sql.run(search.page, wanted, limit=LIMIT, after=cursor),
                counts=sql.run(self._counts, caller),
                views=sql.run(SavedViews(self._parts.runtime.database).visible, views_of(caller)),
            )
        except InvalidQuery as error:
            return names | {"errors": {"q": error.message}, "position": error.position}
        except InvalidInput as error:
            return names | {"errors": {"": error.message}}
        names |= {"missing": found["missing"], "counts": found["counts"] or {}, "views": found["views"] or []}
        page = found["page"]
        if page is None:
            return names
        tasks = [_row(task_view(task, self._parts.runtime.registry)) for task in page.tasks]
        searched_to = iso(page.searched_to) if page.searched_to else None
        return names | {"tasks": tasks, "next": page.next, "searched_to": searched_to}

    def _counts(self, caller: Caller) -> dict[str, str]:
        """The numbers of tasks by state, as far as they are counted."""
        counts, owner = StateCounts(self._parts.runtime.database), caller.visible_owner
        found = counts.of_all() if owner is None else counts.of_owner(owner)
        return {state: f"{one.number:,}{'' if one.exact else '+'}" for state, one in found.items()}


def views_of(caller: Caller) -> str:
    """The owner of a caller's saved views."""
    return caller.owner or caller.name


def progress(task: TaskView) -> dict[str, Any] | None:
    """What a task said of its progress: of a type of another program's writing it may be anything."""
    said: Mapping[str, Any] = task["progress"] or {}
    done, of = said.get("done"), said.get("of")
    if not isinstance(done, int | float) or not isinstance(of, int | float) or not 0 <= done <= of or not of:
        return None
    return {"done": done, "of": of, "text": mask_text(str(said.get("text") or "")[:_EXCERPT])}


def _row(task: TaskView) -> dict[str, Any]:
    """What the list shows of a task: bounded, as metadata and errors are as long as their writers like."""
    metadata = list((task["metadata"] or {}).items())
    error = task["error"] or ""
    return {
        "id": task["id"],
        "type": task["type"],
        "state": task["state"],
        "held": task["held"],
        "at": task["finished_at"] if task["state"] in TERMINAL else task["created_at"],
        "due_at": task["scheduled_at"] if task["state"] in ("scheduled", "retrying") else None,
        "attempts": task["attempts"],
        "max_attempts": task["max_attempts"],
        "error": mask_text(error[:_EXCERPT]) + "…" * (len(error) > _EXCERPT),
        "progress": progress(task),
        "metadata": [(key[:_VALUE], _short(key, value)) for key, value in metadata[:_KEYS]],
        "more": max(0, len(metadata) - _KEYS),
    }


def _short(key: str, value: Any) -> str:
    try:
        return str(masked(key, value))[:_VALUE]
    except RecursionError:  # of another program's row: a submission has a bounded depth
        return "…"

"""Saving, renaming and deleting the views above the list of tasks. Whoever may look may save; only an admin shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar
from urllib.parse import urlencode

import falcon.asgi

from sytq.api.caller import Caller
from sytq.api.dashboard.page import Done
from sytq.api.dashboard.tasks import Tasks, views_of
from sytq.api.parameters import parameter
from sytq.errors import InvalidInput
from sytq.ledger.saved_views import SavedViews


class SaveView(Tasks):
    """POST /dashboard/tasks/views"""

    scopes: ClassVar = {"POST": "read"}
    parameters: ClassVar = Tasks.parameters | {"POST": ("q",)}

    async def act(self, req: falcon.asgi.Request, form: Mapping[str, str], **path: str) -> Done:
        caller: Caller = req.context.caller
        name, query, shared = form.get("name", ""), form.get("query", ""), "shared" in form
        if shared:
            caller.require_scope("admin", "a view is shared by admins: ")
        views = SavedViews(self._parts.runtime.database)
        await self._parts.sql.finish(views.save, views_of(caller), name, query, caller.name, shared=shared)
        return Done(f"/tasks?{urlencode({'q': query})}", f"The view {name.strip()} is saved.")


class RenameView(SaveView):
    """POST /dashboard/tasks/views/{view_id}/rename"""

    async def act(self, req: falcon.asgi.Request, form: Mapping[str, str], **path: str) -> Done:
        caller: Caller = req.context.caller
        rename = SavedViews(self._parts.runtime.database).rename
        args = path["view_id"], form.get("name", ""), views_of(caller), caller.name
        try:
            renamed = await self._parts.sql.finish(rename, *args, admin=caller.is_admin)
        except InvalidInput as error:
            raise InvalidInput("rename", error.message) from None
        if not renamed:
            raise falcon.HTTPNotFound(description="there is no such view")
        return Done(f"/tasks?{urlencode({'q': parameter(req, 'q') or ''})}", "The view is renamed.")


class DeleteView(SaveView):
    """POST /dashboard/tasks/views/{view_id}/delete"""

    async def act(self, req: falcon.asgi.Request, form: Mapping[str, str], **path: str) -> Done:
        caller: Caller = req.context.caller
        views = SavedViews(self._parts.runtime.database)
        args = path["view_id"], views_of(caller), caller.name
        if not await self._parts.sql.finish(views.delete, *args, admin=caller.is_admin):
            raise falcon.HTTPNotFound(description="there is no such view")
        return Done(f"/tasks?{urlencode({'q': parameter(req, 'q') or ''})}", "The view is deleted.")

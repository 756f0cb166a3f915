"""What plugins bring to the dashboard: pages, panels of tasks, and blocks of the overview.

A plugin's function runs on threads of its own and has two seconds; a failure is shown in its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import falcon.asgi
import structlog
from multidict import MultiDict

from sytq.api.caller import Caller
from sytq.api.dashboard import blocks
from sytq.api.dashboard.blocks import Shown
from sytq.api.dashboard.navigation import Entry
from sytq.api.dashboard.page import Done, Page
from sytq.api.dashboard.rendering import Rendering
from sytq.api.parts import Parts
from sytq.blocks import Block, Link, checked
from sytq.config.masking import masked
from sytq.errors import Overloaded, SytqError
from sytq.plugins import DashboardPage, Plugin
from sytq.service.dashboard_context import DashboardContext
from sytq.service.task_view import TaskDetail
from sytq.tasktypes.tasktype import TaskType

log = structlog.get_logger(__name__)

_TIMEOUT = 2.0


async def formatted(parts: Parts, task: TaskDetail, version: int | None) -> list[Shown]:
    """What a task's type shows of its payload and result, in short texts or blocks."""
    declared = _type(parts, task)
    if declared is None or declared.show is None:
        return []
    given = task["payload"], task["result"], version
    return await _made(parts, f"show of {declared.name}", declared.blocks, *given, level=3)


async def panel(parts: Parts, caller: Caller, task: TaskDetail) -> list[Shown]:
    """The panel of a task's type."""
    declared = _type(parts, task)
    if declared is None or declared.panel is None:
        return []
    return await _made(parts, f"panel of {declared.name}", declared.panel, _context(parts, caller), task, level=3)


async def overview(parts: Parts, caller: Caller) -> list[tuple[str, list[Shown]]]:
    """The blocks that plugins add to the overview, with their names; all are made at once."""
    found = [(plugin.name, plugin.overview) for plugin in parts.runtime.registry.plugins if plugin.overview is not None]
    context = _context(parts, caller)
    made = await asyncio.gather(*(_made(parts, f"overview of {name}", make, context, level=3) for name, make in found))
    return [(name, shown) for (name, _), shown in zip(found, made, strict=True) if shown]


def entries(plugins: Sequence[Plugin]) -> list[Entry]:
    """The navigation's entries of the plugins' pages."""
    return [Entry(path, page.title, page.scope) for path, page in _pages(plugins)]


def pages(parts: Parts, rendering: Rendering) -> dict[str, Page]:
    """The plugins' pages and their actions, by path."""
    found: dict[str, Page] = {}
    for path, page in _pages(parts.runtime.registry.plugins):
        found[path] = PluginPage(parts, rendering, path, page)
        found |= {f"{path}/{name}": PluginAction(parts, rendering, path, page, name) for name in page.actions}
    return found


class PluginPage(Page):
    """GET /dashboard/x/{plugin}/{page}"""

    template = "plugin_page.html"

    def __init__(self, parts: Parts, rendering: Rendering, path: str, page: DashboardPage) -> None:
        super().__init__(parts, rendering)
        self._path, self._page = path, page
        self.section = path  # type: ignore[misc]  # a page of one class for each of many plugins
        self.scopes = {"GET": page.scope, "POST": page.action_scope}  # type: ignore[misc]
        self.parameters = {"GET": tuple(page.parameters)}  # type: ignore[misc]

    async def read(self, req: falcon.asgi.Request, **path: str) -> dict[str, Any]:
        given = {name: req.get_param(name) or "" for name in self._page.parameters if req.has_param(name)}
        context = _context(self._parts, req.context.caller, given)
        made = await _made(self._parts, self._path, self._page.read, context)
        return {"title": self._page.title, "blocks": made, "action_scope": self._page.action_scope}


class PluginAction(PluginPage):
    """POST /dashboard/x/{plugin}/{page}/{action}"""

    def __init__(self, parts: Parts, rendering: Rendering, path: str, page: DashboardPage, name: str) -> None:
        super().__init__(parts, rendering, path, page)
        self._act = page.actions[name]

    async def act(self, req: falcon.asgi.Request, form: MultiDict[str], **path: str) -> Done:
        values = {name: value for name, value in form.items() if name != "csrf"}
        req.context.audit_detail = " ".join(f"{name}={masked(name, value)}" for name, value in values.items())[:500]
        context = _context(self._parts, req.context.caller)
        said = await self._parts.plugins.run(self._act, context, values)
        return Done(said.to, said.text) if isinstance(said, Link) else Done(self._path, said)


def _pages(plugins: Sequence[Plugin]) -> Iterator[tuple[str, DashboardPage]]:
    for plugin in plugins:
        for name, page in plugin.pages.items():
            yield f"/x/{plugin.name}/{name}", page


def _context(parts: Parts, caller: Caller, parameters: Mapping[str, str] | None = None) -> DashboardContext:
    return DashboardContext(parts.runtime, caller.name, caller.visible_owner, parameters or {})


def _type(parts: Parts, task: TaskDetail) -> TaskType | None:
    registry = parts.runtime.registry
    return registry.get(task["type"]) if task["type"] in registry else None


async def _made(
    parts: Parts, what: str, make: Callable[..., Sequence[Block]], *args: object, level: int = 2
) -> list[Shown]:
    """The blocks that a function makes, or a block that says why there are none."""

    def work() -> list[Shown]:
        return blocks.shown(checked(make(*args)), level)

    try:
        return await asyncio.wait_for(parts.plugins.run(work), _TIMEOUT)
    except (TimeoutError, Overloaded):
        reason = f"took longer than {_TIMEOUT:g} s"
    except SytqError as error:  # its message is for a person
        reason = str(error)
    except Exception as error:
        log.warning("plugin failed on the dashboard", source=what, exc_info=True)
        reason = type(error).__name__
    return [Shown("failed", f"failed: {reason} ({what})")]

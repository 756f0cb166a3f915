"""Every page that a browser can open, with an example for each place in its path."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sytq import plugins
from sytq.api.dashboard.plugins import entries
from sytq.api.dashboard.routes import PAGES
from tests.browser.world import World


def _paths() -> Iterator[str]:
    """The path of each template that is a page; its buttons are posts to further paths, which show the same."""
    seen = set()
    for path, page in PAGES.items():
        if page.template not in seen:
            seen.add(page.template)
            yield path
    yield from (entry.path for entry in entries(plugins.find(()).plugins))


#: The paths of the pages, below /dashboard.
PATHS = list(_paths())
#: What a page needs beside its path.
_QUERIES = {"/limiters/one": "?name=queue:webhook", "/operations/new": "?action=retry&q=state:dead+type:email"}
#: Places in paths, and the queries that find examples of them.
_TASKS = (
    "type = 'llm' AND state = 'succeeded' AND attempts = 2",
    "type = 'webhook' AND state = 'dead' AND attempts > 4",
    "type = 'default' AND parent IS NULL AND owner = 'billing'",
    "state = 'scheduled'",
)


def paths(world: World) -> Iterator[tuple[str, str]]:
    """Each page with the path of an example; those of tasks with several."""
    for path in PATHS:
        places = re.findall(r"{(\w+)", path)
        if not places:
            yield path, path + _QUERIES.get(path, "")
            continue
        for values in _examples(world, places, path):
            yield path, re.sub(r"{(\w+)[^}]*}", lambda place, values=values: values[place[1]], path)  # type: ignore[misc]


def _examples(world: World, places: list[str], path: str) -> Iterator[dict[str, str]]:
    if path.startswith("/operations/"):
        yield {"task_id": world.operation}
        return
    if places == ["task_id"]:
        last = _TASKS if path == "/tasks/{task_id}" else _TASKS[:1]
        yield from ({"task_id": world.one(where)} for where in last)
        return
    yield {"task_id": world.one(_TASKS[0]), "name": "cleanup" if path.startswith("/schedules/") else "webhook"}

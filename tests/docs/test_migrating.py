"""docs/migrating.md: its paths are served, its settings and variables are known."""

from __future__ import annotations

import re
from pathlib import Path

import falcon.inspect

from sytq.api import create_app
from sytq.config import load

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/migrating.md").read_text("utf-8")


def test_every_path_of_the_page_is_served() -> None:
    served = {
        (route.path.replace("{task_id}", "{id}"))
        for route in falcon.inspect.inspect_routes(create_app(load(environ={})))
    }
    named = {path.partition("?")[0] for path in re.findall(r"`(?:GET |POST )?(/[a-z0-9/{}]+(?:\?[^`]*)?)`", PAGE)}
    assert len(named) >= 12
    assert named - served - {"/v2"} == set()


def test_every_variable_of_the_page_is_known() -> None:
    configuration = (ROOT / "docs/configuration.md").read_text("utf-8")
    names = set(re.findall(r"`([A-Z][A-Z_]+)`", PAGE)) - {"XADD", "XLEN", "XPENDING", "XREAD"}
    assert len(names) >= 15
    assert {name for name in names if name not in configuration} == set()

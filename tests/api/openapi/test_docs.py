"""docs/api.md has every endpoint, with a curl."""

from __future__ import annotations

import re

import falcon.inspect
import pytest

from sytq.api import create_app
from sytq.api.compat.llm_record import STATUS
from sytq.api.problems import IN_USE, INVALID_QUERY, TAKEN, TYPES
from sytq.config import load
from tests.processes import ROOT


@pytest.fixture(scope="module")
def document() -> str:
    return (ROOT / "docs" / "api.md").read_text("utf-8")


def test_every_route_is_documented_with_a_curl(document: str) -> None:
    routes = falcon.inspect.inspect_routes(create_app(load(environ={})))
    assert len(routes) >= 9
    for route in routes:
        for method in route.methods:
            if method.method in ("GET", "POST", "PUT", "PATCH", "DELETE") and not method.internal:
                heading = f"### `{method.method} {route.path}`"
                assert heading in document, f"docs/api.md lacks {heading}"
                section = document.partition(heading)[2].partition("\n##")[0]
                assert "curl " in section, f"docs/api.md: {heading} has no curl"


def test_every_task_state_is_documented(document: str) -> None:
    for word in STATUS.values():
        assert f"`{word}`" in document


def test_every_problem_is_documented() -> None:
    page = (ROOT / "docs" / "problems.md").read_text("utf-8")
    known = {(slug, status) for status, (slug, _) in TYPES.items()}
    known |= {(INVALID_QUERY[0], 400), (IN_USE[0], 409), (TAKEN[0], 409)}
    assert {
        (slug, int(status)) for slug, status in re.findall(r"^\| `urn:sytq:problem:([a-z-]+)` \| (\d+)", page, re.M)
    } == known

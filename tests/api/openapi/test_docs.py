"""docs/api.md has every endpoint, with a curl that is answered as printed."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import falcon.inspect
import pytest

from sytq.api import create_app
from sytq.api.compat.llm_record import STATUS
from sytq.api.problems import IN_USE, INVALID_QUERY, TAKEN, TYPES
from sytq.config import load
from tests.installation import Installation
from tests.processes import ROOT
from tests.tools import required


@pytest.fixture(scope="module")
def document() -> str:
    return (ROOT / "docs" / "api.md").read_text("utf-8")


def test_every_route_is_documented_with_a_curl(document: str) -> None:
    routes = falcon.inspect.inspect_routes(create_app(load(environ={})))
    assert len(routes) >= 9
    for route in routes:
        if route.path == "/" or route.path.startswith("/dashboard"):  # pages, not the API
            continue
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


def examples(document: str) -> Iterator[tuple[str, str, str]]:
    """The curls of the page, each with its section's heading and the answers printed after it."""
    for section in document.split("\n### "):
        blocks = re.findall(r"(?:^    .*\n)+", section.partition("\n## ")[0], re.MULTILINE)
        for block, following in zip(blocks, [*blocks[1:], ""], strict=False):
            if block.lstrip().startswith("curl "):
                yield section.partition("\n")[0], block, following if re.match(r" +\d{3} ", following) else ""


def is_within(printed: Any, answered: Any, *, whole: bool) -> bool:
    """Whether the answer has the keys that are printed, at every level, and with `whole` no others."""
    if isinstance(printed, dict) and isinstance(answered, dict) and answered:
        same = printed.keys() == answered.keys() if whole else printed.keys() <= answered.keys()
        return same and all(is_within(printed[key], answered[key], whole=whole) for key in printed)
    if isinstance(printed, list) and isinstance(answered, list):
        return all(is_within(each, one, whole=whole) for each, one in zip(printed, answered, strict=False))
    return True


def test_every_curl_is_answered_as_printed(
    document: str, make_api: Callable[..., Installation], tmp_path: Path
) -> None:
    required("curl", "package curl")
    api = make_api()
    api.start_worker(SYTQ_WORKER__QUEUES='["default"]')  # not `webhook`: nothing goes to example.com
    seen = 0
    for heading, command, answers in examples(document):
        made = api.request("POST", "/v2/tasks", {"type": "default", "delay": "1h"}).json["id"]
        if not heading.startswith(("`POST /v2/tasks/{task_id}/cancel", "`POST /v2/tasks/{task_id}/reschedule")):
            api.request("POST", f"/v2/tasks/{made}/cancel")
            api.wait_state(made, "cancelled")
        command = re.sub(r"01a203a6-[0-9a-f-]{27}", made, command).replace("127.0.0.1:8080", f"127.0.0.1:{api.port}")
        command = command.replace("curl ", "curl -sS -o body -w '%{http_code}' ", 1).replace(" -i ", " ", 1)
        done = subprocess.run(["/bin/sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, (command, done.stderr)
        body = (tmp_path / "body").read_text()
        status, _, printed = answers.strip().partition(" ")
        assert done.stdout == status or (not status and done.stdout.startswith("2")), (command, done.stdout, body)
        seen += 1
        plain = re.sub(r":(\{\.\.\.\}|\.\.\.)", ":null", re.sub(r", *\.\.\.", "", printed))
        if (start := plain.find("{")) >= 0:
            expected, _ = json.JSONDecoder().raw_decode(plain, start)
            assert is_within(expected, json.loads(body), whole="..." not in re.sub('"[^"]*"', "", printed)), (
                command,
                body,
            )
    assert seen > 30

"""One browser and one world for all tests in this folder, which run in one process (`make test`)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.visitor import Visitor, chromium, visit
from tests.browser.world import World
from tests.servers import RedisServer

#: As root Chromium has no sandbox; it asks nobody but the pages' own host.
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    program = chromium()
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no Chromium here; with CI=true it must be there", pytrace=False)
        pytest.skip("no Chromium here (package chromium)")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    server = RedisServer()
    try:
        server.start()
        made = World(tmp_path_factory.mktemp("world"), server)
        yield made
        made.close()
    finally:
        server.remove()


@pytest.fixture
def visitor(browser: Browser) -> Iterator[Visitor]:
    with visit(browser) as made:
        yield made

"""One browser, and a world for each database engine, for all tests of this folder, which run in one process.

`world` has 100,000 tasks on SQLite; a test of `each_world` runs there and in a smaller world on MariaDB.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.visitor import Visitor, chromium, visit
from tests.browser.world import World
from tests.installation import ENGINES
from tests.servers import MySQLServer, RedisServer

#: Few are quicker to make up; with fewer, a day may have no death of the kind that a story retries.
_MYSQL_TASKS = 30_000

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
def sqlite_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with _redis() as redis:
        made = World(tmp_path_factory.mktemp("world"), redis)
        yield made
        made.close()


@pytest.fixture(scope="session")
def mysql_world(tmp_path_factory: pytest.TempPathFactory, mysql_server: MySQLServer) -> Iterator[World]:
    url = mysql_server.create_database("browser")
    with _redis() as redis:
        made = World(tmp_path_factory.mktemp("mysql-world"), redis, url, _MYSQL_TASKS)
        yield made
        made.close()
    mysql_server.drop_database("browser")


@pytest.fixture
def world(sqlite_world: World) -> World:
    sqlite_world.bind()
    return sqlite_world


@pytest.fixture(params=ENGINES)
def each_world(request: pytest.FixtureRequest) -> World:
    made: World = request.getfixturevalue(f"{request.param}_world")
    made.bind()
    return made


@contextmanager
def _redis() -> Iterator[RedisServer]:
    server = RedisServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def visitor(browser: Browser) -> Iterator[Visitor]:
    with visit(browser) as made:
        yield made

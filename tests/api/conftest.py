"""The API for the tests of this folder: gunicorn as deployed, without workers, with the built-in task types."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.installation import BUILT_IN, Installation
from tests.servers import RedisServer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("api")


@pytest.fixture(scope="module")
def api(folder: Path, module_database_url: str, redis_server: RedisServer) -> Iterator[Installation]:
    """The API on the shared Redis and a database of its own, once per engine and module."""
    with redis_server.client() as client:
        client.flushall()
    made = Installation(folder, module_database_url, redis_server.url, **BUILT_IN)
    try:
        made.start_api()
        yield made
    finally:
        made.close()


@pytest.fixture
def make_api(make_installation: Callable[..., Installation]) -> Callable[..., Installation]:
    """Starts APIs of this test alone; the arguments are those of `make_installation`."""

    def make(database_url: str = "", redis_url: str = "", **settings: str | None) -> Installation:
        made = make_installation(database_url, redis_url, **(BUILT_IN | settings))
        made.start_api()
        return made

    return make

"""The API for the tests of this folder: gunicorn as deployed, without workers, with the built-in task types."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.installation import BUILT_IN, ENGINES, Installation


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("api")


@pytest.fixture(scope="module", params=ENGINES)
def api(request: pytest.FixtureRequest, start_shared: Callable[..., Installation]) -> Installation:
    """The API without a worker, which all modules share, for each engine in turn."""
    mysql = request.getfixturevalue("mysql_server") if request.param == "mysql" else None
    return start_shared(f"api-{request.param}", mysql, **BUILT_IN)


@pytest.fixture
def make_api(make_installation: Callable[..., Installation]) -> Callable[..., Installation]:
    """Starts APIs of this test alone; the arguments are those of `make_installation`."""

    def make(database_url: str = "", redis_url: str = "", **settings: str | None) -> Installation:
        made = make_installation(database_url, redis_url, **(BUILT_IN | settings))
        made.start_api()
        return made

    return make

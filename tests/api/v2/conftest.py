"""The API together with real workers, on one installation."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.installation import Installation


@pytest.fixture
def start(
    make_installation: Callable[..., Installation], database_url: str, redis_url: str
) -> Callable[..., Installation]:
    """Start an API on both databases; the test starts the workers."""

    def service(**settings: str) -> Installation:
        made = make_installation(database_url, redis_url, **settings)
        made.start_api()
        return made

    return service


@pytest.fixture
def service(start: Callable[..., Installation]) -> Installation:
    return start()

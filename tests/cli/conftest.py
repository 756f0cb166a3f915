from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.cli.shell import shell
from tests.installation import Installation


@pytest.fixture(scope="session", autouse=True)
def shell_ended_afterwards() -> Iterator[None]:
    yield
    if shell.cache_info().currsize:
        shell().process.kill()
        shell().process.communicate()


@pytest.fixture
def with_worker(running_on: Callable[[str], Installation]) -> Installation:
    """The shared installation on SQLite, with a worker."""
    return running_on("sqlite")

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.installation import Installation


@pytest.fixture
def with_worker(running_on: Callable[[str], Installation]) -> Installation:
    """The shared installation on SQLite, with a worker."""
    return running_on("sqlite")

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cli.shell import shell


@pytest.fixture(scope="session", autouse=True)
def shell_ended_afterwards() -> Iterator[None]:
    yield
    if shell.cache_info().currsize:
        shell().process.kill()
        shell().process.communicate()

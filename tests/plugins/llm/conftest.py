"""The desk on each database engine, with the scripted provider."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.plugins.llm.desk import Desk
from tests.provider import ScriptedProvider


@pytest.fixture
def desk(provider: ScriptedProvider, database_url: str, redis_url: str) -> Iterator[Desk]:
    """On each database engine in turn."""
    with contextlib.closing(Desk(provider, database_url, redis_url)) as made:
        yield made


@pytest.fixture
def sqlite_desk(provider: ScriptedProvider, tmp_path: Path, redis_url: str) -> Iterator[Desk]:
    """For what does not depend on the database."""
    with contextlib.closing(Desk(provider, f"sqlite:///{tmp_path / 'sytq.db'}", redis_url)) as made:
        yield made


@pytest.fixture
def mysql_desk(provider: ScriptedProvider, mysql_url: str, redis_url: str) -> Iterator[Desk]:
    """For errors that only MySQL raises."""
    with contextlib.closing(Desk(provider, mysql_url, redis_url)) as made:
        yield made

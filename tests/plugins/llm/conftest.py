"""The desk on each database engine, with the scripted provider."""

from __future__ import annotations

import contextlib
import functools
import os
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sytq.http import sessions
from tests.plugins.llm.desk import Desk
from tests.provider import ScriptedProvider


@functools.cache
def tls_context(ca_file: str | None, make: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    return make()


@pytest.fixture(autouse=True)
def one_tls_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attempt here makes a client of its own: to read the CAs of this machine would be most of its work."""
    make = sessions._tls_context
    monkeypatch.setattr(sessions, "_tls_context", lambda: tls_context(os.environ.get("SSL_CERT_FILE"), make))


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

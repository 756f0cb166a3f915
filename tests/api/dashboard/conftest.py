"""The dashboard of an API with keys, and browsers of people with different rights."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sytq.ledger.api_keys import ApiKeys, Grant
from sytq.ledger.ledger import Ledger
from tests.api.dashboard.browser import Browser
from tests.installation import Installation
from tests.servers import RedisServer


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> Iterator[Installation]:
    """The API with auth and a worker, with the types of tests/trial_plugins."""
    folder: Path = tmp_path_factory.mktemp("guarded")
    settings = {"SYTQ_AUTH__ENABLED": "true", "SYTQ_REDIS__PREFIX": uuid.uuid4().hex}
    made = Installation(folder, f"sqlite:///{folder / 'guarded.db'}", redis_server.url, **settings)
    try:
        made.start_api()
        made.start_worker()
        yield made
    finally:
        made.close()


@pytest.fixture
def log_in(guarded: Installation) -> Callable[..., Browser]:
    """Gives the browser of an owner with these scopes."""

    def make(owner: str, *scopes: str) -> Browser:
        Ledger(guarded.runtime.database)  # binds the models
        _, text = ApiKeys(guarded.runtime.database).create(owner, owner, Grant(scopes), by="test")
        return Browser(guarded, {"authorization": f"Bearer {text}"})

    return make


@pytest.fixture
def admin(log_in: Callable[..., Browser]) -> Browser:
    return log_in("root", "admin")

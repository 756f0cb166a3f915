"""The dashboard behind a login, and browsers of people with different rights."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sytq.ledger.api_keys import ApiKeys, Grant
from sytq.ledger.ledger import Ledger
from tests.api.dashboard import browser, visitor
from tests.installation import BUILT_IN, Installation
from tests.servers import RedisServer


class Guarded(Installation):
    """An installation with auth: the user `admin`, whose password is `pa55`, and keys."""

    def browser(self, **headers: str) -> visitor.Browser:
        return visitor.Browser(f"http://127.0.0.1:{self.port}", **headers)

    def key(self, owner: str = "shop", *scopes: str, **grant: object) -> tuple[str, str]:
        """The id and the text of a new key."""
        granted = Grant(scopes=scopes or ("submit", "read"), **grant)  # type: ignore[arg-type]
        row, text = ApiKeys(self.runtime.database).create(f"key of {owner}", owner, granted, by="test")
        return row.id, text

    def logged_in(self, *scopes: str, owner: str = "shop") -> visitor.Browser:
        """A browser logged in with a new key, or without scopes as admin."""
        browser = self.browser()
        reply = browser.log_in("", self.key(owner, *scopes)[1]) if scopes else browser.log_in("admin", "pa55")
        assert reply.status == 200, reply
        return browser


def settings(**more: str) -> dict[str, str | None]:
    given = {"SYTQ_AUTH__ENABLED": "true", "SYTQ_AUTH__USERS__ADMIN": "pa55", "SYTQ_REDIS__PREFIX": uuid.uuid4().hex}
    return {**BUILT_IN, **given, **more}


@pytest.fixture(scope="module")
def guarded(folder: Path, module_database_url: str, redis_server: RedisServer) -> Iterator[Guarded]:
    """The API with auth, for each engine in turn."""
    own = folder / module_database_url.partition(":")[0]
    own.mkdir()
    api = Guarded(own, module_database_url, redis_server.url, **settings())
    try:
        api.start_api()
        yield api
    finally:
        api.close()


@pytest.fixture(scope="module")
def staffed(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> Iterator[Installation]:
    """The API with auth and a worker, with the types of tests/trial_plugins."""
    folder: Path = tmp_path_factory.mktemp("staffed")
    settings = {"SYTQ_AUTH__ENABLED": "true", "SYTQ_REDIS__PREFIX": uuid.uuid4().hex}
    made = Installation(folder, f"sqlite:///{folder / 'staffed.db'}", redis_server.url, **settings)
    try:
        made.start_api()
        made.start_worker()
        yield made
    finally:
        made.close()


@pytest.fixture
def log_in(staffed: Installation) -> Callable[..., browser.Browser]:
    """Gives the browser of an owner with these scopes."""

    def make(owner: str, *scopes: str) -> browser.Browser:
        Ledger(staffed.runtime.database)  # binds the models
        _, text = ApiKeys(staffed.runtime.database).create(owner, owner, Grant(scopes), by="test")
        return browser.Browser(staffed, {"authorization": f"Bearer {text}"})

    return make


@pytest.fixture
def admin(log_in: Callable[..., browser.Browser]) -> browser.Browser:
    return log_in("root", "admin")

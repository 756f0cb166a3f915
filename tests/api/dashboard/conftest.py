"""The dashboard behind a login."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from sytq.ledger.api_keys import ApiKeys, Grant
from tests.api.dashboard.visitor import Browser
from tests.installation import BUILT_IN, Installation
from tests.servers import RedisServer


class Guarded(Installation):
    """An installation with auth: the user `admin`, whose password is `pa55`, and keys."""

    def browser(self, **headers: str) -> Browser:
        return Browser(f"http://127.0.0.1:{self.port}", **headers)

    def key(self, owner: str = "shop", *scopes: str, **grant: object) -> tuple[str, str]:
        """The id and the text of a new key."""
        granted = Grant(scopes=scopes or ("submit", "read"), **grant)  # type: ignore[arg-type]
        row, text = ApiKeys(self.runtime.database).create(f"key of {owner}", owner, granted, by="test")
        return row.id, text

    def logged_in(self, *scopes: str, owner: str = "shop") -> Browser:
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

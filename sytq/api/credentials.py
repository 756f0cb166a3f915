"""From an Authorization header to a caller: Basic users and API keys.

Valid credentials are cached for some seconds; wrong guesses are limited per address.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import re
import time
from collections.abc import Mapping

import falcon
import structlog

from sytq.api.caller import Caller
from sytq.api.guesses import Guesses
from sytq.api.threads import Threads
from sytq.errors import DatabaseUnavailable, Overloaded
from sytq.ledger.api_keys import TOUCH_EVERY, ApiKeys
from sytq.ledger.models import ApiKey
from sytq.ledger.values import utcnow
from sytq.observability.outages import log_failure

log = structlog.get_logger(__name__)

#: Seconds for which a verified key is cached, thus the longest that a revoked key is accepted.
CACHE_SECONDS = 5.0
_MAX_CACHED = 10_000


class Credentials:
    """Belongs to one event loop. `users` are Basic users with their passwords."""

    def __init__(self, users: Mapping[str, str], realm: str, keys: ApiKeys, threads: Threads) -> None:
        self._users = {name: hashlib.sha256(password.encode()).digest() for name, password in users.items()}
        # A quoted string, sent in UTF-8 as Go does: ASGI servers write the characters of Latin 1.
        realm = re.sub(r'["\\]', r"\\\g<0>", realm).encode().decode("latin-1")
        self._basic = f'Basic realm="{realm}", charset="UTF-8"'
        self._bearer = f'Bearer realm="{realm}", error="invalid_token"'
        self._keys = keys
        self._threads = threads
        # By the header's digest, so that neither lookup times nor a memory dump reveal a secret.
        self._verified: dict[bytes, tuple[Caller, float]] = {}
        self._lookups: dict[bytes, asyncio.Task[Caller | None]] = {}
        self.guesses = Guesses()
        self._touched: dict[str, float] = {}
        self._touches: set[asyncio.Task[None]] = set()

    async def caller(self, header: str | None, client: object) -> Caller:
        """Authenticate a header. Raises HTTPUnauthorized, HTTPTooManyRequests, DatabaseUnavailable."""
        if not header:
            raise self._refusal("a key (Authorization: Bearer) or a user name and password (HTTP Basic) are needed")
        digest = hashlib.sha256(header.encode("utf-8", "surrogatepass")).digest()
        caller, until = self._verified.get(digest, (None, 0.0))
        if caller is not None and time.monotonic() < until:
            self.touch(caller)
            return caller
        if caller is None:  # cached credentials are not blocked by a neighbour's guesses
            self.guesses.check(client)
        caller = await self._look_up(digest, header)
        if caller is None:
            self._verified.pop(digest, None)
            self.guesses.count(client)
            if header.partition(" ")[2].lstrip().startswith("sytq_"):
                said = "this key does not exist, is revoked or has expired"
                raise falcon.HTTPUnauthorized(description=said, challenges=[self._bearer])
            raise self._refusal("a valid user name and password (HTTP Basic) or a key (Bearer) are needed")
        self.touch(caller)
        return caller

    async def _look_up(self, digest: bytes, header: str) -> Caller | None:
        """Look a header up, once for all concurrent requests with it."""
        scheme, _, credentials = header.partition(" ")
        if scheme.lower() == "basic":
            caller = self._user(credentials)
        elif scheme.lower() == "bearer":
            lookup = self._lookups.get(digest)
            if lookup is None:
                lookup = self._lookups[digest] = asyncio.create_task(self._key(credentials.strip()))
                lookup.add_done_callback(lambda _: self._lookups.pop(digest, None))
            caller = await asyncio.shield(lookup)
        else:
            caller = None
        if caller is not None:
            self._verified.pop(digest, None)
            if len(self._verified) >= _MAX_CACHED:
                del self._verified[next(iter(self._verified))]
            self._verified[digest] = caller, time.monotonic() + CACHE_SECONDS
        return caller

    def _user(self, credentials: str) -> Caller | None:
        try:
            given = base64.b64decode(credentials.strip(), validate=True).decode()
        except (binascii.Error, ValueError):
            return None
        name, _, password = given.partition(":")
        known = self._users.get(name)
        # An unknown name costs the same as a wrong password.
        matches = hmac.compare_digest(known or bytes(32), hashlib.sha256(password.encode()).digest())
        return of_user(name) if known is not None and matches else None

    async def _key(self, text: str) -> Caller | None:
        row = await self._threads.run(self._keys.verify, text)
        return of_key(row) if row is not None else None

    def touch(self, caller: Caller) -> None:
        """Record the last use of a key, at most once a minute and without delaying the request."""
        now = time.monotonic()
        if caller.key_id is None or now < self._touched.get(caller.key_id, 0.0):
            return
        if len(self._touched) >= _MAX_CACHED:
            self._touched.clear()
        self._touched[caller.key_id] = now + TOUCH_EVERY
        touch = asyncio.create_task(self._write_touch(caller.key_id))
        self._touches.add(touch)
        touch.add_done_callback(self._touches.discard)

    async def _write_touch(self, key_id: str) -> None:
        try:
            await self._threads.run(self._keys.touch, key_id, utcnow())
        except (DatabaseUnavailable, Overloaded) as error:
            log_failure(log, "last use of a key not recorded", error, key=key_id)

    def _refusal(self, text: str) -> falcon.HTTPUnauthorized:
        return falcon.HTTPUnauthorized(description=text, challenges=[self._basic])


def of_user(name: str) -> Caller:
    """A Basic user. Those of the old systems could do everything, and still can."""
    return Caller(name, name, frozenset(("admin",)))


def of_key(row: ApiKey) -> Caller:
    return Caller(
        name=f"{row.name} ({row.id})",
        owner=row.owner,
        scopes=frozenset(row.scopes.split()),
        types=frozenset(row.types.split()) if row.types else None,
        key_id=row.id,
        rate=(row.rate_calls, row.rate_seconds) if row.rate_calls and row.rate_seconds else None,
        daily_tasks=row.daily_tasks,
    )

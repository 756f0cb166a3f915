"""From an Authorization header to a caller: Basic users and API keys.

Valid credentials are cached for some seconds; wrong guesses are limited per address.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import ipaddress
import math
import re
import time
from collections.abc import Mapping

import falcon
import structlog

from sytq.api.caller import Caller
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
#: Wrong guesses of an address: the burst, and the seconds after which one more is allowed.
_MAX_GUESSES, _GUESS_SECONDS = 50, 6.0


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
        self._guesses: dict[str, float] = {}
        self._touched: dict[str, float] = {}
        self._touches: set[asyncio.Task[None]] = set()

    async def caller(self, header: str | None, client: object) -> Caller:
        """Authenticate a header. Raises HTTPUnauthorized, HTTPTooManyRequests, DatabaseUnavailable."""
        if not header:
            raise self._refusal("a key (Authorization: Bearer) or a user name and password (HTTP Basic) are needed")
        digest = hashlib.sha256(header.encode("utf-8", "surrogatepass")).digest()
        caller, until = self._verified.get(digest, (None, 0.0))
        if caller is not None and time.monotonic() < until:
            self._touch(caller)
            return caller
        address = _address(client)
        if caller is None:  # cached credentials are not blocked by a neighbour's guesses
            self._check_guesses(address)
        caller = await self._look_up(digest, header)
        if caller is None:
            self._verified.pop(digest, None)
            self._count_guess(address)
            if header.partition(" ")[2].lstrip().startswith("sytq_"):
                raise falcon.HTTPUnauthorized(
                    description="this key does not exist, is revoked or has expired", challenges=[self._bearer]
                )
            raise self._refusal("a valid user name and password (HTTP Basic) or a key (Bearer) are needed")
        self._touch(caller)
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
        # The users of the old systems could do everything, and still can.
        return Caller(name, name, frozenset(("admin",))) if known is not None and matches else None

    async def _key(self, text: str) -> Caller | None:
        row = await self._threads.run(self._keys.verify, text)
        return _caller(row) if row is not None else None

    def _touch(self, caller: Caller) -> None:
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

    def _check_guesses(self, address: str) -> None:
        ahead = self._guesses.get(address, 0.0) - time.monotonic()
        if ahead > (_MAX_GUESSES - 1) * _GUESS_SECONDS:
            wait = math.ceil(ahead - (_MAX_GUESSES - 1) * _GUESS_SECONDS)
            raise falcon.HTTPTooManyRequests(
                description="too many failed logins from this address; wait", retry_after=wait
            )

    def _count_guess(self, address: str) -> None:
        now = time.monotonic()
        clear_at = max(self._guesses.pop(address, 0.0), now) + _GUESS_SECONDS
        if len(self._guesses) >= _MAX_CACHED:
            del self._guesses[next(iter(self._guesses))]
        self._guesses[address] = clear_at

    def _refusal(self, text: str) -> falcon.HTTPUnauthorized:
        return falcon.HTTPUnauthorized(description=text, challenges=[self._basic])


def _caller(row: ApiKey) -> Caller:
    return Caller(
        name=f"{row.name} ({row.id})",
        owner=row.owner,
        scopes=frozenset(row.scopes.split()),
        types=frozenset(row.types.split()) if row.types else None,
        key_id=row.id,
        rate=(row.rate_calls, row.rate_seconds) if row.rate_calls and row.rate_seconds else None,
        daily_tasks=row.daily_tasks,
    )


def _address(client: object) -> str:
    """Return the key for counting guesses: the address, for IPv6 its /64 network (one customer)."""
    if not isinstance(client, tuple | list) or not client:
        return "local"
    try:
        address = ipaddress.ip_address(str(client[0]).partition("%")[0])
    except ValueError:
        return "local"
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(getattr(address, "ipv4_mapped", None) or address)

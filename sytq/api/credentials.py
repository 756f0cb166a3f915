"""From an Authorization header to a caller: Basic users and API keys.

Owns what proves a caller, for how long a proof is believed without asking the database again, and how many wrong
guesses an address has. Must not know what the caller asks for.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import ipaddress
import math
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

log = structlog.get_logger(__name__)

#: For so long (seconds) a key is believed after it was looked up: a revoked one is refused after that at the latest.
BELIEVED = 5.0
_REMEMBERED = 10_000
#: Wrong guesses of one address: so many at once, and one more after so many seconds.
_GUESSES, _GUESS_EVERY = 50, 6.0


class Credentials:
    """Belongs to one event loop. `users` are Basic users with their passwords."""

    def __init__(self, users: Mapping[str, str], realm: str, keys: ApiKeys, threads: Threads) -> None:
        self._users = {name: hashlib.sha256(password.encode()).digest() for name, password in users.items()}
        self._basic = f'Basic realm="{realm}", charset="UTF-8"'
        self._bearer = f'Bearer realm="{realm}", error="invalid_token"'
        self._keys = keys
        self._threads = threads
        # By the digest of the header, so that neither a lookup's time nor a dump of memory tells of a secret.
        self._proven: dict[bytes, tuple[Caller, float]] = {}
        self._asking: dict[bytes, asyncio.Task[Caller | None]] = {}
        self._guesses: dict[str, float] = {}
        self._noted: dict[str, float] = {}
        self._notes: set[asyncio.Task[None]] = set()

    async def caller(self, header: str | None, client: object) -> Caller:
        """The caller that the header proves. Raises HTTPUnauthorized, HTTPTooManyRequests, DatabaseUnavailable."""
        if not header:
            raise self._refusal("a key (Authorization: Bearer) or a user name and password (HTTP Basic) are needed")
        digest = hashlib.sha256(header.encode("utf-8", "surrogatepass")).digest()
        caller, until = self._proven.get(digest, (None, 0.0))
        if caller is not None and time.monotonic() < until:
            self._note_use(caller)
            return caller
        address = _address(client)
        if caller is None:  # whoever was right before is not kept out by a neighbour's guesses
            self._check_guesses(address)
        caller = await self._ask(digest, header)
        if caller is None:
            self._proven.pop(digest, None)
            self._count_guess(address)
            if header.partition(" ")[2].lstrip().startswith("sytq_"):
                raise falcon.HTTPUnauthorized(
                    description="this key does not exist, is revoked or has expired", challenges=[self._bearer]
                )
            raise self._refusal("a valid user name and password (HTTP Basic) or a key (Bearer) are needed")
        self._note_use(caller)
        return caller

    async def _ask(self, digest: bytes, header: str) -> Caller | None:
        """Look a header up, once for all who send it now."""
        scheme, _, credentials = header.partition(" ")
        if scheme.lower() == "basic":
            caller = self._user(credentials)
        elif scheme.lower() == "bearer":
            asking = self._asking.get(digest)
            if asking is None:
                asking = self._asking[digest] = asyncio.create_task(self._key(credentials.strip()))
                asking.add_done_callback(lambda _: self._asking.pop(digest, None))
            caller = await asyncio.shield(asking)
        else:
            caller = None
        if caller is not None:
            self._proven.pop(digest, None)
            if len(self._proven) >= _REMEMBERED:
                del self._proven[next(iter(self._proven))]
            self._proven[digest] = caller, time.monotonic() + BELIEVED
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
        # The users of old systems could do everything, and still can.
        return Caller(name, name, frozenset(("admin",))) if known is not None and matches else None

    async def _key(self, text: str) -> Caller | None:
        row = await self._threads.run(self._keys.verify, text)
        return _caller(row) if row is not None else None

    def _note_use(self, caller: Caller) -> None:
        """Write the last use down beside the request, at most once a minute; nobody waits for it."""
        now = time.monotonic()
        if caller.key_id is None or now < self._noted.get(caller.key_id, 0.0):
            return
        if len(self._noted) >= _REMEMBERED:
            self._noted.clear()
        self._noted[caller.key_id] = now + TOUCH_EVERY
        note = asyncio.create_task(self._write_use(caller.key_id))
        self._notes.add(note)
        note.add_done_callback(self._notes.discard)

    async def _write_use(self, key_id: str) -> None:
        try:
            await self._threads.run(self._keys.touch, key_id, utcnow())
        except (DatabaseUnavailable, Overloaded) as error:
            log.warning("the last use of a key was not noted", key=key_id, error=str(error))

    def _check_guesses(self, address: str) -> None:
        ahead = self._guesses.get(address, 0.0) - time.monotonic()
        if ahead > (_GUESSES - 1) * _GUESS_EVERY:
            wait = math.ceil(ahead - (_GUESSES - 1) * _GUESS_EVERY)
            raise falcon.HTTPTooManyRequests(
                description="too many failed logins from this address; wait", retry_after=wait
            )

    def _count_guess(self, address: str) -> None:
        now = time.monotonic()
        clear_at = max(self._guesses.pop(address, 0.0), now) + _GUESS_EVERY
        if len(self._guesses) >= _REMEMBERED:
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
    """What guesses are counted by: an address, of IPv6 the network that one customer has."""
    if not isinstance(client, tuple | list) or not client:
        return "local"
    try:
        address = ipaddress.ip_address(str(client[0]).partition("%")[0])
    except ValueError:
        return "local"
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(getattr(address, "ipv4_mapped", None) or address)

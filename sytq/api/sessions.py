"""From a session cookie to a caller: what the dashboard takes in place of an Authorization header, and nothing else.

SameSite is Lax: a link in a mail leads into the dashboard without another login, as a GET changes nothing; a POST
needs the session's token in its form besides (sytq.api.dashboard.csrf).
"""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass

import falcon.asgi
import peewee
import structlog

from sytq.api.caller import Caller
from sytq.api.credentials import CACHE_SECONDS, Credentials, of_key, of_user
from sytq.api.guesses import address_of
from sytq.api.threads import Threads
from sytq.config import Settings
from sytq.errors import DatabaseUnavailable, Overloaded
from sytq.ledger import sessions as ledger
from sytq.ledger.sessions import Login
from sytq.ledger.values import utcnow
from sytq.observability.outages import log_failure

log = structlog.get_logger(__name__)

_MAX_CACHED = 10_000
#: Seconds between two writes of a session's last use.
_TOUCH_EVERY = 60.0
#: A session that was verified within these seconds stays valid while the database is away: nobody can revoke it then.
_GRACE = 60.0
_COOKIE = "sytq_session"
_PAST = dt.datetime.fromtimestamp(0, dt.UTC)


@dataclass(slots=True)
class _Known:
    caller: Caller
    verified: ledger.Verified
    until: float


class Sessions:
    """Belongs to one event loop."""

    def __init__(self, credentials: Credentials, store: ledger.Sessions, threads: Threads) -> None:
        self.store = store
        self._credentials = credentials
        self._threads = threads
        # By the token's digest, so that a memory dump reveals none.
        self._known: dict[bytes, _Known] = {}
        self._lookups: dict[bytes, asyncio.Task[ledger.Verified | None]] = {}
        self._touches: set[asyncio.Task[None]] = set()

    async def log_in(self, user: str, secret: str, client: object, agent: str | None) -> str:
        """Begin a session of a Basic user, or with no `user` of an API key, and return its token.

        Raises HTTPUnauthorized, HTTPForbidden, HTTPTooManyRequests, DatabaseUnavailable.
        """
        basic = base64.b64encode(f"{user}:{secret}".encode()).decode()
        header = f"Basic {basic}" if user else f"Bearer {secret}"
        caller = await self._credentials.caller(header, client)
        caller.require_scope("read")
        login = login_of(caller)
        given = secret.rpartition("_")[2] if caller.key_id else secret
        return await self._threads.run(self.store.begin, login, given, caller.name, address_of(client), agent)

    async def caller(self, token: str, client: object) -> Caller | None:
        """The caller whose session this is, if it is valid now. Raises HTTPTooManyRequests, DatabaseUnavailable."""
        digest = hashlib.sha256(token.encode()).digest()
        known = self._known.get(digest)
        if known is None:
            self._credentials.guesses.check(client)
        elif time.monotonic() < known.until:
            return known.caller
        try:
            verified = await self._look_up(digest, token)
        except DatabaseUnavailable:
            if known is None or time.monotonic() > known.until + _GRACE or utcnow() >= known.verified.expires_at:
                raise
            known.until = time.monotonic() + CACHE_SECONDS
            return known.caller
        self._known.pop(digest, None)
        if verified is None:
            self._credentials.guesses.count(client)
            return None
        caller = of_key(verified.key) if verified.key is not None else of_user(str(verified.login.user_name))
        if len(self._known) >= _MAX_CACHED:
            del self._known[next(iter(self._known))]
        self._known[digest] = _Known(caller, verified, time.monotonic() + CACHE_SECONDS)
        self._credentials.touch(caller)
        if (utcnow() - verified.used_at).total_seconds() > _TOUCH_EVERY:
            touch = asyncio.create_task(self._touch(token))
            self._touches.add(touch)
            touch.add_done_callback(self._touches.discard)
        return caller

    async def end(self, token: str) -> None:
        """Log out."""
        await self._threads.run(self.store.end, token)
        self.forget()

    def forget(self) -> None:
        """Verify every session anew: some were revoked. Other processes do so within CACHE_SECONDS."""
        self._known.clear()

    async def _look_up(self, digest: bytes, token: str) -> ledger.Verified | None:
        """Look a token up, once for all concurrent requests with it."""
        lookup = self._lookups.get(digest)
        if lookup is None:
            lookup = self._lookups[digest] = asyncio.create_task(self._threads.run(self.store.verify, token))
            lookup.add_done_callback(lambda _: self._lookups.pop(digest, None))
        return await asyncio.shield(lookup)

    async def _touch(self, token: str) -> None:
        try:
            await self._threads.run(self.store.touch, token)
        except (DatabaseUnavailable, Overloaded, peewee.PeeweeException) as error:
            log_failure(log, "last use of a session not recorded", error)


def of_settings(settings: Settings, users: Mapping[str, str], database: peewee.Database) -> ledger.Sessions:
    """The sessions of an installation; `users` are its Basic users with their passwords."""
    hashed = {name: hashlib.sha256(password.encode()).hexdigest() for name, password in users.items()}
    options = settings.dashboard
    return ledger.Sessions(database, hashed, max_age=options.session_max_age, idle=options.session_idle)


def login_of(caller: Caller) -> Login:
    return Login(key_id=caller.key_id) if caller.key_id else Login(user_name=caller.name)


def session_of(req: falcon.asgi.Request) -> str | None:
    """The token in the request's cookie. Two different ones are none: a neighbouring host may have set the other."""
    values = set(req.get_cookie_values(_name(req)) or ())
    return values.pop() if len(values) == 1 else None


def set_cookie(req: falcon.asgi.Request, resp: falcon.asgi.Response, token: str | None) -> None:
    """Set the cookie, until the browser is closed; without a token, remove it."""
    name, path, expires = _name(req), _path(req), None if token else _PAST
    secure = req.scheme == "https"  # a browser refuses what is not, also to remove a cookie whose name demands it
    resp.set_cookie(name, token or "", expires=expires, path=path, http_only=True, secure=secure, same_site="Lax")


def _name(req: falcon.asgi.Request) -> str:
    """With its prefix no neighbouring host (`__Host-`) or page in clear text can set such a cookie."""
    if req.scheme != "https":
        return _COOKIE
    return f"__Secure-{_COOKIE}" if req.root_path else f"__Host-{_COOKIE}"


def _path(req: falcon.asgi.Request) -> str:
    if req.scheme == "https" and not req.root_path:
        return "/"  # as `__Host-` demands
    return f"{req.root_path}/dashboard"

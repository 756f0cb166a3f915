"""Sessions of the dashboard: begun by a login, verified with each request, ended by a person or by their age.

A token is 256 random bits; its SHA-256 is the session's id, so that nobody who reads the table can use one. The
fingerprint is an HMAC of the password or secret that was given, with the token as its key: it ends a session whose
password was changed, and tells nothing about the password. Times are naive UTC; every method raises
DatabaseUnavailable.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import peewee

from sytq.errors import InvalidInput
from sytq.ledger.audit import note
from sytq.ledger.database import read, transact
from sytq.ledger.models import ApiKey, Session
from sytq.ledger.values import utcnow

#: Sessions of one user or key: the oldest end when more begin.
MAX_SESSIONS = 50
#: Characters of an id that are shown and accepted; they are unique enough for a person's choice.
SHOWN = 12
_SHOWN = re.compile(f"[0-9a-f]{{{SHOWN}}}")
#: Rows of ended sessions that one login deletes.
_PRUNED = 500


@dataclass(frozen=True, slots=True)
class Login:
    """Whose a session is: a Basic user or an API key."""

    user_name: str | None = None
    key_id: str | None = None

    @property
    def who(self) -> str:
        return self.user_name or f"key {self.key_id}"


@dataclass(frozen=True, slots=True)
class Verified:
    """A session that is valid now, until `expires_at` at the latest; `key` is its API key as it is now."""

    login: Login
    key: ApiKey | None
    used_at: dt.datetime
    expires_at: dt.datetime


class Sessions:
    """`users` are the Basic users with the SHA-256 of their passwords, in hex."""

    def __init__(self, database: peewee.Database, users: Mapping[str, str], *, max_age: float, idle: float) -> None:
        self._database = database
        self._users = users
        self._max_age = dt.timedelta(seconds=max_age)
        self._idle = dt.timedelta(seconds=idle)

    def begin(self, login: Login, secret: str, by: str, address: str | None = None, agent: str | None = None) -> str:
        """Begin a session and return its token, which is stored nowhere. The caller has verified `secret`."""
        token, now = secrets.token_urlsafe(32), utcnow()

        def work() -> None:
            expired = Session.select(Session.id).where(Session.expires_at < now).limit(_PRUNED)
            mine = Session.select(Session.id).where(*_of(login)).order_by(Session.created_at.desc())
            old = [row.id for query in (expired, mine.offset(MAX_SESSIONS - 1).limit(_PRUNED)) for row in query]
            Session.delete().where(Session.id.in_(old)).execute()
            Session.insert(
                id=_hash(token),
                user_name=login.user_name,
                key_id=login.key_id,
                fingerprint=_fingerprint(token, _hash(secret)),
                address=address and address[:64],
                agent=agent and agent[:200],
                created_at=now,
                used_at=now,
                expires_at=now + self._max_age,
            ).execute()
            note(now, by, "session.begin", _hash(token)[:SHOWN], address)

        transact(self._database, work)
        return token

    def verify(self, token: str) -> Verified | None:
        """Return the session with this token, if it is valid now."""

        def look() -> tuple[Session | None, ApiKey | None]:
            row = Session.get_or_none(Session.id == _hash(token))
            key = ApiKey.get_or_none(ApiKey.id == row.key_id) if row and row.key_id else None
            return row, key

        row, key = read(self._database, look)
        now = utcnow()
        if row is None or row.expires_at <= now or row.used_at + self._idle <= now:
            return None
        if not any(
            hmac.compare_digest(row.fingerprint, _fingerprint(token, one)) for one in self._valid(row, key, now)
        ):
            return None
        login = Login(row.user_name, row.key_id)
        ends = [row.expires_at, *([key.expires_at] if key and key.expires_at else [])]
        return Verified(login, key, row.used_at, min(ends))

    def _valid(self, row: Session, key: ApiKey | None, now: dt.datetime) -> list[str]:
        """The hashes of the secrets that the session's user or key has now."""
        if row.user_name is not None:
            return [self._users[row.user_name]] if row.user_name in self._users else []
        if key is None or key.revoked_at is not None or (key.expires_at and key.expires_at <= now):
            return []
        before = [key.previous] if key.previous and key.previous_until and now < key.previous_until else []
        return [key.secret, *before]

    def touch(self, token: str) -> None:
        """Write the last use."""
        transact(self._database, Session.update(used_at=utcnow()).where(Session.id == _hash(token)).execute)

    def end(self, token: str) -> None:
        """End the session with this token, if there is one."""
        transact(self._database, Session.delete().where(Session.id == _hash(token)).execute)

    def latest(self, login: Login | None, limit: int) -> list[tuple[Session, str]]:
        """Return the sessions of a user or key, or of all, with whose they are, the last used first.

        Sessions that have ended by their age are left out.
        """
        now = utcnow()
        live = [Session.expires_at > now, Session.used_at > now - self._idle, *(_of(login) if login else ())]
        query = Session.select(Session, ApiKey.name.alias("key_name"))
        query = query.join(ApiKey, peewee.JOIN.LEFT_OUTER, on=(ApiKey.id == Session.key_id)).where(*live)
        query = query.order_by(Session.used_at.desc()).limit(limit)
        rows: list[Any] = read(self._database, lambda: list(query.objects()))
        return [(row, row.user_name or f"{row.key_name} ({row.key_id})") for row in rows]

    def revoke(self, shown: str, by: str, login: Login | None = None) -> None:
        """End the session whose id begins with `shown`. Raises InvalidInput, also where it is not of `login`."""

        def work() -> None:
            named = Session.select().where(Session.id.startswith(shown), *(_of(login) if login else ()))
            rows = list(named) if _SHOWN.fullmatch(shown) else []
            if not rows:
                raise InvalidInput("id", f"there is no session '{shown[:64]}'")
            _delete(rows, by)

        transact(self._database, work)

    def revoke_all(self, login: Login | None, by: str) -> int:
        """End all sessions of a user or key, or of everybody; return their number."""

        def work() -> int:
            rows = list(Session.select().where(*(_of(login) if login else (True,))))
            _delete(rows, by)
            return len(rows)

        return transact(self._database, work)


def is_current(row: Session, token: str) -> bool:
    """Whether this token is the session's."""
    return hmac.compare_digest(row.id, _hash(token))


def _delete(rows: Sequence[Session], by: str) -> None:
    Session.delete().where(Session.id.in_([row.id for row in rows])).execute()
    for row in rows:
        note(utcnow(), by, "session.revoke", row.id[:SHOWN], f"of {Login(row.user_name, row.key_id).who}")


def _of(login: Login) -> tuple[peewee.Expression, ...]:
    columns = (Session.user_name, login.user_name), (Session.key_id, login.key_id)
    return tuple(column.is_null() if value is None else column == value for column, value in columns)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _fingerprint(token: str, secret: str) -> str:
    return hmac.new(token.encode(), secret.encode(), hashlib.sha256).hexdigest()

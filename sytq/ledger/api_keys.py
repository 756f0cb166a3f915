"""API keys: `sytq_<id>_<secret>`, created, verified, rotated and revoked.

The secret is 256 random bits, so one round of SHA-256 is enough; it is shown once and kept nowhere. Times are naive
UTC; every method raises DatabaseUnavailable.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import peewee

from sytq.errors import DatabaseUnavailable, InvalidInput
from sytq.ledger.audit import note
from sytq.ledger.database import read, transact
from sytq.ledger.models import ApiKey
from sytq.ledger.values import utcnow
from sytq.states import NAME

T = TypeVar("T")

#: Scopes: submit tasks; read the owner's tasks; operate (change) them; admin is all of these for all owners.
SCOPES = ("submit", "read", "operate", "admin")
#: Minimum seconds between two writes of the last use.
TOUCH_EVERY = 60.0
_OWNER = re.compile(r"[!-~]{1,64}")
_ID = re.compile(r"[0-9a-f]{12}")
_FORM = re.compile(r"sytq_([0-9a-f]{12})_([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Grant:
    """Permissions of a new key. `rate` is (requests, seconds); None and an empty `types` set no limit."""

    scopes: Sequence[str] = ("submit", "read")
    types: Sequence[str] = ()
    rate: tuple[int, int] | None = None
    daily_tasks: int | None = None
    expires_at: dt.datetime | None = None


class NotConfirmed(DatabaseUnavailable):
    """The database did not answer the commit of a key. `text`, which is kept nowhere, is valid if it was written."""

    def __init__(self, key_id: str, text: str) -> None:
        super().__init__(
            f"the database has not confirmed the key {key_id}; `sytq key list` says whether it was written"
        )
        self.key_id = key_id
        self.text = text


class ApiKeys:
    def __init__(self, database: peewee.Database) -> None:
        self._database = database

    def create(self, name: str, owner: str, grant: Grant, by: str) -> tuple[ApiKey, str]:
        """Create a key and return it with its text, which is not stored. Raises InvalidInput, NotConfirmed."""
        _check(name, owner, grant)
        calls, seconds = grant.rate or (None, None)
        secret = secrets.token_hex(32)
        row = ApiKey(
            id=secrets.token_hex(6),
            name=name,
            owner=owner,
            secret=_hash(secret),
            scopes=" ".join(scope for scope in SCOPES if scope in grant.scopes),
            types=" ".join(sorted(set(grant.types))) or None,
            rate_calls=calls,
            rate_seconds=seconds,
            daily_tasks=grant.daily_tasks,
            created_at=utcnow(),
            expires_at=grant.expires_at,
        )

        def work() -> None:
            row.save(force_insert=True)
            note(row.created_at, by, "key.create", row.id, f"{row.name}, owner {row.owner}: {row.scopes}")

        text = _text(row.id, secret)
        self._write(work, row.id, text)
        return row, text

    def all(self) -> list[ApiKey]:
        """Return all keys, oldest first."""
        return read(self._database, lambda: list(ApiKey.select().order_by(ApiKey.created_at, ApiKey.id)))

    def any_live(self) -> bool:
        """Whether any key is usable now."""
        lasting = ApiKey.expires_at.is_null() | (ApiKey.expires_at > utcnow())
        return read(self._database, ApiKey.select().where(ApiKey.revoked_at.is_null(), lasting).exists)

    def verify(self, text: str) -> ApiKey | None:
        """Return the key with this text, if it is usable now."""
        match = _FORM.fullmatch(text)
        if match is None:
            return None
        row = read(self._database, lambda: ApiKey.get_or_none(ApiKey.id == match[1]))
        given, now = _hash(match[2]), utcnow()
        # Both are always compared, and an unknown id costs the same.
        current = hmac.compare_digest(given, row.secret if row else "0" * 64)
        before = hmac.compare_digest(given, (row.previous if row else None) or "0" * 64)
        if row is None or row.revoked_at is not None or (row.expires_at and row.expires_at <= now):
            return None
        return row if current or (before and row.previous_until and now < row.previous_until) else None

    def revoke(self, key_id: str, by: str) -> bool:
        """Revoke a key with both of its secrets; False if it was revoked before. Raises InvalidInput."""

        def work() -> bool:
            row = _row(key_id)
            now = utcnow()
            revoked = ApiKey.update(revoked_at=now, previous=None, previous_until=None)
            if not revoked.where(ApiKey.id == row.id, ApiKey.revoked_at.is_null()).execute():
                return False
            note(now, by, "key.revoke", row.id, row.name)
            return True

        return transact(self._database, work)

    def rotate(self, key_id: str, grace: float, by: str) -> tuple[ApiKey, str]:
        """Give a key a new secret; the current one stays valid for `grace` seconds. Raises InvalidInput, NotConfirmed.

        At most two secrets are valid: an older one still in its grace period expires now.
        """
        secret = secrets.token_hex(32)

        def work() -> ApiKey:
            row = _row(key_id)
            if row.revoked_at is not None:
                raise InvalidInput("id", f"the key '{row.id}' is revoked; make another with `sytq key create`")
            now = utcnow()
            row.previous, row.previous_until = row.secret, now + dt.timedelta(seconds=grace)
            row.secret = _hash(secret)
            row.save()
            note(now, by, "key.rotate", row.id, f"{row.name}, the secret before until {row.previous_until}Z")
            return row

        text = _text(key_id, secret)
        return self._write(work, key_id, text), text

    def _write(self, work: Callable[[], T], key_id: str, text: str) -> T:
        """Run `work` in a transaction. Raises NotConfirmed if it failed in its commit."""
        is_in_commit = False

        def whole() -> T:
            nonlocal is_in_commit
            is_in_commit = False
            value = work()
            is_in_commit = True
            return value

        try:
            return transact(self._database, whole)
        except DatabaseUnavailable as error:
            if not is_in_commit:
                raise
            raise NotConfirmed(key_id, text) from error

    def touch(self, key_id: str, at: dt.datetime) -> None:
        """Write the last use, unless it was written within TOUCH_EVERY seconds."""
        lately = at - dt.timedelta(seconds=TOUCH_EVERY)
        stale = ApiKey.last_used_at.is_null() | (ApiKey.last_used_at < lately)
        query = ApiKey.update(last_used_at=at).where(ApiKey.id == key_id, stale)
        transact(self._database, query.execute)


def _row(key_id: str) -> ApiKey:
    # Not asked for anything else: the column is ASCII, and MySQL would refuse the comparison.
    row: ApiKey | None = ApiKey.get_or_none(ApiKey.id == key_id) if _ID.fullmatch(key_id) else None
    if row is None:
        raise InvalidInput("id", f"there is no key '{key_id[:64]}'; see `sytq key list`")
    return row


def _check(name: str, owner: str, grant: Grant) -> None:
    if not name.strip() or len(name) > 64:
        raise InvalidInput("name", f"'{name[:64]}' is not valid; valid: 1 to 64 characters")
    if not _OWNER.fullmatch(owner):
        raise InvalidInput("owner", f"'{owner[:64]}' is not valid; valid: 1 to 64 ASCII characters without spaces")
    for scope in grant.scopes:
        if scope not in SCOPES:
            raise InvalidInput("scope", f"'{scope[:64]}' is not valid; valid: {', '.join(SCOPES)}")
    if not grant.scopes:
        raise InvalidInput("scope", f"none is given; valid: {', '.join(SCOPES)}")
    for type_name in grant.types:
        if not NAME.fullmatch(type_name):
            raise InvalidInput("type", f"'{type_name[:64]}' is not a type's name")
    if len(" ".join(grant.types)) > 1000:
        raise InvalidInput("type", "too many: together longer than 1,000 characters")
    if grant.daily_tasks is not None and grant.daily_tasks < 1:
        raise InvalidInput("daily", f"{grant.daily_tasks} is not valid; valid: 1 and more")


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _text(key_id: str, secret: str) -> str:
    return f"sytq_{key_id}_{secret}"

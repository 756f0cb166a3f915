"""Sessions on SQLite and MySQL: what begins, verifies and ends one."""

from __future__ import annotations

import datetime as dt
import hashlib

import peewee
import pytest

from sytq.errors import InvalidInput
from sytq.ledger.api_keys import ApiKeys, Grant
from sytq.ledger.models import ApiKey, AuditEntry, Session
from sytq.ledger.sessions import MAX_SESSIONS, Login, Sessions, is_current
from sytq.ledger.values import utcnow

ANNA, BEN = Login(user_name="anna"), Login(user_name="ben")


def sessions(database: peewee.Database, **passwords: str) -> Sessions:
    users = passwords or {"anna": "right", "ben": "other"}
    hashed = {name: hashlib.sha256(password.encode()).hexdigest() for name, password in users.items()}
    return Sessions(database, hashed, max_age=3600, idle=600)


def begun(database: peewee.Database, login: Login = ANNA, secret: str = "right") -> str:
    return sessions(database).begin(login, secret, "anna", "192.0.2.1", "a browser")


def key_of(database: peewee.Database, **grant: object) -> tuple[ApiKey, str, Login]:
    row, text = ApiKeys(database).create("till", "shop", Grant(**grant), by="test")  # type: ignore[arg-type]
    return row, text.rpartition("_")[2], Login(key_id=row.id)


def age(**columns: float) -> None:
    """Move times of all sessions into the past, by seconds."""
    for row in Session.select():
        for column, seconds in columns.items():
            setattr(row, column, getattr(row, column) - dt.timedelta(seconds=seconds))
        row.save()


def test_a_session_is_of_its_user_until_it_ends(database: peewee.Database) -> None:
    token = begun(database)
    verified = sessions(database).verify(token)
    assert verified is not None and (verified.login, verified.key) == (ANNA, None)
    assert 3590 < (verified.expires_at - utcnow()).total_seconds() <= 3600
    sessions(database).end(token)
    assert sessions(database).verify(token) is None
    sessions(database).end(token)  # twice is once


def test_an_unknown_or_altered_token_is_no_session(database: peewee.Database) -> None:
    token = begun(database)
    for other in ("", token[:-1], token + "A", token.swapcase(), "x" * 5000, Session.get().id):
        assert sessions(database).verify(other) is None


def test_the_table_holds_neither_tokens_nor_hashes_of_passwords(database: peewee.Database) -> None:
    token = begun(database)
    stored = str(Session.select().dicts().get())
    for secret in (token, "right", hashlib.sha256(b"right").hexdigest()):
        assert secret not in stored
    assert token not in str(list(AuditEntry.select().dicts()))


def test_a_changed_password_or_a_removed_user_ends_sessions(database: peewee.Database) -> None:
    token = begun(database)
    assert sessions(database, anna="new").verify(token) is None
    assert sessions(database, ben="right").verify(token) is None
    assert sessions(database, anna="right").verify(token) is not None


def test_a_session_ends_at_its_age_and_when_idle(database: peewee.Database) -> None:
    token = begun(database)
    age(used_at=599)
    assert sessions(database).verify(token) is not None
    age(used_at=2)
    assert sessions(database).verify(token) is None
    sessions(database).touch(token)
    assert sessions(database).verify(token) is not None
    age(expires_at=3600)
    assert sessions(database).verify(token) is None


def test_scopes_of_a_session_are_those_of_its_key_now(database: peewee.Database) -> None:
    row, secret, login = key_of(database, scopes=("admin",))
    token = sessions(database).begin(login, secret, "till")
    verified = sessions(database).verify(token)
    assert verified is not None and verified.key is not None and verified.key.scopes == "admin"
    ApiKey.update(scopes="read").where(ApiKey.id == row.id).execute()
    verified = sessions(database).verify(token)
    assert verified is not None and verified.key is not None and verified.key.scopes == "read"


def test_a_session_ends_with_its_key_or_the_secret_it_had(database: peewee.Database) -> None:
    row, secret, login = key_of(database)
    token = sessions(database).begin(login, secret, "till")
    ApiKeys(database).rotate(row.id, 3600, by="test")
    assert sessions(database).verify(token) is not None  # in its grace
    ApiKey.update(previous_until=utcnow()).execute()
    assert sessions(database).verify(token) is None
    row, secret, login = key_of(database)
    token = sessions(database).begin(login, secret, "till")
    ApiKeys(database).revoke(row.id, by="test")
    assert sessions(database).verify(token) is None
    row, secret, login = key_of(database, expires_at=utcnow() + dt.timedelta(seconds=60))
    token = sessions(database).begin(login, secret, "till")
    verified = sessions(database).verify(token)
    assert verified is not None and (verified.expires_at - utcnow()).total_seconds() <= 60
    ApiKey.update(expires_at=utcnow()).where(ApiKey.id == row.id).execute()
    assert sessions(database).verify(token) is None
    ApiKey.delete().execute()
    assert sessions(database).verify(token) is None


def test_sessions_are_listed_and_revoked_by_their_owner(database: peewee.Database) -> None:
    store, token = sessions(database), begun(database)
    mine, theirs = store.latest(ANNA, 10), begun(database, BEN, "other")
    assert [(is_current(row, token), is_current(row, theirs), who) for row, who in mine] == [(True, False, "anna")]
    assert len(store.latest(None, 10)) == 2
    shown = mine[0][0].id[:12]
    for wrong in ("", shown[:-1], shown + "0", "%" * 12, "_" * 12):
        with pytest.raises(InvalidInput):
            store.revoke(wrong, "root")
    with pytest.raises(InvalidInput):
        store.revoke(shown, "ben", BEN)  # another's session does not exist
    store.revoke(shown, "anna", ANNA)
    assert store.verify(token) is None and store.verify(theirs) is not None
    entry = AuditEntry.get(AuditEntry.what == "session.revoke")
    assert (entry.who, entry.about, entry.detail) == ("anna", shown, "of anna")


def test_all_sessions_of_a_login_or_of_everybody_are_revoked(database: peewee.Database) -> None:
    tokens = [begun(database), begun(database), begun(database, BEN, "other")]
    assert sessions(database).revoke_all(ANNA, "anna") == 2
    assert [sessions(database).verify(token) is None for token in tokens] == [True, True, False]
    assert sessions(database).revoke_all(None, "root") == 1


def test_a_login_keeps_a_bounded_number_and_deletes_ended_ones(database: peewee.Database) -> None:
    first, others = begun(database), begun(database, BEN, "other")
    age(expires_at=3601)
    tokens = [begun(database) for _ in range(MAX_SESSIONS + 2)]
    assert Session.select().count() == MAX_SESSIONS
    valid = [sessions(database).verify(token) is not None for token in tokens]
    assert valid == [False] * 2 + [True] * MAX_SESSIONS
    assert not any(sessions(database).verify(token) for token in (first, others))

"""`sytq session`: who is logged in, and the end of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from sytq.ledger.database import open_database
from sytq.ledger.models import MODELS
from sytq.ledger.sessions import Login, Sessions
from tests.cli.test_root import run


def test_sessions_are_listed_and_ended(tmp_path: Path) -> None:
    run("db", "migrate", folder=tmp_path)
    database = open_database(f"sqlite:///{tmp_path / 'sytq.db'}")
    database.bind(MODELS)
    users = {"anna": hashlib.sha256(b"pa55").hexdigest()}
    sessions = Sessions(database, users, max_age=3600, idle=3600)
    tokens = [sessions.begin(Login("anna"), "pa55", "anna", f"192.0.2.{n}", "Firefox") for n in range(3)]
    listed = run("session", "list", "--json", folder=tmp_path)
    found = json.loads(listed.stdout)["sessions"]
    assert [one["who"] for one in found] == ["anna"] * 3
    assert not any(token in listed.stdout for token in tokens)
    assert "192.0.2.1" in run("session", "list", folder=tmp_path).stdout
    [first] = [one["id"] for one in found if one["address"] == "192.0.2.0"]
    assert run("session", "revoke", first, folder=tmp_path).stdout == "1 session has ended\n"
    assert [sessions.verify(token) is None for token in tokens] == [True, False, False]
    assert json.loads(run("session", "revoke", "--all", "--json", folder=tmp_path).stdout) == {"ended": 2}
    assert not any(sessions.verify(token) for token in tokens)
    database.close_all()  # type: ignore[attr-defined]


def test_a_session_to_end_must_be_named(tmp_path: Path) -> None:
    run("db", "migrate", folder=tmp_path)
    for arguments, status, said in (
        (("0" * 12,), 1, "there is no session"),
        ((), 2, "--all"),
        (("x", "--all"), 2, "--all"),
    ):
        done = run("session", "revoke", *arguments, folder=tmp_path)
        assert done.returncode == status and said in done.stderr and "Traceback" not in done.stderr

"""`sytq key` and `sytq audit`, as a script uses them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.cli.test_root import run


def key(folder: Path, *arguments: str) -> Any:
    done = run("key", *arguments, "--json", folder=folder)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    return json.loads(done.stdout)


def test_key_is_created_rotated_listed_and_revoked(tmp_path: Path) -> None:
    run("db", "migrate", folder=tmp_path)
    options = ("--owner", "shop", "--scope", "submit", "--type", "webhook", "--rate", "100/min", "--daily", "5000")
    created = key(tmp_path, "create", "till 7", *options, "--expires", "720h")
    assert created["key"].startswith(f"sytq_{created['id']}_")
    assert (created["owner"], created["scopes"], created["types"]) == ("shop", ["submit"], ["webhook"])
    assert (created["rate"], created["daily_tasks"]) == ("100/60s", 5000)
    rotated = key(tmp_path, "rotate", created["id"], "--grace", "1h")
    assert rotated["key"] != created["key"]
    assert (rotated["state"], rotated["id"]) == ("rotated", created["id"])
    listed = key(tmp_path, "list")
    secrets = [one["key"].rpartition("_")[2] for one in (created, rotated)]
    assert [entry["id"] for entry in listed["keys"]] == [created["id"]]
    assert not any(secret in json.dumps(listed) for secret in secrets)
    assert key(tmp_path, "revoke", created["id"]) == {"id": created["id"], "revoked": True}
    assert key(tmp_path, "revoke", created["id"])["revoked"] is False
    assert key(tmp_path, "list")["keys"][0]["state"] == "revoked"
    entries = json.loads(run("audit", "--json", folder=tmp_path).stdout)["entries"]
    assert [entry["what"] for entry in entries] == ["key.revoke", "key.rotate", "key.create"]
    assert not any(secret in json.dumps(entries) for secret in secrets)


def test_only_the_key_is_on_standard_output(tmp_path: Path) -> None:
    run("db", "migrate", folder=tmp_path)
    done = run("key", "create", "shop", folder=tmp_path)
    assert done.stdout.startswith("sytq_") and len(done.stdout.split()) == 1
    assert "shown only once" in done.stderr
    assert "submit read" in run("key", "list", folder=tmp_path).stdout


def test_invalid_key_commands_are_refused_without_a_traceback(tmp_path: Path) -> None:
    run("db", "migrate", folder=tmp_path)
    for arguments, status, said in (
        (("create", "x", "--scope", "root"), 1, "submit, read, operate, admin"),
        (("create", "two words"), 1, "owner"),
        (("create", "x", "--rate", "many"), 2, "100/min"),
        (("revoke", "000000000000"), 1, "sytq key list"),
        (("rotate", "000000000000", "--grace", "soon"), 2, "duration"),
    ):
        done = run("key", *arguments, folder=tmp_path)
        assert (done.returncode, done.stdout) == (status, ""), done.stderr
        assert said in done.stderr and "Traceback" not in done.stderr

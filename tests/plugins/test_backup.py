"""The type `backup`: one complete file a task, whatever its attempts, and the policy that keeps files."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from sytq_plugins.backup import Config, kept

from sytq.errors import ConfigError
from sytq.ids import new_id
from sytq.ledger.backup import check
from sytq.ledger.database import open_database
from sytq.ledger.migrations import migrate, pending
from sytq.ledger.models import Task
from sytq.runtime import Runtime
from tests.installation import Installation
from tests.plugins.running import Run, runtime_of
from tests.plugins.test_stranger_alone import MIGRATION, SHOP
from tests.servers import poll
from tests.terminal import clean_environ, sytq


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "backups"


@pytest.fixture
def runtime(database_url: str, folder: Path) -> Iterator[Runtime]:
    own = json.dumps({"folder": str(folder), "last": 2, "daily": 0, "weekly": 0, "monthly": 0})
    with runtime_of(database_url, "redis://127.0.0.1:1/0", TYPES__BACKUP=own) as made:
        yield made


def fill(runtime: Runtime, tasks: int, payload: str = "{}") -> None:
    now = dt.datetime(2026, 7, 1)
    rows = [{"id": new_id(), "type": "x", "state": "dead", "payload": payload, "created_at": now} for _ in range(tasks)]
    with runtime.database.connection_context(), runtime.database.atomic():
        for start in range(0, tasks, 200):
            Task.insert_many(rows[start : start + 200]).execute()


def test_backup_is_verified_and_named_after_its_task(runtime: Runtime, folder: Path) -> None:
    fill(runtime, 700)
    run = Run(runtime, "backup", {}, dt.datetime(2026, 7, 1, 3, 0, tzinfo=dt.UTC))
    result = run.start()
    (file,) = folder.iterdir()
    assert file.name == f"backup-20260701T030000Z-{run.id[-12:]}.jsonl.gz"
    assert result["file"] == str(file)
    assert (result["bytes"], result["removed"]) == (file.stat().st_size, [])
    assert result["rows"]["sytq_tasks"] == 701  # with its own
    assert result["sha256"] == check(file).sha256
    assert (folder.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o700, 0o600)


def test_second_attempt_keeps_the_file_of_the_first(runtime: Runtime, folder: Path) -> None:
    run = Run(runtime, "backup", {})
    first = run.start()
    fill(runtime, 10)
    assert run.start() == first
    assert len(list(folder.iterdir())) == 1


def test_old_backups_are_deleted_only_after_a_good_new_backup(runtime: Runtime, folder: Path) -> None:
    days = [dt.datetime(2026, 7, day, tzinfo=dt.UTC) for day in (1, 2, 3)]
    first, second, third = (Run(runtime, "backup", {}, day) for day in days)
    first.start()
    second.start()
    (folder / "notes.txt").touch()
    with runtime.database.connection_context():
        runtime.database.execute_sql("ALTER TABLE valuation_records RENAME TO moved")
    with pytest.raises(Exception, match="table 'valuation_records' is not in the database"):
        third.start()
    assert len(list(folder.iterdir())) == 3
    with runtime.database.connection_context():
        runtime.database.execute_sql("ALTER TABLE moved RENAME TO valuation_records")
    assert third.start()["removed"] == [f"backup-20260701T000000Z-{first.id[-12:]}.jsonl.gz"]
    assert len(list(folder.iterdir())) == 3


def test_old_partial_files_are_deleted(runtime: Runtime, folder: Path) -> None:
    folder.mkdir(parents=True)
    run = Run(runtime, "backup", {}, dt.datetime(2026, 7, 1, tzinfo=dt.UTC))
    own = folder / f"backup-20260701T000000Z-{run.id[-12:]}.jsonl.gz.0.partial"
    old, young = folder / "backup-20250101T000000Z-0.jsonl.gz.1.partial", folder / "backup-x.partial"
    for file in (own, old, young):
        file.touch()
    os.utime(old, (0, 0))
    run.start()
    assert {file.name for file in folder.iterdir()} == {own.name.removesuffix(".0.partial"), young.name}


def test_the_policy_keeps_the_last_and_the_newest_of_each_period() -> None:
    start = dt.datetime(2026, 12, 31, 23, 0)
    hours = [start - dt.timedelta(hours=6 * number) for number in range(4 * 400)]
    names = [f"backup-{hour:%Y%m%dT%H%M%SZ}-0123456789ab.jsonl.gz" for hour in hours]
    stays = kept(names, Config(last=3, daily=3, weekly=3, monthly=3))
    days = sorted((name[7:15] + name[16:18] for name in stays), reverse=True)
    # Dec 31 2026 is a Thursday: the newest of the two weeks before are their Sundays.
    expected = ["2026123123", "2026123117", "2026123111", "2026123023", "2026122923", "2026122723", "2026122023"]
    assert days == [*expected, "2026113023", "2026103123"]
    assert kept(names, Config(last=1, daily=0, weekly=0, monthly=0)) == {names[0]}


def test_cli_restores_a_backup(runtime: Runtime, folder: Path, tmp_path: Path) -> None:
    fill(runtime, 5, '{"secret": "hush"}')
    file = Run(runtime, "backup", {}).start()["file"]
    target = {"SYTQ_DATABASE__URL": f"sqlite:///{tmp_path / 'new.db'}"}
    whole = sytq("restore", "--check", file, environ=clean_environ(**target))
    assert whole.returncode == 0, whole.stderr
    assert re.search(r"is intact: \d+ rows in \d+ tables$", whole.stdout.strip())
    assert not (tmp_path / "new.db").exists()
    done = sytq("restore", "--json", file, environ=clean_environ(**target))
    assert (done.returncode, json.loads(done.stdout)["rows"]["sytq_tasks"]) == (0, 6)
    again = sytq("restore", file, environ=clean_environ(**target))
    assert (again.returncode, again.stderr) == (
        1, "sytq: table 'sytq_tasks' has rows: a backup is restored into an empty database only\n"
    )  # fmt: skip
    Path(file).write_bytes(Path(file).read_bytes()[:-5])
    for arguments in (["restore", file], ["restore", "--check", file]):
        cut = sytq(*arguments, environ=clean_environ(SYTQ_DATABASE__URL=f"sqlite:///{tmp_path / 'other.db'}"))
        assert (cut.returncode, "cut off or damaged" in cut.stderr) == (1, True)
    missing = sytq("restore", "/nowhere/at/all", environ=clean_environ(**target))
    assert (missing.returncode, "cannot be read: No such file" in missing.stderr) == (1, True)


def test_p4_restored_unfinished_tasks_wait_for_an_operator(runtime: Runtime, folder: Path, tmp_path: Path) -> None:
    file = Run(runtime, "backup", {}).start()["file"]  # with its own task, which has ended since
    target = clean_environ(SYTQ_DATABASE__URL=f"sqlite:///{tmp_path / 'new.db'}")
    done = sytq("restore", file, environ=target)
    assert "held: no task starts before `sytq hold off`" in done.stdout
    entries = json.loads(sytq("audit", "--json", environ=target).stdout)["entries"]
    assert [entry["what"] for entry in entries] == ["service.hold", "ledger.restore"]


def test_what_a_restore_will_lack_is_told_before_it_is_needed(
    tmp_path: Path, redis_url: str, mysql_url: str, folder: Path
) -> None:
    own = {
        "TYPES__BACKUP": json.dumps({"folder": str(folder)}),
        "LLM__TABLES": json.dumps({"valuation_records": {"pickup": False}, "seen": {"pickup": False}}),
    }
    noted = "trigger 'early' of table 'valuation_records' is not in the backup: make it again"
    environ = clean_environ(SYTQ_DATABASE__URL=mysql_url, SYTQ_REDIS__URL=redis_url)
    with runtime_of(mysql_url, redis_url, **own) as runtime:
        with runtime.database.connection_context():
            runtime.database.execute_sql("CREATE VIEW seen AS SELECT * FROM valuation_records")
            runtime.database.execute_sql(
                "CREATE TRIGGER early BEFORE INSERT ON valuation_records FOR EACH ROW SET NEW.progress = ''"
            )
        with pytest.raises(ConfigError, match="table 'seen' is a view: list the tables that it reads"):
            Run(runtime, "backup", {}).start()
        assert list(folder.iterdir()) == []
    refused = sytq("doctor", "--json", environ=environ | {"SYTQ_LLM__TABLES": own["LLM__TABLES"]})
    assert [one["said"] for one in json.loads(refused.stdout)["checks"] if one["check"] == "backup"] == [
        "the type `backup` fails: table 'seen' is a view: list the tables that it reads"
    ]
    noticed = sytq("doctor", "--json", environ=environ)
    assert [one["said"] for one in json.loads(noticed.stdout)["checks"] if one["check"] == "backup"] == [noted]
    del own["LLM__TABLES"]
    with runtime_of(mysql_url, redis_url, **own) as runtime:
        written = Run(runtime, "backup", {}).start()
    assert written["notes"] == [noted]
    whole = sytq("restore", "--check", written["file"], environ=environ)
    assert whole.stdout.splitlines()[1:] == [f"note: {noted}"]
    assert json.loads(sytq("restore", "--check", "--json", written["file"], environ=environ).stdout)["notes"] == [noted]


def test_cli_restores_tables_of_a_third_party_plugin(
    tmp_path: Path, redis_url: str, database_url: str, folder: Path
) -> None:
    (tmp_path / "plugins" / "migrations").mkdir(parents=True)
    (tmp_path / "plugins" / "shop.py").write_text(SHOP)
    (tmp_path / "plugins" / "migrations" / "0001_sales.py").write_text(MIGRATION)
    own = {
        "PLUGINS__PATHS": json.dumps([str(tmp_path / "plugins")]),
        "TYPES__BACKUP": json.dumps({"folder": str(folder)}),
    }
    with runtime_of(database_url, redis_url, **own) as runtime:
        migrate(runtime.database, runtime.registry.plugins)
        with runtime.database.connection_context():
            runtime.database.execute_sql("INSERT INTO shop_sales VALUES (1, 'tea', 'Wells')")
        written = Run(runtime, "backup", {}).start()
    assert written["rows"]["shop_sales"] == 1
    target = {f"SYTQ_{name}": value for name, value in own.items()}
    target["SYTQ_DATABASE__URL"] = f"sqlite:///{tmp_path / 'new.db'}"
    done = sytq("restore", written["file"], environ=clean_environ(**target))
    assert done.returncode == 0, done.stderr
    restored = open_database(target["SYTQ_DATABASE__URL"])
    assert restored.execute_sql("SELECT item, town FROM shop_sales").fetchall() == [("tea", "Wells")]
    assert pending(restored, runtime.registry.plugins) == []
    restored.close_all()  # type: ignore[attr-defined]


@pytest.mark.faults
def test_backup_of_a_killed_worker_is_partial_and_written_again(
    tmp_path: Path, redis_url: str, mysql_url: str, folder: Path
) -> None:
    own = {"SYTQ_TYPES__BACKUP": json.dumps({"folder": str(folder)})}
    installation = Installation(tmp_path, mysql_url, redis_url, **own)
    try:
        runtime = installation.runtime
        fill(runtime, 6_000, json.dumps({"text": os.urandom(4000).hex()}))
        for _ in range(5):  # the backup may be complete before the worker is killed
            worker = installation.start_worker()
            task = runtime.submitter.prepare("backup", {})
            runtime.submitter.submit([task])
            poll(lambda: any(folder.glob("*")), interval=0.001, message="the file exists")
            worker.kill()
            (left,) = folder.iterdir()
            if left.name.endswith(".partial"):
                break
            left.unlink()
            runtime.operator.cancel(task.id, "a test")  # if the worker was killed before its acknowledgement
        assert left.name.endswith(".partial"), "the backup was complete before the kill"
        installation.start_worker()
        row = installation.wait_state(task.id, "succeeded", timeout=60)
        (file,) = folder.iterdir()
        assert check(file).rows["sytq_tasks"] == json.loads(row.result)["rows"]["sytq_tasks"] >= 6_001
    finally:
        installation.close()

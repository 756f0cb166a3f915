"""`sytq seed`: what it makes up, where it refuses, and that nothing of it is left or runs."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import peewee
import pytest
from sytq_plugins.llm.spend import SpendRow
from sytq_plugins.webhook.hosts import FailingHost

from sytq.dev.seed import rows
from sytq.dev.seed.incidents import CAUSES
from sytq.dev.seed.rows import Rows
from sytq.dev.seed.stories import Stories
from sytq.ledger.database import open_database
from sytq.ledger.ledger import Ledger, NewTask
from sytq.ledger.models import MODELS, Attempt, Step, Task, Wait
from sytq.ledger.values import utcnow
from tests.installation import Installation
from tests.tables import make_tables
from tests.terminal import sytq

UNTIL = dt.datetime(2026, 7, 1, 15, 4, 5)
COUNT = 4000


def seeded(url: str, count: int = COUNT, seed: int = 7) -> peewee.Database:
    database = open_database(url)
    make_tables(database)
    database.bind([*MODELS, SpendRow, FailingHost])
    told: list[int] = []
    Stories(Rows(database, told.append), UNTIL, seed).tell(count)
    assert sum(told) == count
    return database


@pytest.fixture(scope="module")
def database(module_database_url: str) -> peewee.Database:
    return seeded(module_database_url)


def counted(query: Any) -> dict[Any, int]:
    return dict(query.tuples())


def shares(column: Any) -> dict[Any, int]:
    return counted(Task.select(column, peewee.fn.COUNT(Task.id)).group_by(column))


def test_the_history_has_every_built_in_type_and_state(database: peewee.Database) -> None:
    types, states = shares(Task.type), shares(Task.state)
    assert {"llm", "webhook", "callback", "email", "default", "cleanup", "report"} <= types.keys()
    assert sum(types.values()) == COUNT
    assert set(states) == {"succeeded", "dead", "cancelled", "scheduled"}
    assert 0.85 < states["succeeded"] / COUNT < 0.97 and states["dead"] > COUNT / 50
    assert Task.select().where(Task.parent.is_null(False)).count() > COUNT / 20
    assert Wait.select().where(Wait.ended == 0).count() == 0  # the reconciler finds nothing to release
    assert Step.select().count() and SpendRow.select().count()


def test_failures_have_few_causes_with_the_fingerprint_of_the_real_error(database: peewee.Database) -> None:
    dead = Task.select(Task.error_fingerprint, Task.owner).where(Task.state == "dead")
    fingerprints = {row.error_fingerprint for row in dead if "sons" not in (row.owner or "")}
    assert fingerprints <= {cause.fingerprint for cause in CAUSES}
    assert len(fingerprints) >= 5


def test_times_are_in_order_and_none_is_after_now(database: peewee.Database) -> None:
    ended = list(Task.select().where(Task.state != "scheduled"))
    assert all(UNTIL - dt.timedelta(days=8) <= task.created_at <= task.finished_at <= UNTIL for task in ended)
    attempts = list(Attempt.select())
    assert all(one.started_at <= one.finished_at <= UNTIL for one in attempts)
    finished = {one.task_id: one.finished_at for one in Attempt.select().order_by(Attempt.token)}
    assert all(task.finished_at == finished.get(task.id, task.finished_at) for task in ended)


def test_nothing_unfinished_is_due_within_weeks(database: peewee.Database) -> None:
    unfinished = list(Task.select().where(Task.finished_at.is_null()))
    assert unfinished
    assert {task.state for task in unfinished} == {"scheduled"}
    assert min(task.scheduled_at for task in unfinished) > UNTIL + dt.timedelta(days=29)


def test_nothing_names_a_host_or_address_that_exists(database: peewee.Database) -> None:
    hosts = {task.host for task in Task.select(Task.host).distinct() if task.host}
    assert all(host.endswith(".example") for host in hosts)
    mails = [json.loads(row.payload)["to"] for row in Task.select(Task.payload).where(Task.type == "email")]
    assert all(address.endswith(".example") for to in mails for address in to)
    tables = {json.loads(row.payload)["table_name"] for row in Task.select(Task.payload).where(Task.type == "llm")}
    assert tables == {"seed_records"}


def test_the_same_seed_makes_the_same_tasks(tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        made = seeded(f"sqlite:///{tmp_path / name}", 500)
        found.append(list(Task.select().order_by(Task.id).tuples()))
        made.close_all()  # type: ignore[attr-defined]
    assert found[0] == found[1]


def test_what_is_made_up_is_found_and_deleted_and_other_tasks_stay(database_url: str) -> None:
    database = seeded(database_url, 600)
    assert not rows.others(database)
    Ledger(database).accept([NewTask("mine", "default", "default", "normal", "{}", metadata='{"made_up":"by hand"}')])
    assert rows.others(database)
    marked = [task_id for page in rows.marked(database) for task_id, _ in page]
    assert len(marked) == 600 and "mine" not in marked
    Task.update(state="cancelled", finished_at=utcnow()).where(Task.state == "scheduled").execute()
    assert sum(rows.delete(database, [task_id for task_id, _ in page]) for page in rows.marked(database)) == 600
    rows.forget_hosts(database)
    assert [task.id for task in Task.select()] == ["mine"]
    assert [model.select().count() for model in (Attempt, Step, Wait, SpendRow, FailingHost)] == [0] * 5
    database.close_all()  # type: ignore[attr-defined]


def test_the_command_refuses_a_ledger_with_other_tasks_without_yes(installation: Installation, tmp_path: Path) -> None:
    def seed(*arguments: str, status: int = 0) -> str:
        done = sytq("seed", *arguments, environ=installation.environ, cwd=tmp_path)
        assert done.returncode == status, done
        return done.stdout + done.stderr

    assert json.loads(seed("--tasks", "300", "--json").splitlines()[0])["tasks"] == 300
    [(dead,)] = installation.rows("SELECT SUM(tasks) FROM sytq_failures")
    assert installation.rows("SELECT COUNT(*) FROM sytq_tasks WHERE state = 'dead'") == [(dead,)]
    assert installation.rows("SELECT SUM(accepted) FROM sytq_figures WHERE span = 3600")[0][0] > 200  # of a week
    assert "queue.retention" in seed("--tasks", "20")  # made-up tasks are no others
    assert "deleted 320 made-up tasks\n" in seed("--remove")
    assert installation.rows("SELECT COUNT(*) FROM sytq_figures") == [(0,)]
    mine = installation.submit("plain", "mine")
    assert "--yes" in seed("--tasks", "20", status=1)
    assert "made up 20 tasks" in seed("--tasks", "20", "--yes")
    assert "deleted 20 made-up tasks\n" in seed("--remove")
    assert [task_id for (task_id,) in installation.rows("SELECT id FROM sytq_tasks")] == [mine]
    entries = installation.rows("SELECT detail FROM sytq_audit WHERE what = 'ledger.seed' ORDER BY id")
    assert [detail for (detail,) in entries][-1] == "20 deleted"

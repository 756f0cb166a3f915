"""The example of docs/python.md is run, word for word, and a batch costs what the page says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sytq.ledger.database import is_mysql
from sytq.ledger.insert import Accepted
from tests import forkserver
from tests.installation import Installation
from tests.servers import RedisServer

PAGE = (Path(__file__).parents[2] / "docs" / "python.md").read_text()


@pytest.fixture
def installation(tmp_path: Path, database_url: str, own_redis: RedisServer) -> Iterator[Installation]:
    made = Installation(tmp_path, database_url, own_redis.url)
    yield made
    made.close()


def script_calls(installation: Installation) -> int:
    stats = installation.runtime.redis.ask("INFO", "commandstats")
    text = stats.decode() if isinstance(stats, bytes) else str(stats)
    return sum(map(int, re.findall(r"cmdstat_evalsha'?: ?\D*calls\D*(\d+)", text)))


def commits(installation: Installation) -> int:
    _, count = installation.runtime.database.execute_sql("SHOW SESSION STATUS LIKE 'Com_commit'").fetchone()
    return int(count)


def test_the_example_accepts_a_thousand_tasks(installation: Installation, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "example.py").write_text(code)
    done = forkserver.run(str(tmp_path / "example.py"), [], environ=installation.environ)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(" 1000 accepted\n")
    counted = "SELECT COUNT(*) FROM sytq_tasks WHERE type = 'default'"
    assert installation.runtime.database.execute_sql(counted).fetchone() == (1000,)
    assert installation.runtime.redis.ask("HLEN", installation.runtime.keys.live) == 1000


def test_batch_takes_one_transaction_and_a_round_trip_per_200_tasks(installation: Installation) -> None:
    submitter = installation.runtime.submitter
    submitter.submit([submitter.prepare("default", {})])  # connects and loads the script
    tasks = [submitter.prepare("default", {"n": n}) for n in range(1000)]
    scripts = script_calls(installation)
    transactions = commits(installation) if is_mysql(installation.runtime.database) else None
    assert submitter.submit(tasks) == [Accepted(task.id) for task in tasks]
    assert script_calls(installation) - scripts == 5
    if transactions is not None:
        assert commits(installation) - transactions == 1

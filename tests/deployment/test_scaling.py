"""Several machines on one Redis and one MySQL, and their documented number of connections."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.conftest import Api
from tests.servers import MySQLServer, RedisServer, poll
from tests.workers import Installation

MACHINES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")


class Machine(Api):
    """An API that listens on an address of its own."""

    address = "127.0.0.1"

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.address, self.port, timeout=90, source_address=(self.address, 0))
        try:
            connection.request(method, path, json.dumps(body) if body else None, {"Host": "localhost"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def _answers(self) -> bool:
        try:
            return self.ask("GET", "/healthz/live")[0] == 200
        except OSError:
            return False


@pytest.fixture
def machines(
    tmp_path: Path, own_redis: RedisServer, mysql_url: str, mysql_server: MySQLServer
) -> Iterator[tuple[Installation, list[Machine]]]:
    shared = Installation(tmp_path, mysql_url, own_redis.url, SYTQ_OUTBOUND__ALLOW_NETWORKS='["127.0.0.0/8"]')
    apis = []
    try:
        for address in MACHINES:
            allow = {"SYTQ_OUTBOUND__ALLOW_NETWORKS": '["127.0.0.0/8"]'}
            api = Machine(mysql_url, own_redis.url, SYTQ_API__HOST=address, **allow)
            api.address = address
            apis.append(api)
            api.start()
            shared.start_worker()
        yield shared, apis
    finally:
        for api in apis:
            api.remove()
        shared.close()


def test_machines_share_tasks_and_see_the_same_state(
    machines: tuple[Installation, list[Machine]], own_redis: RedisServer
) -> None:
    shared, apis = machines
    full = [f"plain-{n}" for n in range(12)]  # as many as the threads of the three: each must run some
    shared.hold(*full)
    tasks = [shared.submit(kind, f"{kind}-{n}", seconds=0.2) for n in range(40) for kind in ("plain", "gentle")]
    for name in full:
        shared.wait_note(f"start {name}")
    shared.release(*full)
    accepted = []
    for api in apis:
        status, body = api.ask("POST", "/api/v1/tasks", {"url": "http://127.0.0.9:9/"})
        assert status == 200, body
        accepted.append(json.loads(body)["task_id"])
    workers = {shared.wait_state(task, "succeeded").worker for task in tasks}
    assert len(workers) == 3, "each of them did some"
    for api in apis:
        for task in accepted:
            assert api.ask("GET", f"/api/tasks/{task}")[0] == 200, "each knows what another accepted"
        metrics = api.ask("GET", "/metrics")[1].decode()
        assert 'sytq_tasks_total{outcome="succeeded",type="plain"} 40.0' in metrics
        assert "sytq_workers 3.0" in metrics


def test_connections_stay_within_the_documented_budget(
    machines: tuple[Installation, list[Machine]], own_redis: RedisServer, mysql_server: MySQLServer
) -> None:
    shared, apis = machines
    waiting = [shared.prepare("gentle", f"g{n}", seconds=3.0) for n in range(300)]
    shared.runtime.submitter.submit(waiting)
    tasks = [task.id for task in waiting]
    poll(lambda: sum(depth.running for depth in shared.runtime.inspection.queues()) > 100, message="many run")
    with own_redis.client() as client:
        redis = len(client.client_list())
    with shared.runtime.database.connection_context():
        count = "SELECT count(*) FROM information_schema.processlist WHERE db = DATABASE()"
        (mysql,) = shared.runtime.database.execute_sql(count).fetchone()
    # The numbers of docs/scaling.md, and 10 for this test itself.
    assert redis <= 30 * 3 + 8 * len(apis) + 10
    assert mysql <= 20 * 3 + 9 * len(apis) + 10
    for task in tasks:
        shared.wait_state(task, "succeeded", timeout=60)

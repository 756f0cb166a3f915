"""Several machines on one Redis and one MySQL, and their documented number of connections."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.installation import Installation
from tests.servers import RedisServer, poll

ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")


@pytest.fixture
def machines(
    make_installation: Callable[..., Installation], own_redis: RedisServer, mysql_url: str
) -> list[Installation]:
    """An API and a worker on each, on the same stores; the APIs listen on addresses of their own."""
    made = []
    for address in ADDRESSES:
        machine = make_installation(
            mysql_url, own_redis.url, SYTQ_API__HOST=address, SYTQ_OUTBOUND__ALLOW_NETWORKS='["127.0.0.0/8"]'
        )
        machine.start_api()
        machine.start_worker()
        made.append(machine)
    return made


def test_machines_share_tasks_and_see_the_same_state(machines: list[Installation], own_redis: RedisServer) -> None:
    shared = machines[0]
    full = [f"plain-{n}" for n in range(12)]  # as many as the threads of the three: each must run some
    shared.hold(*full)
    tasks = [shared.submit(kind, f"{kind}-{n}", seconds=0.2) for n in range(40) for kind in ("plain", "gentle")]
    for name in full:
        shared.wait_note(f"start {name}")
    shared.release(*full)
    accepted = []
    for machine in machines:
        reply = machine.post("/api/v1/tasks", {"url": "http://127.0.0.9:9/"})
        assert reply.status == 200, reply
        accepted.append(reply.json["task_id"])
    workers = {shared.wait_state(task, "succeeded").worker for task in tasks}
    assert len(workers) == 3, "each of them did some"
    for machine in machines:
        for task in accepted:
            machine.get(f"/api/tasks/{task}")  # each knows what another accepted
        metrics = machine.request("GET", "/metrics").body.decode()
        assert 'sytq_tasks_total{outcome="succeeded",type="plain"} 40.0' in metrics
        assert "sytq_workers 3.0" in metrics


def test_connections_stay_within_the_documented_budget(machines: list[Installation], own_redis: RedisServer) -> None:
    shared = machines[0]
    waiting = [shared.prepare("gentle", f"g{n}", seconds=3.0) for n in range(150)]
    shared.runtime.submitter.submit(waiting)
    tasks = [task.id for task in waiting]
    poll(lambda: sum(depth.running for depth in shared.runtime.inspection.queues()) > 100, message="many run")
    with own_redis.client() as client:
        redis = len(client.client_list())
    with shared.runtime.database.connection_context():
        count = "SELECT count(*) FROM information_schema.processlist WHERE db = DATABASE()"
        (mysql,) = shared.runtime.database.execute_sql(count).fetchone()
    # The numbers of docs/scaling.md, and 10 for this test itself.
    assert redis <= 30 * 3 + 8 * len(machines) + 10
    assert mysql <= 20 * 3 + 9 * len(machines) + 10
    for task in tasks:
        shared.wait_state(task, "succeeded", timeout=60)

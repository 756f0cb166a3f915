"""Connections to a single server, Sentinels and a cluster: their URLs, when they open, and equal replies."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
import redis
from redis.crc import key_slot

from sytq.broker.connection import Redis
from sytq.errors import ConfigError, RedisUnavailable
from tests.servers import RedisServer, free_port, poll
from tests.topologies import SLOTS, ClusterNode, Sentinel

LEASE = "{sytq}:lease:test"


@pytest.fixture(scope="module")
def node() -> Iterator[ClusterNode]:
    """A cluster of one node."""
    made = ClusterNode()
    made.start()
    made.ask("CLUSTER", "ADDSLOTS", *range(SLOTS))
    poll(lambda: made.ok, message="it serves")
    yield made
    made.remove()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://h", "unknown scheme"),
        ("redis://a,b", "several hosts need redis+sentinel:// or redis+cluster://"),
        ("redis+sentinel://a,b", "the name of the service"),
        ("redis+sentinel://a,b/", "the name of the service"),
        ("redis+sentinel://a/main/one", "the name of the service"),
        ("redis+sentinel://a:99999/main", "the port is not a number from 1 to 65535"),
        ("redis+sentinel://a,,b/main", "no host"),
        ("redis+sentinel://a/main?password=geheim", "known are sentinel_username, sentinel_password"),
        ("redis+cluster://", "no host"),
        ("redis+cluster://a:x", "the port is not a number"),
        ("redis+cluster://:geheim@a/1", "no databases"),
        ("redis+cluster://a?db=1", "unknown parameter db"),
    ],
)
def test_invalid_redis_url_is_refused_with_the_valid_forms(url: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Redis(url)
    text = str(refused.value)
    assert text.startswith("redis.url: ")
    assert said in text
    assert "redis+sentinel://host1:26379,host2:26379/name or redis+cluster://host1:6379,host2:6379" in text
    assert "geheim" not in text


@pytest.mark.parametrize("form", ["redis://{}/0", "redis+sentinel://{}/main", "redis+cluster://{}"])
def test_no_connection_is_opened_before_the_first_command(form: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        connection = Redis(form.format(f"127.0.0.1:{listener.getsockname()[1]}"), timeout=0.2)
        with pytest.raises(BlockingIOError):
            listener.accept()
        with pytest.raises(RedisUnavailable):  # no reply comes
            connection.ask("PING")
        listener.accept()[0].close()


@pytest.mark.parametrize("form", ["redis://{}/0", "redis+sentinel://{}/main", "redis+cluster://{}"])
def test_unreachable_address_raises_redis_unavailable(form: str) -> None:
    with pytest.raises(RedisUnavailable):
        Redis(form.format(f"127.0.0.1:{free_port()}")).call("lease", [LEASE], ["me", 3000])


def test_a_cluster_answers_every_command_as_a_single_server_does(redis_url: str, node: ClusterNode) -> None:
    single, cluster = Redis(redis_url), Redis(f"redis+cluster://127.0.0.1:{node.port}")
    stream, name, scores, text = (f"{{sytq}}:{word}" for word in ("s", "h", "z", "t"))
    commands = [
        ("PING",),
        ("XGROUP", "CREATE", stream, "g", "0", "MKSTREAM"),
        ("XADD", stream, "1-1", "a", "b"),
        ("XLEN", stream),
        ("XRANGE", stream, "-", "+"),
        ("XREADGROUP", "GROUP", "g", "c", "COUNT", 5, "BLOCK", 10, "STREAMS", stream, ">"),
        ("XREADGROUP", "GROUP", "g", "c", "COUNT", 5, "BLOCK", 10, "STREAMS", stream, ">"),
        ("XREAD", "COUNT", 1, "BLOCK", 10, "STREAMS", stream, f"{stream}2", "0", "0"),
        ("XPENDING", stream, "g"),
        ("XINFO", "GROUPS", stream),
        ("XACK", stream, "g", "1-1"),
        ("HSET", name, "a", 1),
        ("HGET", name, "a"),
        ("HMGET", name, "a", "b"),
        ("HGETALL", name),
        ("HDEL", name, "a"),
        ("ZADD", scores, 1.5, "a"),
        ("ZCARD", scores),
        ("ZRANGE", scores, 0, -1, "WITHSCORES"),
        ("SET", text, "a"),
        ("GET", text),
        ("DEL", text),
    ]
    for command in commands:
        assert cluster.ask(*command) == single.ask(*command), command
    (one, _), (other, _), (last, _) = (connection.ask("TIME") for connection in (single, cluster, single))
    assert one <= other <= last
    for connection in (single, cluster):
        assert connection.call("lease", [f"{LEASE}:alike"], ["me", 60_000]) == 1
        assert not connection.call("lease", [f"{LEASE}:alike"], ["you", 60_000])


def test_plain_url_of_a_cluster_fails_and_names_the_cluster_url(node: ClusterNode) -> None:
    slot, other = key_slot(b"{elsewhere}"), ClusterNode()
    try:
        other.start()
        node.ask("CLUSTER", "MEET", "127.0.0.1", other.port, other.bus_port)
        poll(lambda: other.id.encode() in node.ask("CLUSTER", "NODES"), message="they meet")
        node.ask("CLUSTER", "SETSLOT", slot, "NODE", other.id)
        with pytest.raises(RedisUnavailable, match=r"redis\.url needs redis\+cluster://"):
            Redis(node.url).ask("GET", "{elsewhere}")
    finally:
        node.ask("CLUSTER", "SETSLOT", slot, "NODE", node.id)
        other.remove()


def test_flushed_scripts_are_loaded_again(redis_url: str, redis_client: redis.Redis) -> None:
    connection = Redis(redis_url)
    for holder in ("one", "one"):
        redis_client.script_flush()
        assert connection.call("lease", [LEASE], [holder, 3000]) == 1
    calls = redis_client.info("commandstats")
    assert connection.call("lease", [LEASE], ["one", 3000]) == 1
    assert redis_client.info("commandstats")["cmdstat_eval"] == calls["cmdstat_eval"], "its text is not sent each time"


def test_existing_consumer_group_is_accepted(redis_url: str, redis_client: redis.Redis) -> None:
    connection = Redis(redis_url)
    redis_client.xadd("s", {"a": "b"})
    for _ in range(2):
        connection.make_group("s", "g")
    (group,) = redis_client.xinfo_groups("s")
    assert (group["name"], group["last-delivered-id"]) == (b"g", b"0-0")


def test_connection_to_a_demoted_server_is_dropped(own_redis: RedisServer) -> None:
    connection = Redis(own_redis.url)
    before = connection.ask("CLIENT", "ID")
    assert connection.ask("CLIENT", "ID") == before
    with own_redis.client() as client:
        client.replicaof("127.0.0.1", free_port())
        for _ in range(2):
            with pytest.raises(RedisUnavailable):
                connection.call("lease", [LEASE], ["me", 3000])
        client.replicaof("NO", "ONE")
    assert connection.call("lease", [LEASE], ["me", 3000]) == 1
    assert connection.ask("CLIENT", "ID") != before


def test_a_blocked_read_ends_when_its_server_becomes_a_replica(own_redis: RedisServer) -> None:
    connection = Redis(own_redis.url, timeout=90)
    errors: list[Exception] = []

    def read() -> None:
        try:
            connection.ask("XREAD", "BLOCK", 60_000, "STREAMS", "{sytq}:s", "$")
        except RedisUnavailable as error:
            errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    with own_redis.client() as client:
        poll(lambda: client.info("clients")["blocked_clients"] == 1, message="it blocks")
        client.replicaof("127.0.0.1", free_port())
        reader.join(30)
    assert not reader.is_alive()
    assert len(errors) == 1


def test_credentials_with_special_characters_reach_server_and_sentinel(own_redis: RedisServer) -> None:
    with own_redis.client() as client:
        client.acl_setuser("sy@tq", enabled=True, passwords=["+p:w/%"], commands=["+@all"], keys=["*"])
    sentinel = Sentinel(own_redis, more="requirepass s?cret\n")
    try:
        sentinel.start()
        login = "sy%40tq:p%3Aw%2F%25@"
        connection = Redis(f"redis+sentinel://{login}127.0.0.1:{sentinel.port}/main/3?sentinel_password=s%3Fcret")
        assert connection.ask("ACL", "WHOAMI") == b"sy@tq"
        connection.ask("SET", "here", "1")
        with own_redis.client(db=3) as client:
            assert client.exists("here")
        with pytest.raises(RedisUnavailable, match="of 'main': auth:AuthenticationError"):
            Redis(f"redis+sentinel://{login}127.0.0.1:{sentinel.port}/main").ask("PING")
        with pytest.raises(RedisUnavailable, match="of 'other': they know none"):
            Redis(f"redis+sentinel://127.0.0.1:{sentinel.port}/other?sentinel_password=s%3Fcret").ask("PING")
    finally:
        sentinel.remove()


def test_cluster_with_a_password_refuses_a_wrong_password(node: ClusterNode) -> None:
    with node.client() as client:
        client.config_set("requirepass", "p@w")
        try:
            right = Redis(f"redis+cluster://:p%40w@127.0.0.1:{node.port}")
            assert right.call("lease", [LEASE], ["password", 3000])
            with pytest.raises(RedisUnavailable) as refused:
                Redis(f"redis+cluster://:wrong-one@127.0.0.1:{node.port}").ask("PING")
            assert "wrong-one" not in str(refused.value)
        finally:
            client.config_set("requirepass", "")
            client.delete(LEASE)

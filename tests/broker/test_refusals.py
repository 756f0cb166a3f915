"""Which errors of Redis are an outage: every error but those of sytq's own commands and scripts."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Iterator

import pytest
import redis

from sytq.broker.connection import NoGroup, Redis
from sytq.errors import RedisRefused, RedisUnavailable

Replies = Callable[[str], Redis]


class Refusing(socketserver.StreamRequestHandler):
    """Gives one reply to every command."""

    def handle(self) -> None:
        for line in self.rfile:
            if line.startswith(b"*"):
                self.wfile.write(self.server.reply)  # type: ignore[attr-defined]


class Refuser(socketserver.ThreadingTCPServer):
    daemon_threads = True
    reply = b""


@pytest.fixture(scope="module")
def refuser() -> Iterator[Refuser]:
    with Refuser(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def replying(refuser: Refuser) -> Replies:
    """A connection to a server of which every reply is this error."""

    def connect(reply: str) -> Redis:
        refuser.reply = f"-{reply}\r\n".encode()
        return Redis(f"redis://127.0.0.1:{refuser.server_address[1]}/0")

    return connect


@pytest.mark.parametrize(
    "said",
    [
        "NOPERM User sytq has no permissions to run the 'xadd' command",
        "NOPERM No permissions to access a key",
        "ERR unknown command 'EVALSHA', with args beginning with: 'secret' ",
        "ERR command 'HGETALL' not support for normal user",
        "ERR command evalsha not support for your account",
        "ERR Command is not available: 'XINFO'. See https://upstash.com/docs/redis/overall/rediscompatibility",
        "unsupported command 'XREADGROUP'",
        "ERR This Redis command is not allowed from script script: 0c80fc18, on @user_script:19.",
        "NOAUTH Authentication required.",
        "WRONGPASS invalid username-password pair or user is disabled.",
        "DENIED Redis is running in protected mode because protected mode is enabled, no bind address was specified",
        "READONLY You can't write against a read only replica.",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "MISCONF Errors writing to the AOF file: No space left on device",
        "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
        "NOREPLICAS Not enough good replicas to write.",
        "LOADING Redis is loading the dataset in memory",
        "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
        "UNKILLABLE The busy script was running in EVAL context and has already executed write commands",
        "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
        "CLUSTERDOWN Hash slot not served",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "ERR max number of clients + cluster connections reached",
        "ERR max requests limit exceeded. Limit: 500000, Usage: 500000.",
        "ERR DB index is out of range",
        "upstream failure",
        "NOBODY has met this",
    ],
)
def test_error_of_the_server_is_an_outage_and_is_reported(replying: Replies, said: str) -> None:
    connection = replying(said)
    with pytest.raises(RedisRefused, match=r"^Redis refuses PING: ") as refused:
        connection.ask("PING")
    text = str(refused.value)
    assert said.partition(", with")[0].partition(" script: ")[0].partition(" ")[2][:60] in text
    assert "secret" not in text
    assert ("docs/redis.md" in text) == any(
        word in said for word in ("NOPERM", "unknown command", "not support", "not available", "unsupported")
    )
    with pytest.raises(RedisRefused, match=r"^Redis refuses EVALSHA \(lease\): "):
        connection.call("lease", ["{sytq}:lease:test"], ["me", 3000])


@pytest.mark.parametrize("reply", ["ERR max number of clients reached", "MOVED 1 127.0.0.1:7"])
def test_refused_connection_and_another_node_are_an_outage(replying: Replies, reply: str) -> None:
    with pytest.raises(RedisUnavailable):
        replying(reply).ask("PING")


@pytest.mark.parametrize("said", ["unauthenticated multibulk length", "unauthenticated bulk length"])
def test_missing_login_is_named_whatever_the_command_length(replying: Replies, said: str) -> None:
    with pytest.raises(RedisRefused, match=r"Authentication required; redis\.url has no password"):
        replying(f"ERR Protocol error: {said}").ask("PING")


@pytest.mark.parametrize("reply", ["NOGROUP No such key 'a' or consumer group", "ERR no such key"])
def test_missing_group_is_told_apart_from_an_outage(replying: Replies, reply: str) -> None:
    with pytest.raises(NoGroup):
        replying(reply).ask("PING")


@pytest.mark.parametrize(
    "script",
    [
        "redis.call('SET', KEYS[1], 1) return redis.call('HGET', KEYS[1], 'a')",
        "return redis.call('HGET', KEYS[1])",
        "return redis.call('SET', KEYS[1], 'a', 'b')",
        "return redis.call('ZADD', KEYS[1], 'a', 'b')",
        "return redis.call('XADD', KEYS[1], 'a', 'b', 'c')",
        "return redis.call('LPOP', KEYS[1], 'a')",
        "return redis.call('INCRBY', KEYS[1], 'a')",
        "return redis.call('HGET', KEYS[1], {})",
        "return nil .. 'a'",
        "return {} < 1",
        "return ('a'):rep({})",
        "return unknown",
        "return ((",
        "return {unpack({}, 1, 1e7)}",
    ],
)
def test_fault_of_a_script_is_not_hidden_as_an_outage(redis_url: str, script: str) -> None:
    with pytest.raises(redis.ResponseError):
        Redis(redis_url).ask("EVAL", script, 1, "{sytq}:test")


def test_value_that_redis_cannot_take_is_not_hidden_as_an_outage(redis_url: str) -> None:
    with pytest.raises(redis.DataError):
        Redis(redis_url).ask("SET", "a", None)

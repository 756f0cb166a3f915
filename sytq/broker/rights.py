"""The commands and keys that a Redis user needs for sytq, and the check that names what is missing.

Before Redis 7.2 a script's error does not name the refused command, and no release names the key; ACL DRYRUN needs
Redis 7 and an administrator. So the check tries every command on a key of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sytq.broker.connection import Redis, no_right
from sytq.broker.keys import Keys
from sytq.errors import RedisRefused

#: Every command of sytq's scripts and Python code, on a key with a string. Redis 6.2 runs them: there commands of other
#: types fail, after the right was checked.
COMMANDS = (
    *("SET KEY 1 PX 1000", "GET KEY", "EXISTS KEY", "PTTL KEY", "PEXPIRE KEY 1000", "INCRBY KEY 1"),
    *("HGET KEY a", "HMGET KEY a", "HGETALL KEY", "HKEYS KEY", "HLEN KEY", "HEXISTS KEY a", "HSCAN KEY 0"),
    *("HSET KEY a b", "HSETNX KEY a b", "HDEL KEY a", "HINCRBY KEY a 1"),
    *("SADD KEY a", "SMEMBERS KEY", "RPUSH KEY a", "LPOP KEY 1", "LLEN KEY", "LTRIM KEY 0 1"),
    *("ZADD KEY 1 a", "ZREM KEY a", "ZCARD KEY", "ZCOUNT KEY 0 1", "ZSCORE KEY a", "ZRANK KEY a", "ZRANGE KEY 0 1"),
    *("ZREVRANGE KEY 0 1", "ZRANGEBYSCORE KEY 0 1", "ZRANGEBYLEX KEY - +", "ZLEXCOUNT KEY - +"),
    *("ZREMRANGEBYSCORE KEY 0 1", "ZREMRANGEBYLEX KEY - +"),
    *("XADD KEY * a b", "XLEN KEY", "XRANGE KEY - + COUNT 1", "XREVRANGE KEY + - COUNT 1", "XDEL KEY 0-1"),
    *("XGROUP CREATE KEY a 0 MKSTREAM", "XGROUP DELCONSUMER KEY a b", "XACK KEY a 0-1", "XCLAIM KEY a b 0 0-1"),
    *("XREAD COUNT 1 STREAMS KEY 0", "XREADGROUP GROUP a b COUNT 1 STREAMS KEY >", "XPENDING KEY a"),
    *("XINFO STREAM KEY", "XINFO GROUPS KEY", "XINFO CONSUMERS KEY a", "XTRIM KEY MAXLEN 1"),
    *("PING", "TIME", "DEL KEY"),
)
#: Of an external stream, a read and a write that change nothing.
_ON_STREAM = ("XLEN KEY", "XACK KEY a 0-1")


def check_rights(redis: Redis, keys: Keys, streams: Iterable[str] = ()) -> None:
    """Raise RedisRefused when Redis refuses the user a command, a key or a write, naming all that it refuses.

    `streams` are the external streams and their dead letters. Raises RedisUnavailable when Redis does not answer. Two
    round trips, and one for each stream.
    """
    commands, locked = _refused(redis, keys.rights, COMMANDS)
    patterns = [keys.rights.removesuffix("rights") + "*"] if locked else []
    patterns += [stream for stream in streams if _refused(redis, stream, _ON_STREAM)[1]]
    missing = [*commands, *(f"keys ~{pattern}" for pattern in patterns)]
    if missing:
        raise RedisRefused(
            f"Redis refuses its user {', '.join(missing)} (docs/redis.md lists the rights that sytq needs)"
        )
    redis.ask("EVAL", "return redis.call('SET', KEYS[1], '', 'PX', 1000)", 1, keys.rights)


def _refused(redis: Redis, key: str, commands: Sequence[str]) -> tuple[list[str], bool]:
    """Return the names of the refused commands, and whether the key is refused."""
    try:
        replies = redis.call("rights", [key], commands)
    except RedisRefused as error:
        if not _of_key(str(error)):
            raise
        return [], True
    refused = [(line.decode(), said.decode(errors="replace")) for line, said in replies]
    refused = [(line, said) for line, said in refused if no_right(said)]
    names = [_name(line) for line, said in refused if not _of_key(said)]
    return names, len(names) < len(refused)


def _of_key(said: str) -> bool:
    return no_right(said) and " key" in said


def _name(line: str) -> str:
    first, second, *_ = f"{line} ".split(" ")
    return f"{first} {second}" if first in ("XGROUP", "XINFO") else first

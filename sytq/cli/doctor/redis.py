"""Checks Redis: its user's rights with the check of the workers, the server with INFO, PING and TIME."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator, Mapping
from typing import Any

from sytq.broker.connection import Redis, no_right
from sytq.broker.keys import Keys
from sytq.broker.rights import check_rights
from sytq.cli.doctor.comparison import clock, numbers, skew
from sytq.cli.doctor.finding import FAIL, OK, WARN, Finding
from sytq.config import Settings
from sytq.errors import RedisRefused, RedisUnavailable

_TIMEOUT = 2.0
_OLDEST = (6, 2)
_SLOW_MS = 10.0


def redis(settings: Settings) -> Iterator[Finding]:
    """Check rights, version, latency, persistence, eviction, memory, role and clock."""
    keys = Keys(settings.redis.prefix)
    server = Redis(settings.redis.dsn, home=keys.epoch, connections=2, timeout=_TIMEOUT)
    try:
        times = []
        for _ in range(5):
            since = time.perf_counter()
            server.ask("PING")
            times.append((time.perf_counter() - since) * 1000)
    except RedisRefused as error:
        todo = "correct the credentials in redis.url, or the ACL (docs/redis.md); if it loads its data, wait"
        yield Finding("redis", FAIL, str(error), todo)
        if not no_right(str(error)):
            return
    except RedisUnavailable as error:
        todo = "start Redis, or correct redis.url and its credentials; meanwhile tasks are accepted but do not run"
        yield Finding("redis", FAIL, str(error), todo)
        return
    yield _rights(server, keys, settings)
    try:
        info: Mapping[str, Any] = server.ask("INFO")
    except RedisRefused as error:
        todo = "grant +info, or look yourself: version, persistence, eviction, memory and role are not checked"
        yield Finding("redis info", WARN, str(error), todo)
    else:
        yield from _state(info)
    if times and (ms := statistics.median(times)) > _SLOW_MS:
        todo = "move Redis and workers closer together, or check the load of that machine"
        yield Finding("redis latency", WARN, f"{ms:.1f} ms for a PING", todo)
    elif times:
        yield Finding("redis latency", OK, f"{ms:.1f} ms for a PING")
    with contextlib.suppress(RedisRefused):
        if kept := server.ask("HLEN", keys.results):
            said = f"{kept} results of steps (paid answers) wait in Redis for the database: do not empty it"
            yield Finding("redis results", WARN, said, 'see "The database is down" in docs/runbook.md')
    with contextlib.suppress(RedisRefused):  # TIME is among the rights
        yield clock("redis clock", skew(server.time))


def _rights(server: Redis, keys: Keys, settings: Settings) -> Finding:
    """Try every command and key, and a write."""
    try:
        check_rights(server, keys, settings.stream_keys)
    except RedisRefused as error:
        todo = "grant it as docs/redis.md says; of a full or read-only Redis the checks of memory and role say more"
        return Finding("redis rights", FAIL, str(error), todo)
    return Finding("redis rights", OK, "every command and key that sytq needs is allowed")


def _state(info: Mapping[str, Any]) -> Iterator[Finding]:
    version = str(info.get("valkey_version") or info["redis_version"])
    name = "Valkey" if "valkey_version" in info else "Redis"
    if numbers(version) < _OLDEST:
        yield Finding("redis", FAIL, f"{name} {version}", "use Redis 6.2 or newer, or Valkey")
    else:
        yield Finding("redis", OK, f"{name} {version}")
    yield from _kept(info)
    yield from _memory(info)
    if info.get("role") not in ("master", None):
        todo = "use the address of the master, or redis+sentinel://"
        yield Finding("redis role", FAIL, f"it is a {info['role']}", todo)


def _kept(info: Mapping[str, Any]) -> Iterator[Finding]:
    if info.get("aof_enabled"):
        if info.get("aof_last_write_status", "ok") != "ok":
            yield Finding("redis persistence", FAIL, "the append-only file cannot be written", "free space on its disk")
        else:
            yield Finding("redis persistence", OK, "the append-only file is on")
        return
    said = "appendonly is off: Redis is empty after a restart, and waiting tasks are dispatched again from the database"
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        said = "appendonly is off, and the last snapshot could not be written"
    yield Finding("redis persistence", WARN, said, "set `appendonly yes` and `appendfsync everysec`")


def _memory(info: Mapping[str, Any]) -> Iterator[Finding]:
    policy, maximum, used = info.get("maxmemory_policy"), int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    if policy is not None and policy != "noeviction":
        verdict = FAIL if maximum else WARN
        unset = "" if maximum else " (maxmemory is not set)"
        said = f"maxmemory-policy is {policy}: a full Redis deletes queues{unset}"
        yield Finding("redis eviction", verdict, said, "set `maxmemory-policy noeviction`")
    else:
        yield Finding("redis eviction", OK, "maxmemory-policy is noeviction")
    if maximum:
        part, said = used / maximum, f"{used >> 20} of {maximum >> 20} MiB"
        verdict = FAIL if part > 0.95 else WARN if part > 0.8 else OK
        todo = "" if verdict == OK else "raise maxmemory, or find out what uses the memory (`sytq queues list`)"
        yield Finding("redis memory", verdict, said, todo)
    else:
        yield Finding("redis memory", OK, f"{used >> 20} MiB used, no limit")

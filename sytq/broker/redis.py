"""The connection to Redis, and the scripts.

Owns the client's settings (set on purpose: redis-py's own defaults change) and the translation of "it does not
answer" into `RedisUnavailable`. Must not know what the scripts mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import redis
from redis import exceptions
from redis.backoff import ExponentialWithJitterBackoff
from redis.commands.core import Script
from redis.retry import Retry

from sytq.errors import ConfigError, RedisUnavailable

SCRIPTS = ("adopt", "beat", "dispatch", "fetch", "forget", "lease", "promote", "settle", "touch")

#: "Not now": a restart, a failover, a full memory. Everything accepted waits for their end. redis-py has a class for
#: some of these answers, and takes the word off their text; Redis 6 has the word in the middle of a script's error.
_AWAY = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.OutOfMemoryError,
    exceptions.ClusterDownError,
    exceptions.TryAgainError,
)
_NOT_NOW = ("READONLY", "OOM", "CLUSTERDOWN", "TRYAGAIN", "UNBLOCKED", "MISCONF", "BUSY", "NOREPLICAS")


class Redis:
    """One pooled client. `call` runs a script, `ask` a command; both raise RedisUnavailable when it is away."""

    def __init__(self, url: str, *, connections: int = 50, timeout: float = 5.0) -> None:
        scheme = url.partition("://")[0]
        if scheme not in ("redis", "rediss", "unix"):
            raise ConfigError(f"redis.url: scheme '{scheme}' is not supported; valid: redis, rediss, unix")
        # Opens nothing yet. Two quick tries bridge a connection that died in the pool; every script is harmless
        # when it runs twice. Longer outages are the caller's to wait for.
        self.client = redis.Redis.from_url(
            url,
            socket_timeout=timeout,
            socket_connect_timeout=min(timeout, 2.0),
            max_connections=connections,
            health_check_interval=15,
            retry=Retry(ExponentialWithJitterBackoff(cap=0.2, base=0.02), 2),
            protocol=2,
        )
        prelude = _read("_live")
        self._scripts: dict[str, Script] = {
            name: self.client.register_script(prelude + _read(name)) for name in SCRIPTS
        }

    def call(self, script: str, keys: Sequence[str], args: Sequence[Any] = ()) -> Any:
        """Run one script by name."""
        try:
            return self._scripts[script](keys=keys, args=args)
        except redis.RedisError as error:
            raise _unavailable(error) from error

    def ask(self, *command: Any) -> Any:
        """Run one command and return redis-py's reading of the reply."""
        try:
            return self.client.execute_command(*command)  # type: ignore[no-untyped-call]
        except redis.RedisError as error:
            raise _unavailable(error) from error

    def close(self) -> None:
        """Close all connections."""
        self.client.close()


class NoGroup(RedisUnavailable):
    """A stream or its consumer group is gone (Redis was emptied): make it again."""


def _unavailable(error: redis.RedisError) -> Exception:
    text = str(error)
    if "NOGROUP" in text or "no such key" in text:
        return NoGroup(text[:200])
    if isinstance(error, _AWAY) or any(word in text for word in _NOT_NOW):
        return RedisUnavailable(f"Redis does not answer: {text[:200]}")
    return error  # a fault of ours: let it be seen


def _read(name: str) -> str:
    return files("sytq.broker").joinpath(f"{name}.lua").read_text("utf-8")

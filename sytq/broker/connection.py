"""The connection to Redis, and the scripts; every error but a fault of sytq becomes `RedisUnavailable`.

All client options are set here, as redis-py's defaults change between releases.
"""

from __future__ import annotations

import copy
import hashlib
import re
import time
from collections.abc import Sequence
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import redis
from redis import exceptions
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from sytq import clock
from sytq.broker import rested
from sytq.broker.cluster import Cluster
from sytq.config.urls import REDIS_FORMS, check_redis_url, redis_hosts
from sytq.errors import ConfigError, RedisRefused, RedisUnavailable
from sytq.observability.metrics import Counter, Histogram
from sytq.observability.outages import REDIS
from sytq.tls import LOOSER, STRICTER, explain

_SECONDS = Histogram("sytq_redis_seconds", "Calls of our scripts in Redis, the network included.", ("script",))
_FAULTS = Counter("sytq_redis_faults_total", "Commands and scripts that Redis did not answer, or not now.")
#: Errors of sytq's own commands and scripts, which no waiting ends. Every other error is an outage: a restart, a
#: failover, a full memory or disk, a right taken from the user, and what nobody has met yet. Accepted tasks wait for
#: its end. Texts, because the error of a script has no code of its own (Redis 6) or another than its command's (7).
_OWN_FAULTS = (
    "wrongtype",
    "crossslot",
    "busygroup",
    "syntax error",
    "wrong number of arg",
    "value is not",
    "value is out of range",
    "is not a valid float",
    "invalid stream id",
    "id specified in xadd",
    "error compiling script",
    "attempt to ",  # compare, index, call ... nil: of Lua
    "bad argument",
    "nonexistent global variable",
    "arguments must be strings or integers",
    "too many results to unpack",
)
#: Errors of a user without the right to a command or key, and of a server without the command: each release's words,
#: and those of hosted servers and proxies.
_NO_RIGHT = (
    *("no permissions to", "user executing the script can't", "acl failure in script", "unknown command"),
    "not support for ",  # "... normal user", "... your account": Alibaba Cloud
    "command is not available",  # Upstash
    "unsupported command",  # Envoy
)
_UNKNOWN = re.compile(r"unknown (\w+ )?command called from", re.IGNORECASE)
#: The kinds of the Sentinels' errors, of which redis-py keeps no more.
_SAID = re.compile(r" - (\w+:\w+)")
_NO_ANSWER = (exceptions.ConnectionError, exceptions.TimeoutError)
#: Connection errors that are answers all the same.
_ANSWERS = (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.BusyLoadingError)
_CLOCK_AGE = 30.0
#: Errors of a master that became a replica: the new master is another server.
_DEMOTED = ("READONLY", "UNBLOCKED")


#: A certificate is verified as `sytq.tls` verifies it.
_TLS = {"ssl_exclude_verify_flags": STRICTER, "ssl_include_verify_flags": LOOSER}

_LIMITERS = ("_room.lua", "_paused.lua", "_limiters.lua", "_grant.lua", "_wait_queue.lua")


class Redis:
    """One pooled client. `call` runs a script, `ask` a command; both raise RedisUnavailable when Redis does not answer.

    `home` is any key of sytq: in a cluster, commands without a key (TIME, PING) go to the node of `home`.
    Raises ConfigError for an invalid URL.
    """

    def __init__(self, url: str, *, home: str = "{sytq}", connections: int = 50, timeout: float = 5.0) -> None:
        try:
            check_redis_url(url)
        except ValueError as error:
            raise ConfigError(f"redis.url: {error}; valid: {REDIS_FORMS}") from None
        # Opens nothing yet. Two quick tries replace a connection that died in the pool; running a script twice is
        # harmless. Callers wait for longer outages. A silent server is not retried here: redis-py retries connecting
        # within each retry of the command, nine times 5 s in all.
        options: dict[str, Any] = {
            "socket_timeout": timeout,
            "socket_connect_timeout": min(timeout, 2.0),
            "max_connections": connections,
            "retry": _retry(2),
            "protocol": 2,
        }
        self.client: redis.Redis | Cluster
        try:
            match urlsplit(url).scheme:
                case "redis+sentinel":
                    self.client = _master(url, options | rested.OPTIONS)
                case "redis+cluster":
                    self.client = Cluster(redis_hosts(url), home, options | rested.OPTIONS | _login(url))
                case "unix":
                    self.client = redis.Redis.from_url(url, **options)
                case "rediss":
                    tls = _TLS | {"connection_class": rested.SSLConnection}
                    self.client = redis.Redis.from_url(url, **options | rested.OPTIONS | tls)
                case _:
                    plain = {"connection_class": rested.Connection}
                    self.client = redis.Redis.from_url(url, **options | rested.OPTIONS | plain)
        except ValueError as error:  # of an option in its query
            raise ConfigError(f"redis.url: {error}") from None
        self._scripts = {
            file.name.removesuffix(".lua"): _text(file.name)
            for file in files("sytq.broker").joinpath("scripts").iterdir()
            if file.name.endswith(".lua") and not file.name.startswith("_")
        }
        self._digests = {
            name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() for name, text in self._scripts.items()
        }
        self._clock = -_CLOCK_AGE - 1.0, 0  # when Redis' clock was asked, and its answer

    def call(self, script: str, keys: Sequence[str], args: Sequence[Any] = ()) -> Any:
        rest = (len(keys), *keys, *args)
        with _SECONDS.time(script):
            try:
                return self._run(f"EVALSHA ({script})", "EVALSHA", self._digests[script], *rest)
            except exceptions.NoScriptError:
                # The server was restarted or promoted: EVAL runs the script and loads it again.
                return self._run(f"EVAL ({script})", "EVAL", self._scripts[script], *rest)

    def ask(self, *command: Any) -> Any:
        """Run one command and return the reply as redis-py parses it."""
        return self._run(command[0], *command)

    def _run(self, name: str, *command: Any) -> Any:
        try:
            reply = self.client.execute_command(*command)
            if REDIS.since is not None:
                REDIS.answered()
            return reply
        except redis.RedisError as error:
            if isinstance(self.client, redis.Redis) and _demoted(error):
                self.client.connection_pool.disconnect(inuse_connections=False)
            problem = _unavailable(name, error)
            if isinstance(problem, RedisUnavailable) and not isinstance(problem, NoGroup):
                _FAULTS.add()
            raise problem from error

    def time(self) -> float:
        """Return Redis' clock, the one that all workers share, in Unix seconds."""
        sent = time.monotonic()
        seconds, micros = self.ask("TIME")
        said = float(seconds) + float(micros) / 1e6
        clock.heard("redis", said, sent)
        return said

    def now_ms(self) -> int:
        """Return Redis' clock in Unix milliseconds; read twice a minute, as a failover may change it."""
        mine = time.monotonic()
        if mine - self._clock[0] > _CLOCK_AGE:
            self._clock = mine, int(self.time() * 1000)
        asked, then = self._clock
        return then + int((mine - asked) * 1000)

    def make_group(self, stream: str, group: str) -> None:
        """Create stream and group if missing, from id 0, so that existing entries are not skipped."""
        try:
            self.ask("XGROUP", "CREATE", stream, group, "0", "MKSTREAM")
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    def close(self) -> None:
        self.client.close()


class NoGroup(RedisUnavailable):
    """A stream or its consumer group is gone (Redis was emptied): create it again."""


class _Sentinels(Sentinel):
    """redis-py reorders its list of Sentinels while asking; two threads at once lose entries for good."""

    def discover_master(self, service_name: str) -> tuple[str, int]:
        asked = copy.copy(self)
        asked.sentinels = list(self.sentinels)
        try:
            found: tuple[str, int] = super(_Sentinels, asked).discover_master(service_name)  # type: ignore[no-untyped-call]
        except MasterNotFoundError as error:  # its text is a page of settings, among them what each Sentinel said
            said = "; ".join(sorted(set(_SAID.findall(str(error))))) or "they know none"
            raise MasterNotFoundError(
                f"none of the {len(asked.sentinels)} Sentinels names a running master of '{service_name}': {said}"
            ) from None
        self.sentinels = asked.sentinels
        return found


def _master(url: str, options: dict[str, Any]) -> redis.Redis:
    """Return a client of the master that the Sentinels name; every new connection asks them again."""
    parts = urlsplit(url)
    service, _, db = parts.path[1:].partition("/")
    query = dict(parse_qsl(parts.query))
    # A Sentinel that does not answer must not delay the answers of the others.
    sentinel_options = {
        "socket_timeout": 0.5,
        "socket_connect_timeout": 0.5,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "username": query.get("sentinel_username"),
        "password": query.get("sentinel_password"),
    }
    sentinels = _Sentinels(redis_hosts(url), sentinel_kwargs=sentinel_options)  # type: ignore[no-untyped-call]
    # Fewer tries: each asks all Sentinels, and both connecting and the command are retried.
    options = options | _login(url) | {"db": int(db or 0), "retry": _retry(1)}
    options["connection_class"] = rested.SentinelConnection
    master: redis.Redis = sentinels.master_for(unquote(service), **options)  # type: ignore[no-untyped-call]
    return master


def _retry(times: int) -> Retry:
    return Retry(ExponentialWithJitterBackoff(cap=0.2, base=0.02), times, (exceptions.ConnectionError,))


def _login(url: str) -> dict[str, str | None]:
    parts = urlsplit(url)
    return {
        "username": unquote(parts.username) if parts.username else None,
        "password": unquote(parts.password) if parts.password else None,
    }


def _demoted(error: redis.RedisError) -> bool:
    return isinstance(error, exceptions.ReadOnlyError | exceptions.MasterDownError) or any(
        word in str(error) for word in _DEMOTED
    )


def _unavailable(name: str, error: redis.RedisError) -> Exception:
    # Without the arguments, which may be a payload, and without the place in the script.
    text = str(error).partition(", with args beginning")[0].partition(" script: ")[0][:200]
    if "unauthenticated" in text:  # said of a long command instead of NOAUTH
        return RedisRefused(f"Redis refuses {name}: Authentication required; redis.url has no password ({text})")
    if "NOGROUP" in text or "no such key" in text:
        return NoGroup(text)
    if isinstance(error, exceptions.AskError):  # and MOVED
        return RedisUnavailable(f"a Redis Cluster answers ({text}): redis.url needs redis+cluster://")
    if isinstance(error, _NO_ANSWER) and not isinstance(error, _ANSWERS):
        why = explain(error)
        return RedisUnavailable(f"Redis does not answer: {f'no TLS with it: {why}' if why else text}")
    if no_right(text):
        return RedisRefused(f"Redis refuses {name}: {text} (docs/redis.md lists the rights that sytq needs)")
    if isinstance(error, exceptions.DataError | exceptions.NoScriptError) or _has(text, _OWN_FAULTS):
        return error  # a bug of sytq: not hidden
    return RedisRefused(f"Redis refuses {name}: {text}")


def no_right(text: str) -> bool:
    """Whether an error says that the user may not run a command or use a key, or that the server lacks the command."""
    return _has(text, _NO_RIGHT) or bool(_UNKNOWN.search(text))


def _has(text: str, words: Sequence[str]) -> bool:
    return any(word in text.lower() for word in words)


def _text(name: str) -> str:
    """Return a script preceded by the parts that it includes."""
    before = ["_clock.lua", "_state_index.lua"]
    if name.startswith(("fetch", "ack", "limiter_")):
        before.append("_later.lua")
    if name in ("fetch.lua", "isolate.lua", "heartbeat.lua"):
        before.append("_crashes.lua")
    match name.removesuffix(".lua"):
        case "fetch":
            limiters = _function("limiters()", ["_limiters.lua", "_grant.lua", "_wait_queue.lua", "_admit.lua"])
            text = (
                _parts([*before, "_room.lua", "_entry.lua", "_paused.lua"])
                + limiters
                + _parts(["_start.lua", "_reclaim.lua"])
            )
        case "isolate":
            text = _parts([*before, "_isolate_keys.lua", "_room.lua", "_paused.lua"])
        case "ack":
            releasing = ["_release.lua", "_release_fetched.lua"]
            limiters = _function("limiters(released, refused)", [*_LIMITERS, *releasing])
            text = _parts([*before, "_ack_keys.lua"]) + limiters
        case "limiter_release":
            text = _parts([*before, "_limiter_keys.lua", *_LIMITERS, "_release.lua"])
        case word if word.startswith("limiter_"):
            text = _parts([*before, "_limiter_keys.lua", *_LIMITERS])
        case _:
            text = _parts(before)
    return text + _parts([name])


def _function(head: str, names: Sequence[str]) -> str:
    """Return parts as a Lua function: what only some calls need is built only then."""
    return f"local function {head}\n{_parts(names)}\nend\n"


def _parts(names: Sequence[str]) -> str:
    return "".join(map(_part, names))


def _part(name: str) -> str:
    return files("sytq.broker").joinpath("scripts", name).read_text("utf-8")

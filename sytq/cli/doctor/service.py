"""Checks the service itself: quarantined plugins, lost workers, a recorder that is behind."""

from __future__ import annotations

from collections.abc import Iterator

from sytq.broker.connection import Redis
from sytq.broker.inspection import Inspection
from sytq.broker.keys import Keys
from sytq.cli.doctor.finding import FAIL, OK, WARN, Finding
from sytq.config import Settings
from sytq.errors import ConfigError, RedisUnavailable
from sytq.service import condition
from sytq.tasktypes.registry import Registry


def plugins(settings: Settings) -> Iterator[Finding]:
    try:
        registry = Registry.load(settings)
    except ConfigError as error:
        for line in str(error).splitlines():
            yield Finding("plugins", FAIL, line, "correct it: no process starts with this")
        return
    for broken in registry.quarantined:
        todo = "fix the file and restart API and workers; until then its tasks wait, and all other types run"
        yield Finding("plugins", FAIL, f"{broken.source} is quarantined: {broken.error}", todo)
    if not registry.quarantined:
        yield Finding("plugins", OK, f"{len(list(registry))} task types")


def workers(settings: Settings) -> Iterator[Finding]:
    """Check heartbeats, the recorder and dead letters."""
    keys = Keys(settings.redis.prefix)
    asked = Inspection(Redis(settings.redis.dsn, home=keys.epoch, connections=2, timeout=2.0), keys, (), {})
    try:
        known, unwritten = asked.workers(), asked.unwritten()
    except RedisUnavailable:
        yield Finding("workers", WARN, "unknown while Redis is unavailable", "see the check of redis")
        return
    yield condition.workers(known, settings.worker.liveness)
    yield from condition.recorder(unwritten)

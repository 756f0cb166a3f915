"""Checks the service itself: quarantined plugins, lost workers, a recorder that is behind."""

from __future__ import annotations

from collections.abc import Iterator

from sytq.broker.connection import Redis
from sytq.broker.inspection import Inspection
from sytq.broker.keys import Keys
from sytq.cli.doctor.finding import FAIL, OK, WARN, Finding
from sytq.cli.output import age
from sytq.config import Settings
from sytq.errors import ConfigError, RedisUnavailable
from sytq.tasktypes.registry import Registry

_BEHIND_WARN, _BEHIND_FAIL = 5.0, 60.0


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
    asked = Inspection(Redis(settings.redis.dsn, home=keys.epoch, connections=2, timeout=2.0), keys, ())
    try:
        known, unwritten = asked.workers(), asked.unwritten()
    except RedisUnavailable:
        yield Finding("workers", WARN, "unknown while Redis is unavailable", "see the check of redis")
        return
    alive = [worker for worker in known if worker.age <= settings.worker.liveness]
    lost = len(known) - len(alive)
    if not alive:
        yield Finding("workers", WARN, "no worker is alive: tasks are accepted and wait", "start `sytq worker`")
    elif lost:
        todo = "check their logs: they vanished within the last hour without a shutdown; their tasks run elsewhere"
        yield Finding("workers", WARN, f"{len(alive)} alive, {lost} lost", todo)
    else:
        yield Finding("workers", OK, f"{len(alive)} alive")
    said = f"{unwritten.count} events wait, the oldest for {age(unwritten.age)}" if unwritten.count else "up to date"
    verdict = FAIL if unwritten.age > _BEHIND_FAIL else WARN if unwritten.age > _BEHIND_WARN else OK
    todo = "" if verdict == OK else "the recorder runs in a worker: check the worker's log, and the database"
    yield Finding("recorder", verdict, said, todo)
    if unwritten.set_aside:
        said = f"{unwritten.set_aside} messages or events could not be decoded or recorded"
        yield Finding("unreadable", WARN, said, "see `sytq dead unreadable`")

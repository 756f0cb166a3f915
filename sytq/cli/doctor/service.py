"""The service itself: plugins that cannot be loaded, workers that are silent, a history that falls behind.

Owns from when on something of that is worth a word.
"""

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
    """Whether every plugin can be used."""
    try:
        registry = Registry.load(settings)
    except ConfigError as error:
        for line in str(error).splitlines():
            yield Finding("plugins", FAIL, line, "nothing starts like this; correct it")
        return
    for broken in registry.quarantined:
        todo = "mend the file and restart API and workers; its tasks wait, and everything else works"
        yield Finding("plugins", FAIL, f"{broken.source} is set aside: {broken.error}", todo)
    if not registry.quarantined:
        yield Finding("plugins", OK, f"{len(list(registry))} task types")


def workers(settings: Settings) -> Iterator[Finding]:
    """Heartbeats, the recorder, and what could not be read."""
    keys = Keys(settings.redis.prefix)
    asked = Inspection(Redis(settings.redis.dsn, home=keys.epoch, connections=2, timeout=2.0), keys, ())
    try:
        known, unwritten = asked.workers(), asked.unwritten()
    except RedisUnavailable:
        yield Finding("workers", WARN, "cannot be known without Redis", "see redis")
        return
    alive = [worker for worker in known if worker.age <= settings.worker.liveness]
    lost = len(known) - len(alive)
    if not alive:
        yield Finding("workers", WARN, "none gives a sign: tasks are accepted and wait", "start `sytq worker`")
    elif lost:
        todo = "look at their logs: they fell silent within the last hour without leaving; their tasks run elsewhere"
        yield Finding("workers", WARN, f"{len(alive)} alive, {lost} lost", todo)
    else:
        yield Finding("workers", OK, f"{len(alive)} alive")
    said = f"{unwritten.count} events wait, the first for {age(unwritten.age)}" if unwritten.count else "nothing waits"
    verdict = FAIL if unwritten.age > _BEHIND_FAIL else WARN if unwritten.age > _BEHIND_WARN else OK
    todo = "" if verdict == OK else "a worker writes the history: look at its log, and at the database"
    yield Finding("recorder", verdict, said, todo)
    if unwritten.set_aside:
        said = f"{unwritten.set_aside} messages or events could not be read"
        yield Finding("unreadable", WARN, said, "look at `sytq dead unreadable`")

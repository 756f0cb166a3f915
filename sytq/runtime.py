"""Builds the parts of a process from the settings: those that API, worker and command line share.

Nothing here connects, starts a thread or touches a global.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import peewee

from sytq.broker.connection import Redis
from sytq.broker.dispatcher import Dispatcher
from sytq.broker.inspection import Inspection
from sytq.broker.keys import Keys
from sytq.broker.limiter import Limiters
from sytq.broker.operations import Operations
from sytq.config import Settings
from sytq.errors import ConfigError, InvalidInput
from sytq.http import Guard
from sytq.ledger.database import open_database
from sytq.ledger.ledger import Ledger
from sytq.service.control import Operator
from sytq.service.recording import Recording
from sytq.service.submission import Submitter
from sytq.tasktypes.declaration import Declaration
from sytq.tasktypes.registry import Registry


@dataclass(frozen=True)
class Runtime:
    """The parts that API, worker and command line share."""

    settings: Settings
    database: peewee.Database
    ledger: Ledger
    registry: Registry
    redis: Redis
    keys: Keys
    limiters: Limiters
    inspection: Inspection
    guard: Guard
    submitter: Submitter
    recording: Recording
    operator: Operator


def build(settings: Settings, also: Iterable[Declaration] = ()) -> Runtime:
    """Build what every process needs; `also` are further task types. Raises ConfigError."""
    database = open_database(settings.database_url, pool=settings.database.pool, timeout=settings.database.timeout)
    registry = _registry(settings, also)
    for plugin in registry.plugins:
        database.bind(plugin.models)
    keys = Keys(settings.redis.prefix)
    redis = Redis(settings.redis.dsn, home=keys.epoch, connections=200)
    inspection = Inspection(redis, keys, registry.queues)
    ledger = Ledger(database, inspection.over)
    guard = _guard(settings)
    submitter = Submitter(registry, ledger, Dispatcher(redis, keys), guard)
    recording = Recording(registry, ledger, submitter)
    return Runtime(
        settings=settings,
        database=database,
        ledger=ledger,
        registry=registry,
        redis=redis,
        keys=keys,
        limiters=Limiters(redis, keys, settings.worker.liveness),
        inspection=inspection,
        guard=guard,
        submitter=submitter,
        recording=recording,
        operator=Operator(ledger, Operations(redis, keys), submitter, recording, registry),
    )


def _registry(settings: Settings, also: Iterable[Declaration]) -> Registry:
    registry = Registry.load(settings, also)
    for number, stream in enumerate(settings.streams):
        try:
            registry.get(stream.type)
        except InvalidInput as error:
            if not registry.quarantined:
                raise ConfigError(f"streams.{number}.{error}") from None
    return registry


def _guard(settings: Settings) -> Guard:
    outbound = settings.outbound
    return Guard(
        outbound.allow_networks,
        outbound.allow_hosts,
        schemes=outbound.schemes,
        ports=outbound.ports,
        only_hosts=outbound.only_hosts,
        deny_hosts=outbound.deny_hosts,
        deny_networks=outbound.deny_networks,
    )

"""Builds the parts of a process from the settings: those that API, worker and command line share.

Nothing here connects, starts a thread or touches a global.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING

from sytq.errors import ConfigError, InvalidInput

if TYPE_CHECKING:
    import peewee

    from sytq.broker.cards import Cards
    from sytq.broker.connection import Redis
    from sytq.broker.inspection import Inspection
    from sytq.broker.keys import Keys
    from sytq.broker.limiters import Limiters
    from sytq.broker.pairing import RedisHalf
    from sytq.config import Settings
    from sytq.http.guard import Guard
    from sytq.ledger.ledger import Ledger
    from sytq.ledger.pairing import LedgerHalf
    from sytq.service.comparison import Comparison
    from sytq.service.control import Operator
    from sytq.service.hold import Hold
    from sytq.service.pairing import Pairing
    from sytq.service.pausing import Pausing
    from sytq.service.recording import Recording
    from sytq.service.submission import Submitter
    from sytq.tasktypes.declaration import Declaration
    from sytq.tasktypes.registry import Registry


class Runtime:
    """The parts that API, worker and command line share.

    A part is imported and built at its first use: `sytq ls` needs no Redis client, which takes longer to import than
    the database. API and worker use all parts while they start.
    """

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self.settings = settings
        self.registry = registry

    @cached_property
    def database(self) -> peewee.Database:
        from sytq.ledger.database import open_database
        from sytq.ledger.models import MODELS

        options = self.settings.database
        database = open_database(self.settings.database_url, pool=options.pool, timeout=options.timeout)
        database.bind(MODELS)
        for plugin in self.registry.plugins:
            database.bind(plugin.models)
        return database

    @cached_property
    def ledger(self) -> Ledger:
        from sytq.ledger.ledger import Ledger

        return Ledger(self.database, lambda ids: self.inspection.over(ids))

    @cached_property
    def redis(self) -> Redis:
        from sytq.broker.connection import Redis

        return Redis(self.settings.redis.dsn, home=self.keys.epoch, connections=200)

    @cached_property
    def keys(self) -> Keys:
        from sytq.broker.keys import Keys

        return Keys(self.settings.redis.prefix)

    @cached_property
    def limiters(self) -> Limiters:
        from sytq.broker.limiters import Limiters

        return Limiters(self.redis, self.keys, self.settings.worker.liveness)

    @cached_property
    def inspection(self) -> Inspection:
        from sytq.broker.inspection import Inspection

        return Inspection(self.redis, self.keys, self.registry.queues, self.settings.queue_limits)

    def pairing(self, worker: str) -> Pairing:
        """Whether this ledger and this Redis belong together, for one worker."""
        from sytq.service.pairing import Pairing

        return Pairing(self.ledger_half, self.redis_half, worker)

    @cached_property
    def cards(self) -> Cards:
        from sytq.broker.cards import Cards

        return Cards(self.redis, self.keys, self.settings.worker.liveness)

    def comparison(self) -> Comparison:
        """Compares all processes."""
        from sytq.service.comparison import Comparison

        return Comparison(self.cards, self.inspection, self.ledger_half, self.redis_half)

    @cached_property
    def ledger_half(self) -> LedgerHalf:
        from sytq.ledger.pairing import LedgerHalf
        from sytq.pairing import database_place

        return LedgerHalf(self.database, database_place(self.settings.database_url))

    @cached_property
    def redis_half(self) -> RedisHalf:
        from sytq.broker.pairing import RedisHalf
        from sytq.pairing import redis_place

        return RedisHalf(self.redis, self.keys, redis_place(self.settings.redis.dsn, self.settings.redis.prefix))

    @cached_property
    def guard(self) -> Guard:
        from sytq.http.guard import Guard

        # The section has the guard's options by their names, and the proxy of the client.
        return Guard(**self.settings.outbound.model_dump(exclude={"proxy"}))

    @cached_property
    def submitter(self) -> Submitter:
        from sytq.broker.dispatcher import Dispatcher
        from sytq.service.submission import Submitter

        return Submitter(self.registry, self.ledger, Dispatcher(self.redis, self.keys), self.guard)

    @cached_property
    def recording(self) -> Recording:
        from sytq.service.recording import Recording

        return Recording(self.registry, self.ledger, self.submitter)

    @cached_property
    def hold(self) -> Hold:
        from sytq.service.hold import Hold

        return Hold(self.database, self.redis, self.keys)

    @cached_property
    def operator(self) -> Operator:
        from sytq.broker.operations import Operations
        from sytq.service.control import Operator

        operations = Operations(self.redis, self.keys)
        return Operator(self.ledger, operations, self.limiters, self.submitter, self.recording, self.registry)

    @cached_property
    def pausing(self) -> Pausing:
        from sytq.ledger.search import Search
        from sytq.service.pausing import Pausing

        return Pausing(self.limiters, self.operator, self.registry, Search(self.database))


def build(settings: Settings, also: Iterable[Declaration] = ()) -> Runtime:
    """Return the runtime with the installed task types; `also` are further types. Raises ConfigError."""
    from sytq.tasktypes.registry import Registry

    registry = Registry.load(settings, also)
    for number, stream in enumerate(settings.streams):
        try:
            registry.get(stream.type)
        except InvalidInput as error:
            if not registry.quarantined:
                raise ConfigError(f"streams.{number}.{error}") from None
    return Runtime(settings, registry)

"""Checks that all processes, this command included, have the same stores, configuration, types and time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import peewee

import sytq
from sytq.broker.cards import Cards
from sytq.broker.connection import Redis
from sytq.broker.inspection import Inspection
from sytq.broker.keys import Keys
from sytq.broker.pairing import RedisHalf
from sytq.cli.doctor.finding import FAIL, OK, WARN, Finding
from sytq.config import Settings
from sytq.errors import DatabaseUnavailable, RedisUnavailable
from sytq.ledger.database import open_database
from sytq.ledger.pairing import LedgerHalf
from sytq.pairing import database_place, redis_place
from sytq.service.cards import CardMaker
from sytq.service.comparison import Comparison
from sytq.service.pairing import Identity
from sytq.tasktypes.registry import Registry

_TIMEOUT = 2.0
#: Kind of a mismatch -> name of the finding.
_NAMES = {
    **{"redis": "pair", "ledger": "pair", "clock": "clocks", "queue": "consumers"},
    **{"settings": "settings", "types": "types", "plugin": "types", "version": "versions"},
}


def processes(settings: Settings) -> Iterator[Finding]:
    """Compare the workers, the API processes and this command, and whether Redis serves this ledger."""
    keys = Keys(settings.redis.prefix)
    redis = Redis(settings.redis.dsn, home=keys.epoch, connections=2, timeout=_TIMEOUT)
    ledger = _ledger(settings)
    salt = None
    if ledger is not None:
        try:
            salt = ledger.salt()
        except (DatabaseUnavailable, peewee.PeeweeException):
            ledger = None  # the check of the database says why
    registry = Registry.load(settings)
    cards = Cards(redis, keys, settings.worker.liveness)
    own = CardMaker("command", sytq.__version__, settings, registry, lambda: Identity(salt=salt))
    inspection = Inspection(redis, keys, registry.queues, {})
    half = RedisHalf(redis, keys, redis_place(settings.redis.dsn, settings.redis.prefix))
    try:
        found = Comparison(cards, inspection, ledger, half, own).find()
        workers, apis = len(cards.workers()), len(cards.apis())
    except RedisUnavailable:
        return  # the check of redis says why
    for mismatch in found:
        verdict = FAIL if mismatch.severe else WARN
        yield Finding(_NAMES[mismatch.kind], verdict, mismatch.said, mismatch.todo)
    if not found:
        yield Finding("processes", OK, f"{workers} workers, {apis} API processes and this command agree")


def _ledger(settings: Settings) -> LedgerHalf | None:
    """None where there is no SQLite file: opening it would create one."""
    url = settings.database_url
    parts = urlsplit(url)
    if parts.scheme == "sqlite" and not Path(unquote(parts.path[1:])).exists():
        return None
    return LedgerHalf(open_database(url, pool=1, timeout=_TIMEOUT), database_place(url))

"""The card of this API process, which other processes compare with theirs; and a warning about a wrong store."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping
from typing import Any

import peewee
import structlog

import sytq
from sytq.api.parts import Parts
from sytq.broker.cards import WRITTEN
from sytq.errors import DatabaseUnavailable, RedisUnavailable
from sytq.service.cards import CardMaker
from sytq.service.comparison import Comparison
from sytq.service.pairing import Identity

log = structlog.get_logger(__name__)


class Presence:
    """Falcon middleware: writes the card every few seconds while the process serves."""

    def __init__(self, parts: Parts, comparison: Comparison) -> None:
        runtime = parts.runtime
        self._parts = parts
        self._comparison = comparison
        self._name = f"api-{socket.gethostname()[:40]}-{os.getpid()}-{os.urandom(3).hex()}"
        self._identity = Identity()
        self._card = CardMaker("api", sytq.__version__, runtime.settings, runtime.registry, lambda: self._identity)
        self._said: list[str] = []

    async def process_startup(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        self._task = asyncio.create_task(self._run())

    async def process_shutdown(self, scope: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        self._task.cancel()
        with contextlib.suppress(RedisUnavailable):
            await asyncio.to_thread(self._parts.runtime.cards.remove, self._name)

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(RedisUnavailable, DatabaseUnavailable, peewee.PeeweeException):
                await asyncio.to_thread(self._write)
            await asyncio.sleep(WRITTEN)

    def _write(self) -> None:
        runtime = self._parts.runtime
        if self._identity.salt is None:
            with contextlib.suppress(DatabaseUnavailable):  # then the card has no secrets to compare
                ledger = runtime.ledger_half.read()
                if ledger is not None:
                    self._identity = Identity(ledger.id, runtime.redis_half.read().id, runtime.ledger_half.salt())
        runtime.cards.write(self._name, self._card.text())
        places = runtime.ledger_half.place, runtime.redis_half.place
        found = [mismatch for mismatch in self._comparison.pair() if mismatch.about in places]
        if (about := [mismatch.about for mismatch in found]) != self._said:
            self._said = about
            if said := sorted(f"{mismatch.said}; {mismatch.todo}" for mismatch in found):
                log.warning("tasks are accepted, but not dispatched to the workers of the ledger", error=said[0])

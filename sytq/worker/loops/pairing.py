"""The loop that keeps a worker from consuming where its ledger and its Redis do not belong together."""

from __future__ import annotations

import threading

import structlog

from sytq.errors import DatabaseUnavailable, RedisUnavailable
from sytq.pairing import RENEWED
from sytq.service.pairing import Pairing
from sytq.worker.loops.loop import Loop

log = structlog.get_logger(__name__)


class PairingLoop(Loop):
    """Sets `admitted` while this process may consume; it may not before the first look."""

    def __init__(self, pairing: Pairing, admitted: threading.Event) -> None:
        super().__init__("pairing")
        self._pairing = pairing
        self._admitted = admitted
        self._admitted.clear()
        self._said: str | None = None  # the last reason not to consume
        self.certain = False  # whether both stores have answered the last look

    def step(self) -> float:
        try:
            may = self._pairing.look()
        except RedisUnavailable:
            raise  # there is nothing to consume
        except DatabaseUnavailable:
            # Whatever Redis holds may run while the database is away; nothing is dispatched to it (`certain`).
            self.certain = False
            if self._said is None:
                self._admitted.set()
            raise
        self.certain = may
        self._tell(may)
        if may:
            self._admitted.set()
        else:
            self._admitted.clear()
        return RENEWED

    def _tell(self, may: bool) -> None:
        conflict, refused = self._pairing.conflict, self._pairing.refused
        said = None if may or conflict is None else f"{conflict.kind} {refused}"
        if said == self._said:
            return
        if said is None:
            log.info("worker consumes: its ledger and its Redis belong together")
        elif refused and conflict:
            log.critical("worker does not consume", error=f"{conflict}; {conflict.todo}")
        else:
            log.warning("worker waits until the other side is silent", error=str(conflict))
        self._said = said

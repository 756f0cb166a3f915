"""Pauses and resumes by name: a limiter, a task type (`type:NAME`), or all types of a queue (`queue:NAME`)."""

from __future__ import annotations

from collections.abc import Sequence

from sytq.broker.limiters import Limiters, Resumed
from sytq.errors import InvalidInput
from sytq.ledger.search import Search
from sytq.service.control import Operator
from sytq.states import QUEUED, RETRYING, RUNNING, SCHEDULED
from sytq.tasktypes.registry import Registry


def split(name: str) -> tuple[str, str]:
    """What a name is of (limiter, type or queue), and the name of that."""
    kind, _, rest = name.partition(":")
    return (kind, rest) if kind in ("type", "queue") else ("limiter", name)


class Pausing:
    """Every method raises InvalidInput for an unknown type or queue, DatabaseUnavailable and RedisUnavailable.

    A pause of types is in the ledger before Redis is asked: while Redis is away it is recorded, and holds once Redis is
    back.
    """

    def __init__(self, limiters: Limiters, operator: Operator, registry: Registry, search: Search) -> None:
        self._limiters = limiters
        self._operator = operator
        self._registry = registry
        self._search = search

    def pause(self, name: str, by: str, why: str) -> None:
        """Start nothing of it until `resume`; what runs goes on."""
        self.types(name)
        match split(name):
            case "type", type_name:
                self._operator.pause(type_name, by=by, why=why)
            case "queue", queue:
                self._operator.pause_queue(queue, by=by, why=why)
            case _:
                self._limiters.pause(name, by, why)

    def resume(self, name: str) -> Resumed:
        """End its pause, whoever began it; close its circuit breaker too."""
        kind, rest = split(name)
        if kind == "limiter":
            return self._limiters.resume(name)
        pauses = {row.type: row for row in self._operator.pauses()}
        types = [rest] if kind == "type" and rest in pauses else self.types(name)
        ended = [pauses[each] for each in types if each in pauses]
        _, waiting = self.tasks([row.type for row in ended])
        if kind == "queue":
            self._operator.resume_queue(rest)
        closed = self._operator.resume(rest) if kind == "type" else self._limiters.resume(name)
        return closed if not ended else Resumed("paused", ended[0].paused_by, ended[0].paused_why, waiting)

    def types(self, name: str) -> list[str]:
        """The installed task types that a name pauses; none of a limiter."""
        kind, rest = split(name)
        if kind == "limiter":
            return []
        try:
            return [self._registry.get(rest).name] if kind == "type" else self._operator.types_of(rest)
        except InvalidInput as error:
            raise InvalidInput("limiter", error.message) from None

    def tasks(self, types: Sequence[str]) -> tuple[int, int]:
        """The number of running and of waiting tasks of these types, at most a second old."""
        if not types:
            return 0, 0
        counts = self._search.counts(types).by_type
        running = sum(counts[each][RUNNING] for each in types)
        return running, sum(counts[each][state] for each in types for state in (QUEUED, RETRYING, SCHEDULED))

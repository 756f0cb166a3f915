"""What scripts need to know of queues to hand permits over to their waiting tasks (_wait_queue.lua)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sytq.broker.keys import Keys


@dataclass(frozen=True, slots=True)
class QueueLimit:
    """Of a queue, over all workers: `running` tasks at once, `starts` within any `window` seconds; 0 is no limit."""

    running: int = 0
    starts: int = 0
    window: float = 60.0

    @property
    def args(self) -> list[int]:
        """As the scripts read it: the window in ms."""
        return [self.running, self.starts, int(self.window * 1000)]


class Handover:
    """The keys and arguments of `queues`, to which more may be added later, and their `limits`."""

    def __init__(self, keys: Keys, queues: Collection[str], limits: Mapping[str, QueueLimit]) -> None:
        self._keys = keys
        self._queues = queues
        self._limits = limits

    def keys_and_args(self) -> tuple[list[str], list[str | int]]:
        keys, names = self._keys, list(self._queues)
        found: list[str] = []
        args: list[str | int] = [len(names)]
        for name in names:
            found += [keys.delayed(name), keys.bodies(name), keys.called(name), keys.rate(name), *keys.streams(name)]
            found.append(keys.suspects(name))
            args += [name, *self._limits.get(name, QueueLimit()).args]
        return found, args

"""What was broken when: the faults of a storm, printed as they happen."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass
class Event:
    """One fault. `members` are those that it kills, stops or cuts off from a store."""

    name: str
    began: float
    members: tuple[str, ...] = ()
    kills: bool = False
    ended: float = float("inf")

    def excuses_call(self, group: str, since: float, until: float, lease: float) -> bool:
        """Whether a provider's call by this group from `since` may be made again at `until` (P4)."""
        overlaps = self.began < until and self.ended > since
        return group in self.members and overlaps and (self.kills or self.ended - self.began > lease)

    def __str__(self) -> str:
        return " ".join((self.name, *self.members))


@dataclass
class Events:
    all: list[Event] = field(default_factory=list)
    since: float = field(default_factory=time.time)

    def begin(self, name: str, *members: str, kills: bool = False) -> Event:
        event = Event(name, time.time(), members, kills)
        self.all.append(event)
        return event

    def end(self, event: Event) -> None:
        event.ended = time.time()
        print(f"{self.at(event.began):>8}  {event} for {event.ended - event.began:.1f} s", flush=True)

    def at(self, moment: float) -> str:
        return f"{moment - self.since:.1f} s"

    def near(self, moment: float, seconds: float) -> str:
        """The faults of the last `seconds` before a moment."""
        return ", ".join(str(event) for event in self.all if event.began < moment < event.ended + seconds) or "none"

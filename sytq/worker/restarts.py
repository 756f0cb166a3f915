"""When a process that has died is started again: at once, and after growing pauses while it keeps dying."""

from __future__ import annotations

#: Seconds between the second death and the start after it; doubled by each further death, at most `MAX_PAUSE`.
_FIRST_PAUSE = 0.5
MAX_PAUSE = 30.0
#: Seconds of running after which earlier deaths are forgotten.
_STEADY = 60.0


class Restarts:
    """The restarts of one process."""

    def __init__(self, max_pause: float = MAX_PAUSE) -> None:
        self._max_pause = max_pause
        self._deaths = 0

    def pause(self, ran: float) -> float:
        """Seconds until the next start of a process that has died after running for `ran` seconds."""
        self._deaths = 1 if ran >= _STEADY else self._deaths + 1
        if self._deaths == 1:
            return 0.0
        doublings = min(self._deaths - 2, 16)  # a crash loop of days overflows nothing
        return min(_FIRST_PAUSE * 2.0**doublings, self._max_pause)

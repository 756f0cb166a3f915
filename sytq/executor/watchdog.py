"""The watchdog: a worker process that has lost one of its threads ends, so that it is started again whole.

Owns noticing it (a thread is dead, or goes round no more), naming what blocks the event loop, and the end of the
process. Must not repair anything: what ran here is taken over by the other workers.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterable

import structlog

from sytq.broker.delivery import Delivery
from sytq.executor.event_loop import EventLoop
from sytq.observability.metrics import Counter

log = structlog.get_logger(__name__)

_BLOCKS = Counter("sytq_event_loop_blocked_total", "Times a task held the event loop for more than 1 s.", ("type",))
#: The exit status of a process that its watchdog ended (EX_SOFTWARE of sysexits.h).
EXIT = 70
_TICK = 0.5
#: A task that holds the event loop for longer than this holds up all others on it, and is named in the log.
_BLOCKED = 1.0

_turns: weakref.WeakKeyDictionary[threading.Thread, int] = weakref.WeakKeyDictionary()


def turn() -> None:
    """Note that the calling thread goes round its loop. From its first call on it has to go on calling."""
    thread = threading.current_thread()
    _turns[thread] = _turns.get(thread, 0) + 1


class Watchdog(threading.Thread):
    """Watches `vital` and `others()`: every thread lives, and what has called `turn` goes on calling it.

    `well` is called after each look that found nothing, and while the process ends in an orderly way.

    Without a vital thread nothing that runs here can be finished, and the process ends at once; without another one
    it ends in an orderly way, within `budget` seconds. `stalled` is how long a thread may go without a turn; time
    in which the whole process stood still (a stopped process, a suspended machine) does not count.
    """

    def __init__(
        self,
        lane: EventLoop,
        vital: Collection[threading.Thread],
        others: Callable[[], Iterable[threading.Thread]],
        find: Callable[[str], Delivery | None],
        well: Callable[[], None],
        *,
        budget: float,
        stalled: float,
    ) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._lane = lane
        self._vital = vital
        self._others = others
        self._find = find
        self._well = well
        self._budget = budget
        self._stalled = stalled
        self._quiet: dict[threading.Thread, tuple[int, float]] = {}  # its turns, and for how long they are the same
        self._asked = 0.0  # when the event loop was asked for a sign; 0.0 when it has answered
        self._named = False
        self._bitten = False
        self._ended = threading.Event()

    def stop(self) -> None:
        """From now on threads may end: the process does so in an orderly way."""
        self._ended.set()

    def exit(self) -> None:
        """At the very end of that: raise SystemExit when it was the watchdog that wanted it."""
        if self._bitten:
            raise SystemExit(EXIT)

    def run(self) -> None:
        before = time.monotonic()
        while not self._ended.wait(_TICK):
            now = time.monotonic()
            self._look(min(now - before, 2 * _TICK))
            self._feel(now)
            before = now
            self._well()
        while True:  # running tasks come to their end
            self._well()
            time.sleep(_TICK)

    def _look(self, elapsed: float) -> None:
        for thread in (*self._vital, *self._others()):
            turns = _turns.get(thread, 0)
            known, quiet = self._quiet.get(thread, (turns, 0.0))
            quiet = quiet + elapsed if turns and turns == known else 0.0
            self._quiet[thread] = (turns, quiet)
            if self._ended.is_set():
                return
            if not thread.is_alive():
                self._bite(thread, "a thread is dead")
            if quiet > self._stalled:
                self._bite(thread, "a thread goes round no more")

    def _bite(self, thread: threading.Thread, what: str) -> None:
        self._bitten = True
        name = getattr(thread, "queue_name", thread.name)
        log.critical(f"{what}: the process ends", thread=name, kind=type(thread).__name__)
        if thread not in self._vital:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(self._budget)
            log.critical("its orderly end takes too long")
        os._exit(EXIT)

    def _feel(self, now: float) -> None:
        """Ask the event loop for a sign, and name what keeps it from giving one."""
        if not self._asked:
            self._asked, self._named = now, False
            self._lane.loop.call_soon_threadsafe(self._answer)
        elif now - self._asked > _BLOCKED and not self._named:
            self._named = True
            task = asyncio.current_task(self._lane.loop)
            held = self._find(task.get_name()) if task else None
            frame = sys._current_frames().get(self._lane.ident or 0)
            _BLOCKS.add(1, held.type if held else "")
            log.warning(
                "a task blocks the event loop",
                type=held.type if held else None,
                task_id=held.id if held else None,
                at=f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else None,
            )

    def _answer(self) -> None:
        turn()
        self._asked = 0.0

"""The reconciler: dispatches accepted tasks that Redis does not know.

They are missing after Redis was unavailable or emptied, or were inserted by other programs. It also releases the
dependents of ends that nobody handled, and drops what Redis keeps of ended tasks. It never decides an outcome.
"""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Callable
from functools import partial

import structlog

from sytq.broker.connection import Redis
from sytq.broker.dispatcher import check_names
from sytq.broker.inspection import Inspection
from sytq.broker.keys import Keys
from sytq.errors import InvalidInput
from sytq.ledger.database import read
from sytq.ledger.dependencies import missed_ends
from sytq.ledger.events import Event
from sytq.ledger.ledger import Ledger, Unfinished
from sytq.ledger.models import Task
from sytq.ledger.values import utcnow
from sytq.observability.metrics import Counter
from sytq.service.control import Operator
from sytq.service.recording import Recording
from sytq.service.submission import Submitter
from sytq.states import DEAD, DEFAULT_PRIORITY, DEFAULT_QUEUE
from sytq.worker.loops.loop import LeasedLoop
from sytq.worker.loops.recorder import KEEP_MS

log = structlog.get_logger(__name__)

_FOUND = Counter("sytq_reconciled_total", "Rows in which SQL and Redis differed, by what was found.", ("finding",))
_PAGE = 500
_NEW_PAGES = 20
_INTERVAL = 1.0
#: Seconds between two looks at a task that Redis does not know: who accepted it is about to dispatch it.
_SECOND_LOOK = 0.5
#: Seconds for which one look is enough, after so many tasks were missing at their second look: Redis was emptied.
_LOSS, _LOST_TASKS = 60.0, 100
#: How old a new task is at most, and seconds after which all of them are compared again: one may be committed late.
_NEW, _ANEW = dt.timedelta(seconds=60), 10.0
_RESULTS_INTERVAL = 10.0


class Reconciler(LeasedLoop):
    """Compares the tasks that came since the last round, and all unfinished tasks page by page."""

    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        holder: str,
        ledger: Ledger,
        submitter: Submitter,
        recording: Recording,
        inspection: Inspection,
        operator: Operator,
        liveness: float,
        paired: Callable[[], bool],
    ) -> None:
        """`paired()` says whether this Redis is known to serve this ledger: another one never hears of its tasks."""
        super().__init__("reconcile", redis, keys, holder)
        self._ledger = ledger
        self._submitter = submitter
        self._recording = recording
        self._inspection = inspection
        self._operator = operator
        self._liveness = liveness
        self._paired = paired
        self._cursor: Unfinished | None = None
        self._unknown: dict[str, float] = {}  # task that Redis did not know -> when it was first looked at
        self._loss_until = 0.0
        self._new = utcnow(), ""  # the new task that was compared last: when it was created, and its id
        self._anew_at = 0.0
        self._waits: tuple[str, str] | None = None
        self._results_due = 0.0

    def work(self) -> float:
        self._operator.restore_pauses()
        released = self._release_dependents()
        if time.monotonic() >= self._results_due:
            self._drop_results()
            self._results_due = time.monotonic() + _RESULTS_INTERVAL
        age = self._inspection.epoch_age()
        if age is None or age < self._liveness:
            return 0.5  # workers first register their running tasks again; no other worker may start those
        if not self._paired():
            return 0.5
        dispatched = self._look_again()
        if time.monotonic() >= self._anew_at:
            self._new, self._anew_at = (utcnow() - _NEW, ""), time.monotonic() + _ANEW
        place = self._new
        for _ in range(_NEW_PAGES):
            found = self._ledger.newcomers(*place, _PAGE)
            dispatched += self._dispatch_missing([task_id for task_id, _ in found])
            place = found[-1][::-1] if found else place
            if len(found) < _PAGE:
                break
        if str(place[0]) < str(utcnow() + _NEW):  # the next tasks come before a time of the future that a program chose
            self._new = place
        page = self._ledger.unfinished(self._cursor, _PAGE)
        dispatched += self._dispatch_missing([task.id for task in page])
        self._cursor = page[-1] if len(page) == _PAGE else None
        # While tasks are missing (Redis was emptied) the next round follows at once.
        if released or (dispatched and self._cursor):
            return 0.0
        return _SECOND_LOOK if self._unknown else _INTERVAL

    def _look_again(self) -> int:
        """Dispatch the tasks that Redis still does not know."""
        now = time.monotonic()
        due = [task_id for task_id, at in self._unknown.items() if at <= now - _SECOND_LOOK]
        dispatched = 0
        for start in range(0, len(due), _PAGE):
            dispatched += self._dispatch(due[start : start + _PAGE])
        for task_id in due:
            del self._unknown[task_id]
        if dispatched >= _LOST_TASKS:
            self._loss_until = now + _LOSS
        return dispatched

    def _release_dependents(self) -> bool:
        page = partial(missed_ends, self._waits or ("", ""), _PAGE)
        ended, self._waits = read(self._ledger.database, page)
        if ended:
            self._recording.record((), ended)
        return bool(ended)

    def _drop_results(self) -> None:
        """Drop the kept results of tasks that have ended or have no row: no attempt will begin with them."""
        fields = self.redis.ask("HKEYS", self.keys.results)
        for start in range(0, len(fields), _PAGE):
            owners = {field: field.decode().partition(" ")[0] for field in fields[start : start + _PAGE]}
            unfinished = {row.id for row in self._ledger.still_unfinished(set(owners.values()))}
            if obsolete := [field for field, task_id in owners.items() if task_id not in unfinished]:
                self.redis.ask("HDEL", self.keys.results, *obsolete)

    def _dispatch_missing(self, ids: list[str]) -> int:
        """Dispatch tasks that Redis does not know; while nothing seems lost, only at their second look."""
        now = time.monotonic()
        if now < self._loss_until:
            return self._dispatch(ids)
        known = self._inspection.known(ids)
        for task_id in ids:
            if task_id not in known:
                self._unknown.setdefault(task_id, now)
        return 0

    def _dispatch(self, ids: list[str]) -> int:
        if not ids:
            return 0
        not_after = self.redis.now_ms() + KEEP_MS // 2
        known = self._inspection.known(ids)
        missing = [task_id for task_id in ids if task_id not in known]
        if not missing:
            return 0
        # Read after Redis: a task that ended meanwhile was written to SQL before Redis forgot it.
        # The result is valid only while the marks of finished tasks stay.
        good = self._dispatchable(self._ledger.still_unfinished(missing))
        dispatched = self._submitter.dispatch(good, not_after_ms=not_after)
        if dispatched:
            log.info("tasks dispatched that Redis did not know", tasks=dispatched)
            _FOUND.add(dispatched, "unknown_to_redis")
        return dispatched

    def _dispatchable(self, rows: list[Task]) -> list[Task]:
        """Return the rows that can be a message; others (another program may insert anything) end dead."""
        good = []
        for row in rows:
            try:
                _check(row)
                good.append(row)
            except InvalidInput as error:
                log.error("row cannot be dispatched", task_id=row.id, error=str(error))
                _FOUND.add(1, "not_dispatchable")
                self._recording.record(
                    [Event(row.id, DEAD, row.token, row.attempts, finished_at=utcnow(), error=str(error))]
                )
        return good


def _check(row: Task) -> None:
    """Raises InvalidInput for a row that cannot be a message."""
    check_names(row.type, row.queue or DEFAULT_QUEUE, row.priority or DEFAULT_PRIORITY)
    try:
        json.loads(row.payload)
    except (ValueError, RecursionError):
        raise InvalidInput("payload", "is not JSON") from None
    for name in ("created_at", "scheduled_at", "revived_at"):
        # SQLite stores any text, and Peewee returns what it cannot parse.
        if not isinstance(getattr(row, name), dt.datetime | None):
            raise InvalidInput(name, "is not a time; valid: YYYY-MM-DD HH:MM:SS, in UTC")

"""The sample valuation of `sytq dev`: acts as a caller, through HTTP and SQL only, and reports the result."""

from __future__ import annotations

import asyncio
import datetime as dt
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import aiohttp
from sytq_plugins.llm.config import LlmSettings
from sytq_plugins.llm.row import ValuationRecord

from sytq import clock
from sytq.config import Settings
from sytq.dev.receiver import Callback, Receiver
from sytq.ledger.database import read, transact
from sytq.ledger.ledger import Ledger
from sytq.ledger.models import Task
from sytq.states import SUCCEEDED, TERMINAL

TABLE = "valuation_records"
_QUESTION = (
    "Please value: oak dining table, about 1920, 180 x 90 cm, restored top, two small marks on one leg, "
    "bought with six matching chairs from a house sale."
)
_ROLE = "You value second-hand goods. Give a range and one sentence of reasons."
_INTERVAL = 0.05  # seconds between two polls
_REPORT_MAX = 4000  # printed characters
_WIDTH = 100


@dataclass
class Outcome:
    """The result: `reason` is None when the report and its signed callback arrived."""

    task_id: str = ""
    reason: str | None = None
    report: str = ""
    timeline: list[tuple[float, str]] = field(default_factory=list)  # seconds since the request, what happened


class Sample:
    """One run of the sample against the API at `api`; the callback goes to the URL `callback`, lines to `say`."""

    def __init__(
        self,
        api: str,
        callback: str,
        settings: Settings,
        ledger: Ledger,
        receiver: Receiver,
        say: Callable[[str], None],
    ) -> None:
        self._api = api
        self._callback = callback
        self._settings = settings
        self._ledger = ledger
        self._receiver = receiver
        self._say = say
        # The caller chooses the id; this one collides with neither a counter nor an earlier sample.
        self.row_id = time.time_ns() // 1_000_000
        self._answered = 0.0  # unix time of the API's answer

    async def run(self, seconds: float) -> Outcome:
        """Run the sample within `seconds`. Raises DatabaseUnavailable."""
        if TABLE not in self._settings.of(LlmSettings).llm.tables:
            return Outcome(reason=f"llm.tables does not list {TABLE}, so no sample was made")
        await asyncio.to_thread(self._insert)
        outcome, began = Outcome(), clock.now()
        try:
            async with asyncio.timeout(seconds):
                if await self._submit(outcome):
                    await self._watch(outcome.task_id)
        except TimeoutError:
            outcome.reason = f"not finished within {seconds:g} s"
        except aiohttp.ClientError as error:
            outcome.reason = f"the API did not answer: {error or type(error).__name__}"
        if outcome.task_id:
            await asyncio.to_thread(self._tell, outcome, began)
        outcome.timeline.sort(key=lambda entry: entry[0])
        return outcome

    def _insert(self) -> None:
        row = {
            "id": self.row_id,
            "status": self._settings.of(LlmSettings).llm.status_labels.pending,
            "user_message": _QUESTION,
            "sys_message": _ROLE,
            "callback_url": self._callback,
        }
        transact(self._ledger.database, lambda: ValuationRecord.insert(row).execute())

    async def _submit(self, outcome: Outcome) -> bool:
        users = self._settings.auth.users if self._settings.auth.enabled else {}
        login = next((aiohttp.BasicAuth(name, word.get_secret_value()) for name, word in users.items()), None)
        async with (
            aiohttp.ClientSession(auth=login) as session,
            session.post(f"{self._api}/api/tasks/llm", json={"table_name": TABLE, "id": self.row_id}) as response,
        ):
            said = await response.json(content_type=None)
        if response.status != 200:
            outcome.reason = f"POST /api/tasks/llm was answered with {response.status}: {said.get('message')}"
            return False
        outcome.task_id = said["data"]["task_id"]
        self._answered = clock.now()
        return True

    async def _watch(self, task_id: str) -> None:
        """Wait until the task has ended and its callback has arrived or failed, and say what its row says."""
        said: str | None = None
        completed = self._settings.of(LlmSettings).llm.status_labels.completed
        while True:
            task, row = await asyncio.to_thread(self._look, task_id)
            if row is not None and row.status != completed and row.progress_info not in (None, said):
                said = row.progress_info
                self._say(f"  {said}")
            announced = task_id in self._receiver.arrived or row is None or "callback was not sent" in _info(row)
            if announced and task is not None and task.state in TERMINAL:
                return
            await asyncio.sleep(_INTERVAL)

    def _look(self, task_id: str) -> tuple[Task | None, ValuationRecord | None]:
        row = partial(ValuationRecord.get_or_none, ValuationRecord.id == self.row_id)
        return self._ledger.get(task_id), read(self._ledger.database, row)

    def _tell(self, outcome: Outcome, began: float) -> None:
        """Complete the outcome from the tables and the receiver."""
        task, row = self._look(outcome.task_id)
        callback = self._receiver.arrived.get(outcome.task_id)
        outcome.report = (row.report or "") if row is not None else ""
        outcome.reason = outcome.reason or _why_not(task, row, callback)
        # The row's time is from the database's clock: clamp it between request and answer.
        accepted = min(max(_unix(task.created_at) if task else 0.0, began), self._answered)
        outcome.timeline.append((accepted - began, f"accepted as task {outcome.task_id}"))
        for at, text in [*self._attempts(outcome.task_id), *self._steps(outcome.task_id)]:
            outcome.timeline.append((max(at, accepted) - began, text))
        if callback is not None:
            verdict = f"signature NOT valid ({callback.refused})" if callback.refused else "signature verified"
            outcome.timeline.append((callback.at - began, f"callback received, {verdict}"))

    def _attempts(self, task_id: str) -> Iterator[tuple[float, str]]:
        for attempt in self._ledger.attempts(task_id):
            if attempt.started_at:
                yield _unix(attempt.started_at), f"attempt {attempt.attempt} started on worker {attempt.worker}"
            if attempt.finished_at and attempt.outcome != SUCCEEDED:
                why = f": {attempt.error}" if attempt.error else ""
                yield _unix(attempt.finished_at), f"attempt {attempt.attempt} ended ({attempt.outcome}){why}"

    def _steps(self, task_id: str) -> Iterator[tuple[float, str]]:
        known = {"report": f"report written into row {self.row_id} of {TABLE}"}
        for step in self._ledger.steps(task_id):
            if step.finished_at:
                answered = f"provider '{self._settings.of(LlmSettings).llm_provider}' answered ({step.name})"
                yield _unix(step.finished_at), known.get(step.name, answered)


def lines(outcome: Outcome) -> Iterator[str]:
    """The report and the timeline, formatted for a terminal."""
    if outcome.report:
        shown = "".join(c if c.isprintable() or c == "\n" else " " for c in outcome.report)
        yield "Its report:"
        for line in shown[:_REPORT_MAX].splitlines():
            yield from (f"  | {piece}" for piece in textwrap.wrap(line, _WIDTH) or [""])
        if len(shown) > _REPORT_MAX:
            yield f"  | ... ({len(shown)} characters in all)"
    if outcome.timeline:
        yield "Its timeline (seconds since the request):"
        yield from (f"  {seconds:8.3f}  {text}" for seconds, text in outcome.timeline)


def _why_not(task: Task | None, row: ValuationRecord | None, callback: Callback | None) -> str | None:
    """The reason why the sample failed, or None."""
    if task is None or row is None:
        return "the task or its row is gone"
    if task.state != SUCCEEDED:
        return f"the task ended {task.state}: {task.error or row.failed_info or 'no reason was given'}"
    if not row.report:
        return "the row has no report"
    if callback is None:
        return _info(row) or "the callback did not arrive"
    if callback.refused:
        return f"the callback's signature is not valid: {callback.refused}"
    return None if callback.said.get("status") == "success" else "the callback does not say success"


def _info(row: ValuationRecord) -> str:
    return f"{row.failed_info or ''} {row.progress_info or ''}".strip()


def _unix(at: dt.datetime) -> float:
    return at.replace(tzinfo=dt.UTC).timestamp()

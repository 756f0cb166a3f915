"""The standard tests: what every task type owes, applied by a type to itself.

Owns what is tested and the words of a failure. How a type is run is trial.py's.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
import unittest
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import structlog

from sytq.errors import InvalidInput
from sytq.observability import logs
from sytq.states import RETRYING, SUCCEEDED
from sytq.tasktypes.declaration import TaskType, encode
from sytq.testing.crash import Crash, CrashingLedger
from sytq.testing.fake_http import FakeHttp, Reply
from sytq.testing.harness import Harness, Run

#: A reply that every call gets, and the state in which one start of the task then leaves it.
Failure = tuple[Reply | int, str]


class TypeSuite:
    """`class TestPing(TypeSuite)`, with what is below, in any file that pytest runs."""

    type: ClassVar[TaskType | str]
    #: A payload that succeeds with the answers of `outside`.
    payload: ClassVar[Any] = {}
    #: The type's `types.<name>` section, and other settings.
    config: ClassVar[Mapping[str, Any] | None] = None
    settings: ClassVar[Mapping[str, Any]] = {}
    #: For a type that calls out: what follows when every call is answered so.
    failures: ClassVar[Sequence[Failure]] = (
        (Reply(error="refused"), RETRYING),
        (Reply(error="timeout"), RETRYING),
        (503, RETRYING),
    )
    #: Texts of the payload, the configuration or an answer that are nowhere to be seen.
    secrets: ClassVar[Sequence[str]] = ()
    #: Of a type with versions: a payload of each older one.
    older: ClassVar[Mapping[int, Any]] = {}

    def outside(self, http: FakeHttp) -> None:
        """Give the replies with which `payload` succeeds: `http.answer(url, ...)`."""

    def same(self, first: Any, second: Any) -> bool:
        """Whether these are results of one task; replace it where a result has a time in it."""
        return bool(first == second)

    # -- the tests

    def test_the_payload_survives_its_way_through_the_ledger(self) -> None:
        with self.trial() as trial:
            parsed = trial.type.parse(self.payload)
            kept = trial.submit(self.payload).row.payload
            assert trial.type.parse(json.loads(kept)) == parsed, f"the payload came back changed: {kept}"
            trial.type.payload.model_json_schema()
            with contextlib.suppress(InvalidInput):
                trial.type.parse("no object")
                raise AssertionError("a payload that is a text is accepted")
            missing = set(range(1, trial.type.version)) - set(self.older)
            assert not missing, f"give `older` a payload of version {min(missing)}"
            for version, payload in self.older.items():
                state = self._started(trial, trial.submit(payload, version=version))
                assert state == SUCCEEDED, f"a payload of version {version} ended {state}"

    def test_it_succeeds(self) -> None:
        with self.trial() as trial:
            run = trial.submit(self.payload)
            state = self._started(trial, run)
            assert state == SUCCEEDED, f"{state}: {run.error}"
            for result in (None, run.result):
                shown = trial.type.shown(json.loads(run.row.payload), result)
                assert not shown.get("show", "").startswith("failed"), f"show {shown['show']}, of the result {result}"

    def test_each_failure_has_its_class(self) -> None:
        with self.trial() as trial:
            self._started(trial, trial.submit(self.payload))
            if not trial.http.calls:
                raise unittest.SkipTest("the type calls nothing")
        for reply, expected in self.failures:
            with self._failed(reply) as run:
                assert run.state == expected, f"at {reply} the task is {run.state}, not {expected}: {run.error}"
                assert run.error, f"at {reply} nothing says why"
                assert run.outcome is not None
                assert run.outcome.consumes_attempt or expected != RETRYING, (
                    f"at {reply} it is tried for ever: no attempt is used"
                )

    def test_no_secret_is_seen(self) -> None:
        if not self.secrets:
            raise unittest.SkipTest("the type names no secrets")
        with self.trial() as trial, _said() as said:
            run = trial.submit(self.payload)
            self._started(trial, run)
            row = run.row
            seen = {"result": row.result, "error": row.error, "progress": row.progress}
            shown = " ".join(trial.type.shown(json.loads(row.payload), run.result).values())
            self._assert_hidden(seen | {"detail of the attempt": run.attempts[0].detail, "texts of `show`": shown})
            self._assert_hidden({"log": said.getvalue()})
            calls = trial.http.calls
        # Another's answer may stand in the detail, for who looks into it, and nowhere else.
        for code in (400, 503) if calls else ():
            with _said() as said, self._failed(Reply(code, body=" ".join(self.secrets))) as run:
                self._assert_hidden({"error": run.error, "progress": run.row.progress, "log": said.getvalue()})

    def test_a_crash_at_any_write_changes_nothing(self) -> None:
        with self.trial() as trial:
            whole = trial.submit(self.payload)
            counted = CrashingLedger(trial.runtime.ledger)
            assert self._started(trial, whole, counted) == SUCCEEDED, whole.error
            for moment in range(counted.moments):
                run = trial.submit(self.payload)
                where = f"after a crash {'after' if moment % 2 else 'before'} write {moment // 2 + 1}"
                with contextlib.suppress(Crash):
                    self._started(trial, run, CrashingLedger(trial.runtime.ledger, moment))
                    raise AssertionError(f"{where}: the type held the crash up, or does not write the same each time")
                state = self._started(trial, run)
                assert state == SUCCEEDED, f"{where} the task is {state}: {run.error}"
                assert self.same(whole.result, run.result), f"{where} the result is {run.result}, not {whole.result}"
                made = [child.type for child in run.children], [child.type for child in whole.children]
                assert sorted(made[0]) == sorted(made[1]), f"{where} it made {made[0]}, not {made[1]}"

    # -- their tools

    def trial(self) -> Harness:
        """A trial of the type; for tests of its own: `with self.trial() as trial: trial.run(...)`."""
        return Harness(self.type, config=self.config, settings=self.settings)

    def _started(self, trial: Harness, run: Run, ledger: CrashingLedger | None = None) -> str:
        """One start with the good answers."""
        trial.http.forget()
        self.outside(trial.http)
        return run.start(ledger)

    @contextlib.contextmanager
    def _failed(self, reply: Reply | int) -> Iterator[Run]:
        """A task that was started once, with this answer to everything."""
        with self.trial() as trial:  # of its own, as the task may have a key that no other unfinished one has
            trial.http.otherwise(reply)
            run = trial.submit(self.payload)
            run.start()
            yield run

    def _assert_hidden(self, seen: Mapping[str, str | None]) -> None:
        for where, text in seen.items():
            for number, secret in enumerate(self.secrets):
                shown = secret in (text or "") or encode(secret)[1:-1] in (text or "")
                assert not shown, f"secret number {number + 1} is in the {where}"


@contextlib.contextmanager
def _said() -> Iterator[io.StringIO]:
    """What is logged meanwhile, as the service would print it."""
    root, stderr, before = logging.getLogger(), sys.stderr, structlog.get_config()
    handlers, level = list(root.handlers), root.level
    said = io.StringIO()
    sys.stderr = said
    try:
        logs.configure("debug", "json", "trial")
        structlog.configure(cache_logger_on_first_use=False)
        yield said
    finally:
        sys.stderr = stderr
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.configure(**before)

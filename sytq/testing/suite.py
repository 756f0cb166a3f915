"""The standard tests that every task type should pass."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
import unittest
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import structlog

from sytq.api.dashboard.blocks import Shown, shown
from sytq.blocks import checked
from sytq.deprecated import warn
from sytq.errors import InvalidInput
from sytq.ledger.ledger import Ledger
from sytq.observability import logs
from sytq.service.dashboard_context import DashboardContext
from sytq.service.task_view import task_detail
from sytq.states import RETRYING, SUCCEEDED
from sytq.tasktypes.declaration import Declaration
from sytq.tasktypes.payload import encode
from sytq.testing.fake_http import FakeHttp, Reply
from sytq.testing.harness import Harness, Run

T = TypeVar("T")

#: Former name of a method -> its name; the former names go with 0.3.
_RENAMED = {"outside": "fake_http", "trial": "harness"}

#: A reply to every call, and the state of the task after one attempt with it.
Failure = tuple[Reply | int, str]


class Crash(BaseException):
    """The worker is dead: no handler of the type may stop this exception."""


class CrashingLedger(Ledger):
    """A ledger that dies at `moment`: each write of an attempt has two, before it (even) and after it (odd).

    With None it lives, and `moments` counts them.
    """

    def __init__(self, ledger: Ledger, moment: int | None = None) -> None:
        super().__init__(ledger.database)
        self.moments = 0
        self._moment = moment

    def write(self, work: Callable[[], T]) -> T:
        """Every write of a running task passes here."""
        self._pass()
        done = super().write(work)
        self._pass()
        return done

    def _pass(self) -> None:
        if self._moment is not None and self.moments >= self._moment:
            raise Crash
        self.moments += 1


class TypeSuite:
    """Base of a test class: `class TestPing(TypeSuite)`, with the attributes below, in any file that pytest runs."""

    type: ClassVar[Declaration | str]
    #: A payload that succeeds with the replies of `fake_http`.
    payload: ClassVar[Any] = {}
    #: The type's `types.<name>` section, and other settings.
    config: ClassVar[Mapping[str, Any] | None] = None
    settings: ClassVar[Mapping[str, Any]] = {}
    #: For a type that makes HTTP calls: replies to every call, and the state that follows.
    failures: ClassVar[Sequence[Failure]] = (
        (Reply(error="refused"), RETRYING),
        (Reply(error="timeout"), RETRYING),
        (503, RETRYING),
    )
    #: Texts of the payload, the configuration or a reply that must not appear anywhere.
    secrets: ClassVar[Sequence[str]] = ()
    #: For a type with versions: a payload of each older version.
    older: ClassVar[Mapping[int, Any]] = {}

    def fake_http(self, http: FakeHttp) -> None:
        """Give the replies with which `payload` succeeds: `http.answer(url, ...)`."""

    def same(self, first: Any, second: Any) -> bool:
        """Compare two results of one task; override it where a result contains a time."""
        return bool(first == second)

    # -- the tests

    def test_the_payload_survives_its_way_through_the_ledger(self) -> None:
        with self.harness() as harness:
            parsed = harness.type.parse(self.payload)
            kept = harness.submit(self.payload).row.payload
            assert harness.type.parse(json.loads(kept)) == parsed, f"the payload came back changed: {kept}"
            harness.type.payload.model_json_schema()
            with contextlib.suppress(InvalidInput):
                harness.type.parse("no object")
                raise AssertionError("a payload that is a text is accepted")
            missing = set(range(1, harness.type.version)) - set(self.older)
            assert not missing, f"give `older` a payload of version {min(missing)}"
            for version, payload in self.older.items():
                state = self._started(harness, harness.submit(payload, version=version))
                assert state == SUCCEEDED, f"a payload of version {version} ended {state}"

    def test_it_succeeds(self) -> None:
        with self.harness() as harness:
            run = harness.submit(self.payload)
            state = self._started(harness, run)
            assert state == SUCCEEDED, f"{state}: {run.error}"
            for result in (None, run.result):
                texts = harness.type.shown(json.loads(run.row.payload), result)
                assert not texts.get("show", "").startswith("failed"), f"show {texts['show']}, of the result {result}"
                _on_the_dashboard(harness, run, result)

    def test_each_failure_has_its_class(self) -> None:
        with self.harness() as harness:
            self._started(harness, harness.submit(self.payload))
            if not harness.http.calls:
                raise unittest.SkipTest("the type calls nothing")
        for reply, expected in self.failures:
            with self._failed(reply) as run:
                assert run.state == expected, f"at {reply} the task is {run.state}, not {expected}: {run.error}"
                assert run.error, f"at {reply} nothing says why"
                assert run.outcome is not None
                assert run.outcome.consumes_attempt or expected != RETRYING, (
                    f"at {reply} the task retries forever: no attempt is consumed"
                )

    def test_no_secret_is_seen(self) -> None:
        if not self.secrets:
            raise unittest.SkipTest("the type names no secrets")
        with self.harness() as harness, _captured_log() as log:
            run = harness.submit(self.payload)
            self._started(harness, run)
            row = run.row
            seen = {"result": row.result, "error": row.error, "progress": row.progress}
            texts = " ".join(harness.type.shown(json.loads(row.payload), run.result).values())
            self._assert_hidden(seen | {"detail of the attempt": run.attempts[0].detail, "texts of `show`": texts})
            self._assert_hidden({"blocks of the dashboard": str(_on_the_dashboard(harness, run, run.result))})
            self._assert_hidden({"log": log.getvalue()})
            calls = harness.http.calls
        # A peer's reply may appear in the attempt's detail, and nowhere else.
        for code in (400, 503) if calls else ():
            with _captured_log() as log, self._failed(Reply(code, body=" ".join(self.secrets))) as run:
                self._assert_hidden({"error": run.error, "progress": run.row.progress, "log": log.getvalue()})

    def test_a_crash_at_any_write_changes_nothing(self) -> None:
        with self.harness() as harness:
            whole = harness.submit(self.payload)
            counted = CrashingLedger(harness.runtime.ledger)
            assert self._started(harness, whole, counted) == SUCCEEDED, whole.error
            for moment in range(counted.moments):
                run = harness.submit(self.payload)
                where = f"after a crash {'after' if moment % 2 else 'before'} write {moment // 2 + 1}"
                with contextlib.suppress(Crash):
                    self._started(harness, run, CrashingLedger(harness.runtime.ledger, moment))
                    raise AssertionError(f"{where}: the type caught the crash, or writes differently each time")
                state = self._started(harness, run)
                assert state == SUCCEEDED, f"{where} the task is {state}: {run.error}"
                assert self.same(whole.result, run.result), f"{where} the result is {run.result}, not {whole.result}"
                made = [child.type for child in run.children], [child.type for child in whole.children]
                assert sorted(made[0]) == sorted(made[1]), f"{where} it made {made[0]}, not {made[1]}"

    # -- tools of the tests

    def harness(self) -> Harness:
        """Make a harness for the type, also for your own tests: `with self.harness() as harness: harness.run(...)`."""
        return Harness(self.type, config=self.config, settings=self.settings)

    def trial(self) -> Harness:
        """The former name of `harness`, until 0.3."""
        warn("TypeSuite.trial", _RENAMED["trial"])
        if type(self).trial is TypeSuite.trial:
            return self.harness()
        return TypeSuite.harness(self)  # called by an override through super()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for old, new in _RENAMED.items():
            if old in cls.__dict__:
                warn(f"TypeSuite.{old}", new)
                setattr(cls, new, cls.__dict__[old])

    def _started(self, harness: Harness, run: Run, ledger: CrashingLedger | None = None) -> str:
        """Run one attempt with the replies of `fake_http`, and return the state after it."""
        harness.http.forget()
        self.fake_http(harness.http)
        return run.start(ledger)

    @contextlib.contextmanager
    def _failed(self, reply: Reply | int) -> Iterator[Run]:
        """A task after one attempt, with this reply to every call."""
        with self.harness() as harness:  # a new one: the unique key of the task may be taken otherwise
            harness.http.otherwise(reply)
            run = harness.submit(self.payload)
            run.start()
            yield run

    def _assert_hidden(self, seen: Mapping[str, str | None]) -> None:
        for where, text in seen.items():
            for number, secret in enumerate(self.secrets):
                is_seen = secret in (text or "") or encode(secret)[1:-1] in (text or "")
                assert not is_seen, f"secret number {number + 1} is in the {where}"


def _on_the_dashboard(harness: Harness, run: Run, result: Any) -> list[Shown]:
    """What the dashboard shows of the task. Raises what the type's `panel` raises."""
    row, declared, runtime = run.row, harness.type, harness.runtime
    found = list(declared.blocks(json.loads(row.payload), result))
    if declared.panel is not None:
        detail = task_detail(row, runtime.registry, None, None, runtime.ledger.histories([row.id])[row.id])
        found += checked(declared.panel(DashboardContext(runtime, "test", None), detail | {"result": result}))
    return shown(found)


@contextlib.contextmanager
def _captured_log() -> Iterator[io.StringIO]:
    """Capture log lines as the service prints them."""
    root, stderr, before = logging.getLogger(), sys.stderr, structlog.get_config()
    handlers, level = list(root.handlers), root.level
    log = io.StringIO()
    sys.stderr = log
    try:
        logs.configure("debug", "json", "harness")
        structlog.configure(cache_logger_on_first_use=False)
        yield log
    finally:
        sys.stderr = stderr
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.configure(**before)

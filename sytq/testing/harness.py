"""The harness for a task type: accepts, runs and records its tasks in this process, one attempt at a time.

The harness replaces the worker. All other parts are the service's own, on an SQLite ledger and a Redis of the harness.
Tasks that the type enqueues are accepted but not run.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import dataclasses
import datetime as dt
import functools
import json
import shutil
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dramatiq import Broker, Message

from sytq import clock
from sytq.broker.delivery import STATES, Delivery, Outcome
from sytq.config import load
from sytq.durations import parse_duration
from sytq.embedded import EmbeddedServer
from sytq.errors import InvalidInput, SytqError
from sytq.executor.acks import end_event
from sytq.executor.hooks import Hooks
from sytq.executor.runner import Runner
from sytq.executor.threads import Threads
from sytq.http.client import Client
from sytq.ledger.insert import Accepted, NewTask
from sytq.ledger.ledger import Ledger
from sytq.ledger.migrations import migrate
from sytq.ledger.models import Attempt, Step, Task
from sytq.plugins import Plugin
from sytq.runtime import Runtime, build
from sytq.states import TERMINAL
from sytq.tasktypes.declaration import Declaration
from sytq.tasktypes.payload import encode
from sytq.tasktypes.tasktype import TaskType
from sytq.testing.fake_http import FakeHttp
from sytq.worker.loops.recorder import events_of
from sytq.worker.middleware.retry import decide
from sytq.worker_runtime import task_services

_MAX_STARTS = 1000
_WORKER = "harness"
#: Seconds that one attempt may take, whatever the timeout of the type.
_TIMEOUT = 600.0


class Clock:
    """The wall clock of a harness: `time.time()` and `datetime.now()` of the whole process, ticking from `now`.

    `time.monotonic()` and deadlines are not affected.
    """

    def __init__(self, now: dt.datetime | None) -> None:
        try:
            import time_machine
        except ImportError:
            raise SytqError("sytq.testing needs time-machine: pip install 'sytq[testing]'") from None
        clock.forget()
        self._travel = time_machine.travel(now or clock.utc(), tick=True)
        self._traveller = self._travel.start()

    def stop(self) -> None:
        self._travel.stop()

    def now(self) -> dt.datetime:
        return clock.utc()

    def advance(self, duration: float | str) -> None:
        """Move the clock forward by seconds, or by text such as "10s"."""
        self._traveller.shift(parse_duration(duration))


class Harness:
    """`with Harness(my_type) as harness: harness.run({...})`. One at a time in a process.

    `type` is a declared type, or the name of an installed one; `config` is its `types.<name>` section, `settings` the
    rest of a configuration file as a mapping. The clock starts at `now`. Entering raises ConfigError and
    EmbeddedServerError; leaving fails the test after a call without a reply.
    """

    runtime: Runtime
    type: TaskType
    http: FakeHttp
    clock: Clock

    def __init__(
        self,
        type: Declaration | str,
        *,
        config: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        now: dt.datetime | None = None,
    ) -> None:
        self._given = type
        self._settings = dict(settings or {})
        if config is not None:
            name = type if isinstance(type, str) else type.name
            self._settings["types"] = {**self._settings.get("types", {}), name: dict(config)}
        self._now = now
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Harness:
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sytq-harness-")))
            self.runtime = runtime = self._build(folder)
            stack.callback(runtime.redis.close)
            stack.callback(runtime.database.close_all)  # type: ignore[attr-defined]
            migrate(runtime.database, runtime.registry.plugins)
            self.type = runtime.registry.get(self._given if isinstance(self._given, str) else self._given.name)
            self.http = FakeHttp(runtime.guard)
            self._loop = stack.enter_context(_loop())
            self._threads = Threads(self._loop)
            self._threads.start(1)
            stack.callback(self._threads.stop)
            self._hooks = Hooks(Broker(middleware=[]), lambda: ())
            stack.callback(lambda: asyncio.run_coroutine_threadsafe(self.http.close(), self._loop).result(10))
            client = Client(runtime.guard, sessions=self.http)
            self._services = task_services(runtime, client, runtime.limiters)
            stack.callback(self._services.close)
            self.clock = Clock(self._now)
            stack.callback(self.clock.stop)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        self._stack.close()
        if failed is None and self.http.unexpected:
            raise AssertionError(f"no reply was given for {', '.join(self.http.unexpected)}")

    def _build(self, folder: Path) -> Runtime:
        file = folder / "sytq.yaml"
        own = {
            "database": {"url": f"sqlite:///{folder / 'sytq.db'}"},
            "redis": {"url": _redis(), "prefix": f"harness-{uuid.uuid4().hex[:12]}"},
        }
        file.write_text(json.dumps(self._settings | own))
        if isinstance(self._given, str):
            return build(load(str(file), environ={}))
        module = sys.modules[self._given.function.__module__]
        with_plugin = [module] if isinstance(vars(module).get("plugin"), Plugin) else []
        return build(load(str(file), environ={}, modules=with_plugin), (self._given,))

    def submit(self, payload: object, *, version: int | None = None) -> Run:
        """Accept a task. A payload with a `version` is stored unchanged, in its older form. Raises InvalidInput."""
        if version is None:
            new = self.runtime.submitter.prepare(self.type.name, payload)
        else:
            valid = self.type.parse(payload, version)
            new = dataclasses.replace(
                self.runtime.submitter.prepare(self.type.name, valid), payload=encode(payload), version=version
            )
        if self.runtime.ledger.accept([new]) != [Accepted(new.id)]:
            raise InvalidInput("payload", "an unfinished task of the harness has the same unique key")
        return Run(self, new)

    def run(self, payload: object) -> Run:
        """Accept a task and run its attempts until it has ended, moving the clock to each."""
        run = self.submit(payload)
        run.finish()
        return run

    def call(self, delivery: Delivery, ledger: Ledger) -> BaseException | None:
        """Run one delivery like a worker, on this ledger, and return the exception that it raised."""
        runner = Runner(dataclasses.replace(self._services, ledger=ledger), self._threads, self._hooks)
        try:
            asyncio.run_coroutine_threadsafe(runner.runner(self.type)(delivery), self._loop).result(_TIMEOUT)
        except Exception as error:
            return error
        return None


class Run:
    """A task of a harness."""

    def __init__(self, harness: Harness, new: NewTask) -> None:
        self.id = new.id
        self.outcome: Outcome | None = None  # of the latest attempt
        self._harness = harness
        self._new = new
        self._created = harness.clock.now()
        self._token = 0  # of the latest start: a time in ms, as Redis gives it, and above the one before
        self._attempts = 0

    def start(self, ledger: Ledger | None = None) -> str:
        """Run one attempt now and return the state after it. A crash of `ledger` leaves the task running."""
        assert self.state not in TERMINAL, f"the task is {self.state}"
        again, self._token = self._token > 0, max(self._token + 1, int(clock.now() * 1000))
        self._attempts += 1
        delivery = self._delivery()
        start = [self.id, self._token, self._attempts, again]
        self._record(kind="started", at=int(delivery.started * 1000), data=json.dumps([start]))
        error = self._harness.call(delivery, ledger or self._harness.runtime.ledger)
        delivery.ended = clock.now()
        self.outcome = outcome = decide(self._harness.type, delivery, error)
        if not outcome.consumes_attempt:
            self._attempts -= 1
        data = end_event(delivery, outcome, self._attempts, _WORKER)
        self._record(kind="ended", id=self.id, token=self._token, data=data)
        return STATES[outcome.kind]

    def finish(self) -> str:
        """Run attempts until the task has ended, moving the clock to each, and return the final state."""
        for _ in range(_MAX_STARTS):
            if self.start() in TERMINAL:
                return self.state
            assert self.outcome is not None
            self._harness.clock.advance(self.outcome.delay)
        raise AssertionError(f"the task has not ended after {_MAX_STARTS} starts: {self.error}")

    @property
    def row(self) -> Task:
        """The task's row in the ledger."""
        row = self._harness.runtime.ledger.get(self.id)
        assert row is not None
        return row

    @property
    def state(self) -> str:
        return str(self.row.state)

    @property
    def result(self) -> Any:
        text = self.row.result
        return None if text is None else json.loads(text)

    @property
    def error(self) -> str | None:
        error: str | None = self.row.error
        return error

    @property
    def progress(self) -> Any:
        """The last progress report, {"done", "of", "text"}, or None."""
        text = self.row.progress
        return None if text is None else json.loads(text)

    @property
    def attempts(self) -> list[Attempt]:
        """The history of attempts."""
        return self._harness.runtime.ledger.attempts(self.id)

    @property
    def steps(self) -> list[Step]:
        return self._harness.runtime.ledger.steps(self.id)

    @property
    def children(self) -> list[Task]:
        """The tasks that this task enqueued, in the order of their ids."""
        with self._harness.runtime.database.connection_context():
            return list(Task.select().where(Task.parent == self.id).order_by(Task.id))

    def _record(self, **fields: object) -> None:
        """Record an entry of the event stream as the recorder does."""
        texts = {"worker": _WORKER, **fields}
        entry = {
            name.encode(): value if isinstance(value, bytes) else str(value).encode() for name, value in texts.items()
        }
        self._harness.runtime.recording.record(events_of(entry))

    def _delivery(self) -> Delivery:
        options = {} if self._new.version is None else {"version": self._new.version}
        payload, created = json.loads(self._new.payload), int(self._created.timestamp() * 1000)
        message = Message[Any](self._new.queue, self._new.type, (payload,), {}, options, self.id, created)
        most, token = self._new.max_attempts or 0, self._token
        return Delivery(
            message, stream="", entry=b"", body=b"", attempts=self._attempts, max_attempts=most, token=token
        )


@contextlib.contextmanager
def _loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop on a thread of its own, as in a worker."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="harness", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@functools.cache
def _redis() -> str:
    """The URL of this process's Redis, started with the first harness and stopped at the end of the process."""
    server = EmbeddedServer(Path(tempfile.mkdtemp(prefix="sytq-harness-")))
    server.start()

    def end() -> None:
        with contextlib.suppress(Exception):
            server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)

    atexit.register(end)
    return server.url

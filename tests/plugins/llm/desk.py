"""A desk on which `llm` tasks run against real stores without a worker process."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping
from datetime import UTC, timedelta
from typing import Any

import pytest

from sytq import Retry
from sytq.broker.limiter_states import LimiterState
from sytq.config import load
from sytq.ledger.database import is_mysql
from sytq.ledger.models import Step, Task, UniqueKey
from sytq.ledger.values import utcnow
from sytq.runtime import build
from sytq.tasktypes.declaration import Death
from tests.plugins.running import attempt, delivery_of
from tests.provider import ScriptedProvider
from tests.tables import make_tables


class Desk:
    """Rows, tasks and their attempts, one at a time, as a worker would make them."""

    def __init__(self, provider: ScriptedProvider, database_url: str, redis_url: str) -> None:
        self.provider = provider
        self._urls = {"SYTQ_DATABASE__URL": database_url, "SYTQ_REDIS__URL": redis_url}
        self._environ: dict[str, str] = {}
        self.configure()
        make_tables(self.runtime.database)
        self._token = 1_796_000_000_000  # a time in ms, as Redis gives it
        self.waits_for: dict[str, str] = {}  # task -> the limiter that refused its latest attempt

    def configure(self, **environ: str) -> None:
        """Settings of this test beside a provider named `scripted`, as SYTQ_ variables without their prefix."""
        self._environ = {
            "SYTQ_PROVIDERS__SCRIPTED__BASE_URL": self.provider.base_url,
            "SYTQ_PROVIDERS__SCRIPTED__API_KEY": "sk-scripted",
            "SYTQ_PROVIDERS__SCRIPTED__MODEL": "valuer-1",
        } | {f"SYTQ_{name}": value for name, value in environ.items()}
        self._build()

    def without_provider(self) -> None:
        self._environ = {}
        self._build()

    def _build(self) -> None:
        if hasattr(self, "runtime"):
            self.runtime.database.close_all()  # type: ignore[attr-defined]
        self.runtime = build(load(environ=self._urls | self._environ))

    def close(self) -> None:
        self.runtime.database.close_all()  # type: ignore[attr-defined]

    @property
    def is_mysql(self) -> bool:
        return is_mysql(self.runtime.database)

    @property
    def database_name(self) -> str:
        return str(self.runtime.database.database)

    def sql(self, statement: str) -> list[Any]:
        with self.runtime.database.connection_context():
            cursor = self.runtime.database.execute_sql(statement)
            return list(cursor.fetchall()) if cursor.description else []

    def add_row(self, id: int = 1, table: str = "valuation_records", **columns: Any) -> None:
        """Insert a row as a caller does; columns that are not given stay out of the statement."""
        columns = {"id": id, "status": "pending", "user_message": "What is it worth?"} | columns
        marks = ", ".join(["%s" if is_mysql(self.runtime.database) else "?"] * len(columns))
        with self.runtime.database.connection_context():
            self.runtime.database.execute_sql(
                f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", tuple(columns.values())
            )

    def row(self, id: int = 1, table: str = "valuation_records") -> dict[str, Any]:
        with self.runtime.database.connection_context():
            cursor = self.runtime.database.execute_sql(f"SELECT * FROM {table} WHERE id = {id}")
            (values,) = cursor.fetchall()
            return dict(zip([column[0] for column in cursor.description], values, strict=True))

    def submit(self, id: int = 1, table: str = "valuation_records", **more: Any) -> str:
        """Accept a task without dispatching it. An earlier task of the row counts as finished and recorded."""
        with self.runtime.database.connection_context():
            UniqueKey.delete().execute()
        payload = {"table_name": table, "id": id, **more}
        new = self.runtime.submitter.prepare("llm", payload)
        self.runtime.ledger.accept([new])
        return new.id

    def age(self, task_id: str, seconds: float) -> None:
        """Have the task submitted this long ago."""
        with self.runtime.database.connection_context():
            Task.update(created_at=utcnow() - timedelta(seconds=seconds)).where(Task.id == task_id).execute()

    def run(self, task_id: str, attempts: int = 1) -> Any:
        """One attempt of the task; returns its result or raises."""
        self.waits_for.pop(task_id, None)
        try:
            return self._attempt(task_id, attempts)
        except Retry as error:
            if error.permit is not None:
                self.waits_for[task_id] = error.permit.refused_by
            raise

    def line(self, limiter: str) -> list[str]:
        """The tasks whose acknowledgement has them wait for a limiter, in the order of their refusals."""
        return [task_id for task_id, name in self.waits_for.items() if name == limiter]

    def limiter(self, name: str) -> LimiterState:
        """The state of a limiter."""
        found = self.runtime.inspection.limiter(name)
        assert found is not None
        return found

    def abandon(self, task_id: str, when: threading.Event) -> None:
        """An attempt of the task that is cut off in the middle and writes nothing more."""
        with pytest.raises(asyncio.CancelledError):
            self._attempt(task_id, 1, when)

    def die(self, task_id: str, error: str | None, payload: object = None) -> str:
        """Run the task that handles a task's death; returns its id."""
        task = self.runtime.ledger.get(task_id)
        assert task is not None
        payload = json.loads(task.payload) if payload is None else payload
        death = Death(task_id=task_id, payload=payload, error=error, attempts=4).model_dump(mode="json")
        new = self.runtime.submitter.prepare("llm.dead", death, parent=task_id)
        self.runtime.ledger.accept([new])
        self._attempt(new.id, 1)
        return new.id

    def run_again(self, dead_id: str) -> None:
        """A second attempt of the task that `die` ran."""
        self._attempt(dead_id, 2)

    def children(self, task_id: str) -> list[Task]:
        with self.runtime.database.connection_context():
            return list(Task.select().where(Task.parent == task_id, Task.type == "callback"))

    def callback(self, task_id: str) -> tuple[Mapping[str, Any], dict[str, Any]]:
        """The payload of a task's one callback, and its decoded body."""
        (child,) = self.children(task_id)
        payload = json.loads(child.payload)
        return payload, json.loads(payload["body"])

    def steps(self, task_id: str) -> dict[str, Step]:
        return {step.name: step for step in self.runtime.ledger.steps(task_id)}

    def _attempt(self, task_id: str, attempts: int, cut_off: threading.Event | None = None) -> Any:
        self._token += 1
        task = self.runtime.ledger.get(task_id)
        assert task is not None
        created_at = task.created_at.replace(tzinfo=UTC)
        declared = self.runtime.registry.get(task.type)
        delivery = delivery_of(
            declared, json.loads(task.payload), task_id, created_at, attempts=attempts, token=self._token
        )
        return attempt(self.runtime, delivery, cut_off)

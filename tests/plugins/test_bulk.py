"""Task type `bulk`: what an attempt that has lost its task may still do."""

from __future__ import annotations

import datetime as dt

import pytest
from sytq_plugins.bulk import Bulk, _Notes

from sytq.errors import Lost
from sytq.ids import new_id
from sytq.ledger.events import Event
from sytq.ledger.insert import NewTask
from sytq.ledger.models import Step, Task
from sytq.ledger.values import utcnow
from tests.plugins.running import Run, runtime_of


def test_p6_resumed_attempt_that_lost_its_task_repeats_no_batch(database_url: str, redis_url: str) -> None:
    with runtime_of(database_url, redis_url) as runtime:
        (done,) = runtime.ledger.accept([NewTask(new_id(), "default", "default", "normal", "{}")])
        end = Event(done.id, "succeeded", 1, 1, finished_at=utcnow() - dt.timedelta(minutes=1), outcome="succeeded")
        runtime.recording.write([end])
        operation = Bulk(action="delete", q="state:succeeded", as_of=utcnow(), by="ops")
        run = Run(runtime, "bulk", operation.model_dump(mode="json"))
        with runtime.database.connection_context():
            notes, newer = _Notes(matched=1, batch=[done.id]).model_dump_json(), run.token + 2
            Step.create(task_id=run.id, name="batches", token=newer, state="started", started_at=utcnow(), value=notes)
            Task.update(token=newer).where(Task.id == run.id).execute()  # another worker has started it again
        with pytest.raises(Lost):
            run.start()
        assert runtime.ledger.get(done.id) is not None
        run.start()  # with the newer token
        assert runtime.ledger.get(done.id) is None

"""Webhooks through the whole service: a real worker, real receivers, and the ledger afterwards."""

from __future__ import annotations

import json
import socketserver
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sytq.cli import app
from sytq.errors import InvalidInput
from sytq.ledger.models import Task
from tests.http.test_receivers import BROKEN, ENDED, WHOLE
from tests.installation import Installation
from tests.receiver import Receiver
from tests.servers import poll

SETTINGS = {"SYTQ_OUTBOUND__ALLOW_NETWORKS": '["127.0.0.0/8"]', "SYTQ_WORKER__RETRY_INTERVAL": "200ms"}


@pytest.fixture
def hooks(tmp_path: Path, database_url: str, redis_url: str) -> Iterator[Installation]:
    made = Installation(tmp_path, database_url, redis_url, **SETTINGS)
    yield made
    made.close()


def submit(hooks: Installation, url: str, **payload: Any) -> str:
    task = hooks.runtime.submitter.prepare("webhook", {"url": url, **payload})
    hooks.runtime.submitter.submit([task])
    return task.id


def test_every_attempt_is_recorded_and_searchable_by_host(hooks: Installation, monkeypatch: Any) -> None:
    receiver = Receiver(500, 503, 200)
    hooks.start_worker()
    task_id = submit(hooks, receiver.url, body="{}", headers={"Authorization": "Bearer hunter2-hunter2"})
    other = submit(hooks, receiver.url.replace("127.0.0.1", "127.0.0.2"))
    row = hooks.wait_state(task_id, "succeeded")
    receiver.close()
    assert row.host == "127.0.0.1" and hooks.row(other).host == "127.0.0.2"

    def attempts() -> list[Any]:
        return hooks.runtime.ledger.attempts(task_id)

    poll(
        lambda: [a.status for a in attempts()] == [500, 503, 200], message=lambda: str([a.__data__ for a in attempts()])
    )
    first, second, last = attempts()
    assert first.next_at is not None and first.next_at <= second.started_at and last.next_at is None
    detail = json.loads(first.detail)
    assert detail["host"] == "127.0.0.1" and detail["latency_ms"]["total"] > 0
    found = list(Task.select(Task.id).where(Task.host == "127.0.0.1", Task.finished_at.is_null(False)))
    assert [task.id for task in found] == [task_id]

    for name, value in hooks.environ.items():
        monkeypatch.setenv(name, value)
    shown = json.loads(CliRunner().invoke(app, ["show", task_id, "--json"]).stdout)
    assert [made["detail"]["status"] for made in shown["attempts_made"]] == [500, 503, 200]
    assert shown["attempts_made"][0]["next_at"] and shown["host"] == "127.0.0.1"


class RawReceiver(socketserver.ThreadingTCPServer):
    """Sends the bytes of `answers` whose place in the list is the path, and closes; keeps the paths."""

    daemon_threads = True
    request_queue_size = 200

    def __init__(self, answers: list[bytes]) -> None:
        self.answers, self.paths = answers, list[str]()
        super().__init__(("127.0.0.1", 0), RawAnswer)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class RawAnswer(socketserver.StreamRequestHandler):
    server: RawReceiver

    def handle(self) -> None:
        path = self.rfile.readline().split()[1].decode()
        while self.rfile.readline().strip():
            pass
        self.rfile.read(2)
        self.server.paths.append(path)
        self.wfile.write(self.server.answers[int(path[1:])])


def test_a_status_line_of_200_is_delivered_once_whatever_follows(hooks: Installation) -> None:
    cases = WHOLE | BROKEN | ENDED
    receiver = RawReceiver(list(cases.values()))
    hooks.start_worker()
    port = receiver.server_address[1]
    ids = {name: submit(hooks, f"http://127.0.0.1:{port}/{n}", body="{}") for n, name in enumerate(cases)}
    for task_id in ids.values():
        hooks.wait_state(task_id, "succeeded")
    receiver.shutdown()
    receiver.server_close()
    # Not the attempts: one may meet a connection that the receiver has just closed, and reaches nobody.
    assert sorted(receiver.paths) == sorted(f"/{n}" for n in range(len(cases)))


def test_forbidden_url_is_refused_at_submission(hooks: Installation) -> None:
    for url in ("http://10.0.0.1/", "http://169.254.169.254/", "ftp://example.org/"):
        with pytest.raises(InvalidInput) as refused:
            submit(hooks, url)
        assert refused.value.field == "url"
    assert not list(Task.select())


def test_webhooks_with_one_ordering_key_are_delivered_in_order(hooks: Installation) -> None:
    """Also while the first webhook is retried, and without delaying another key."""
    receiver = Receiver(500, 500, 500, 200)
    free = Receiver(200)
    hooks.start_worker()
    ids = [submit(hooks, f"{receiver.url}/{n}", ordering_key="customer-7") for n in range(4)]
    began = time.monotonic()
    others = [submit(hooks, free.url, ordering_key=f"customer-{n}") for n in range(20, 25)]
    for other in others:
        hooks.wait_state(other, "succeeded")
    for task_id in ids:
        hooks.wait_state(task_id, "succeeded")
    paths = [received.path for received in receiver.received]
    receiver.close()
    free.close()
    assert paths == ["/hook/0"] * 4 + ["/hook/1", "/hook/2", "/hook/3"]
    assert [hooks.row(task_id).attempts for task_id in ids] == [4, 1, 1, 1]
    assert time.monotonic() - began < 30


def test_dead_task_does_not_block_its_ordering_key(hooks: Installation) -> None:
    gone, fine = Receiver(410), Receiver(200)
    hooks.start_worker()
    first = submit(hooks, gone.url, ordering_key="k")
    second = submit(hooks, fine.url, ordering_key="k")
    assert hooks.wait_state(first, "dead").state == "dead"
    hooks.wait_state(second, "succeeded")
    gone.close()
    fine.close()


def test_replayed_webhook_has_the_same_id_and_body(hooks: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver, elsewhere = Receiver(410, 200), Receiver(410)
    hooks.environ["SYTQ_WEBHOOK__SECRET"] = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    hooks.start_worker()
    task_id = submit(hooks, receiver.url, body='{"a":  1}')
    other = submit(hooks, elsewhere.url.replace("127.0.0.1", "localhost"))
    for dead in (task_id, other):
        hooks.wait_state(dead, "dead")
    for name, value in hooks.environ.items():
        monkeypatch.setenv(name, value)
    replay = ["dead", "replay", "host:127.0.0.1 finished:<1h"]
    assert CliRunner().invoke(app, [*replay, "--dry-run"]).stdout == "1 would be replayed\n"
    assert CliRunner().invoke(app, replay).stdout == "1 replayed\n"
    hooks.wait_state(task_id, "succeeded")
    assert hooks.row(other).state == "dead"
    receiver.close()
    elsewhere.close()
    first, again = receiver.received
    assert first.body == again.body and first.headers["webhook-id"] == again.headers["webhook-id"] == f"msg_{task_id}"


def test_paused_host_is_called_again_when_a_worker_has_another_secret(hooks: Installation) -> None:
    receiver = Receiver(401)
    own = {"SYTQ_WEBHOOK__DISABLE_AFTER": "1s", "SYTQ_WEBHOOK__SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
    hooks.start_worker(**own)
    task_id = submit(hooks, receiver.url)
    host = receiver.url.removeprefix("http://").partition("/")[0]

    def is_paused() -> bool:
        limiter = hooks.runtime.inspection.limiter(f"host:{host}")
        return limiter is not None and limiter.state == "paused" and limiter.waiting == 1

    poll(is_paused, message="the host is paused, and the task waits")
    receiver.close()
    fine = Receiver(200, port=int(host.partition(":")[2]))
    hooks.workers[0].kill()
    hooks.start_worker(**own | {"SYTQ_WEBHOOK__SECRET": "whsec_NfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"})
    hooks.wait_state(task_id, "succeeded", timeout=60)
    fine.close()


def test_failing_host_is_paused_with_an_alert_until_it_is_resumed(hooks: Installation) -> None:
    receiver = Receiver(500)
    worker = hooks.start_worker(SYTQ_WEBHOOK__DISABLE_AFTER="2s", SYTQ_WEBHOOK__HOST__BREAKER__ENABLED="false")
    task_id = submit(hooks, receiver.url)
    host = receiver.url.removeprefix("http://").partition("/")[0]

    def state() -> str | None:
        return next((g.state for g in hooks.runtime.inspection.limiters() if g.name == f"host:{host}"), None)

    poll(lambda: state() == "paused", message="the host is paused")
    poll(lambda: '"limiter paused"' in worker.text(), message="the alert is logged")
    (alert,) = [json.loads(line) for line in worker.text().splitlines() if '"limiter paused"' in line]
    assert alert["level"] == "error" and alert["limiter"] == f"host:{host}" and "only failures since" in alert["reason"]
    poll(lambda: hooks.runtime.inspection.live([task_id])[task_id].state == "retrying", message="the task waits")
    tried = len(receiver.received)
    attempts = hooks.runtime.inspection.live([task_id])[task_id].attempts
    time.sleep(1.0)  # five times the interval: there is no event to wait for
    assert len(receiver.received) == tried
    receiver.close()
    fine = Receiver(200, port=int(host.partition(":")[2]))
    hooks.runtime.limiters.resume(f"host:{host}")
    assert hooks.wait_state(task_id, "succeeded").attempts == attempts + 1
    fine.close()

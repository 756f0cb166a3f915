"""The probes of a worker group: live means that all threads make progress, ready that leases are renewed too."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sytq.observability import process_group
from sytq.worker import liveness
from tests.installation import TRIALS, Installation, samples
from tests.servers import RedisServer, free_port, poll

pytestmark = pytest.mark.faults
HARM = Path(__file__).parents[1] / "executor/watchdog_plugins"
#: Of the groups, not of the test's own process.
PLUGINS = json.dumps([str(path) for path in (TRIALS, HARM, Path(__file__).parent / "impatient_plugins")])


class Group:
    """A real `sytq worker` with its health server, as systemd or an orchestrator runs it."""

    def __init__(self, on: Installation, **settings: str) -> None:
        self.on = on
        self.port = free_port()
        self.log = on.folder / f"group-{self.port}.log"
        self.notifications: list[str] = []  # what systemd received so far
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(on.folder / f"notify-{self.port}"))
        threading.Thread(target=self._listen, daemon=True).start()
        self.environ = on.environ | {
            "SYTQ_WORKER__PORT": str(self.port),
            "SYTQ_WORKER__PROCESSES": "2",
            "NOTIFY_SOCKET": str(on.folder / f"notify-{self.port}"),
            "RUNTIME_DIRECTORY": str(on.folder),
            "SYTQ_PLUGINS__PATHS": PLUGINS,
            **settings,
        }
        del self.environ["PROMETHEUS_MULTIPROC_DIR"]  # a folder of its own
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sytq.cli", "worker"],
            env=self.environ,
            cwd=on.folder,
            stdin=subprocess.DEVNULL,
            stdout=self.log.open("ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def counted(self) -> dict[str, float]:
        """The metrics of the group."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as reply:
            return samples(reply.read())

    def answer(self, path: str) -> int:
        """The HTTP status; 0 without a reply."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def wait(self, path: str, status: int, timeout: float = 90) -> None:
        poll(lambda: self.answer(path) == status, timeout, 0.1, lambda: f"{path} says {status}: {self.log.read_text()}")

    def _listen(self) -> None:
        while data := self._socket.recv(4096):
            self.notifications += data.decode().splitlines()

    @property
    def workers(self) -> list[int]:
        return sorted(
            file.pid for file in liveness.read_liveness(self.on.folder / f"sytq-{os.getuid()}-{self.process.pid}")
        )

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(40)


@pytest.fixture
def on(tmp_path: Path, own_redis: RedisServer) -> Iterator[Installation]:
    paths = f'["{TRIALS}", "{HARM}"]'
    made = Installation(tmp_path, f"sqlite:///{tmp_path / 'sytq.db'}", own_redis.url, SYTQ_PLUGINS__PATHS=paths)
    yield made
    made.close()


Start = Callable[..., Group]


@pytest.fixture
def start(on: Installation) -> Iterator[Start]:
    """Starts a group with further settings; its processes end with the test."""
    started: list[Group] = []

    def start_group(**settings: str) -> Group:
        started.append(Group(on, **settings))
        return started[-1]

    yield start_group
    for group in started:
        group.close()


def test_readiness_needs_every_right_and_liveness_does_not(start: Start, own_redis: RedisServer) -> None:
    with own_redis.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-xclaim", "-zrank")  # heartbeats succeed
        group = start()
        poll(lambda: "Redis refuses its user ZRANK, XCLAIM" in group.log.read_text(), message="the log names them")
        group.wait("/healthz/live", 200)
        assert group.answer("/healthz/ready") == 503
        assert "READY=1" not in group.notifications
        client.execute_command("ACL", "SETUSER", "default", "+@all")
        group.wait("/healthz/ready", 200)


def test_readiness_needs_redis_and_liveness_does_not(on: Installation, start: Start, own_redis: RedisServer) -> None:
    own_redis.kill()
    group = start(SYTQ_WORKER__SHUTDOWN_TIMEOUT="5m")
    group.wait("/healthz/live", 200)
    assert group.answer("/healthz/ready") == 503
    assert "READY=1" not in group.notifications
    own_redis.start()
    group.wait("/healthz/ready", 200)
    poll(lambda: "READY=1" in group.notifications, message="systemd is notified")
    assert len(group.workers) == 2
    assert group.answer("/nothing") == 404
    # During an orderly shutdown it stays live until the last task has ended.
    on.hold("last")
    task = on.submit("plain", "last")
    on.wait_note("start last")
    group.process.terminate()
    assert group.answer("/healthz/live") == 200
    on.release("last")
    assert group.process.wait(60) == 0
    live = on.runtime.inspection.live([task])  # perhaps no worker is left to record it
    assert (live[task] if task in live else on.row(task)).state == "succeeded"
    assert not (on.folder / f"sytq-{os.getuid()}-{group.process.pid}").exists()


def test_folder_of_a_killed_group_is_deleted_by_the_next_start(installation: Installation) -> None:
    killed = installation.start_worker()
    place = process_group.folder(killed.pid)
    poll(lambda: liveness.read_liveness(place), message="its liveness file")
    killed.kill()
    assert place.exists()
    ended = installation.start_worker()
    poll(lambda: not place.exists(), message="the folder is deleted")
    poll(lambda: liveness.read_liveness(process_group.folder(ended.pid)), message="its liveness file")
    ended.terminate()
    assert not process_group.folder(ended.pid).exists()


def test_hung_process_fails_liveness_and_stops_watchdog_pings(on: Installation, start: Start) -> None:
    group = start()
    group.wait("/healthz/ready", 200)
    poll(lambda: len(group.workers) == 2, message="both processes")
    stopped = group.workers[0]
    os.kill(group.process.pid, signal.SIGSTOP)  # else it would replace the other one
    os.kill(stopped, signal.SIGSTOP)
    try:
        group.wait("/healthz/live", 503, timeout=40)
        before = group.notifications.count("WATCHDOG=1")
        assert before > 0
        on.submit("plain", "p")
        on.wait_note("end p")  # the other process goes on
        assert group.notifications.count("WATCHDOG=1") == before
    finally:
        os.kill(stopped, signal.SIGCONT)
        os.kill(group.process.pid, signal.SIGCONT)
    group.wait("/healthz/live", 200)
    poll(lambda: group.notifications.count("WATCHDOG=1") > before, message="it pings again")


@pytest.mark.parametrize(
    ("harm", "said"), [("end-thread", "a thread died"), ("hang-thread", "a thread made no progress")]
)
def test_dead_or_hung_thread_fails_liveness_despite_heartbeats(
    on: Installation, start: Start, harm: str, said: str
) -> None:
    group = start(SYTQ_WORKER__PROCESSES="1", SYTQ_WORKER__SHUTDOWN_TIMEOUT="10m")
    group.wait("/healthz/ready", 200)
    # A housekeeping loop ends or hangs, while a task that ignores everything delays the orderly shutdown.
    on.hold("long")
    on.submit("plain", "long")
    on.wait_note("start long")
    on.submit(harm, "promote")
    poll(lambda: said in group.log.read_text(), message="the watchdog sees it")
    group.wait("/healthz/live", 503, timeout=40)
    assert any(worker.age < 4 for worker in on.runtime.inspection.workers()), "its heart beats"


def test_reload_applies_the_new_configuration_and_loses_no_task(on: Installation, start: Start) -> None:
    file = on.folder / "sytq.yaml"
    file.write_text("logger: {level: error}\n")
    group = start(SYTQ_CONFIG=str(file))
    poll(lambda: group.notifications.count("READY=1") == 1, message="systemd is notified")
    before = group.workers
    tasks = [on.submit(kind, f"{kind}-{n}", seconds=0.3) for n in range(20) for kind in ("plain", "gentle")]
    on.wait_note("start plain-0")
    file.write_text("logger: {level: info}\n")
    group.process.send_signal(signal.SIGHUP)
    for task in tasks:
        row = on.wait_state(task, "succeeded")
        assert row.attempts == 1
    poll(lambda: len(group.workers) == 2 and not set(group.workers) & set(before), message="new processes")
    group.wait("/healthz/ready", 200)
    assert group.process.poll() is None
    assert group.log.read_text().count("worker started") == 2, "those of the new configuration"
    poll(lambda: group.notifications.count("READY=1") == 2, message="systemd is notified again")


def test_every_log_line_of_a_worker_group_is_one_json_object(on: Installation, start: Start) -> None:
    group = start()
    group.wait("/healthz/ready", 200)
    before = group.workers
    group.process.send_signal(signal.SIGHUP)
    poll(lambda: len(group.workers) == 2 and not set(group.workers) & set(before), message="new processes")
    group.wait("/healthz/ready", 200)
    os.kill(group.workers[0], signal.SIGKILL)
    poll(lambda: "exited unexpectedly" in group.log.read_text(), message="the supervisor reports it")
    group.process.terminate()
    assert group.process.wait(90) == 0
    lines = [json.loads(line) for line in group.log.read_text().splitlines()]
    for line in lines:
        assert {"level", "msg", "time", "logger", "process"} <= set(line)
    assert {"sytq.worker.supervisor", "sytq.worker.lifecycle"} <= {line["logger"] for line in lines}


def test_a_killed_process_fails_no_probe_and_is_replaced(start: Start) -> None:
    group = start()
    group.wait("/healthz/ready", 200)
    poll(lambda: len(group.workers) == 2, message="both processes")
    before = group.workers
    answers = []
    for killed in before:
        os.kill(killed, signal.SIGKILL)
        poll(lambda killed=killed: answers.append(group.answer("/healthz/live")) or killed not in group.workers)
        poll(lambda: answers.append(group.answer("/healthz/live")) or len(group.workers) == 2)
    assert set(answers) == {200}
    assert not set(group.workers) & set(before)
    folder = group.on.folder / f"sytq-{os.getuid()}-{group.process.pid}"
    assert {file.name for file in folder.glob("[0-9]*")} == {str(pid) for pid in group.workers}, "none of the dead"


def test_a_hung_process_is_replaced_while_its_sibling_goes_on(on: Installation, start: Start) -> None:
    group = start()
    group.wait("/healthz/ready", 200)
    poll(lambda: len(group.workers) == 2, message="both processes")
    hung, sibling = group.workers
    os.kill(hung, signal.SIGSTOP)
    past = time.time() - 2 * liveness.FRESH
    os.utime(on.folder / f"sytq-{os.getuid()}-{group.process.pid}" / str(hung), (past, past))
    group.wait("/healthz/live", 503)
    poll(lambda: len(group.workers) == 2 and hung not in group.workers, message="a new process")
    group.wait("/healthz/live", 200)
    assert sibling in group.workers
    assert "worker process hangs: it is killed" in group.log.read_text()


def test_a_process_ended_by_its_watchdog_fails_no_probe_of_its_group(on: Installation, start: Start) -> None:
    group = start(SYTQ_WORKER__SHUTDOWN_TIMEOUT="10m")
    group.wait("/healthz/ready", 200)
    poll(lambda: len(group.workers) == 2, message="both processes")
    on.hold("long", "long-too")
    for name in ("long", "long-too"):
        on.submit("plain", name)
        on.wait_note(f"start {name}")
    on.submit("end-thread", "promote")
    poll(lambda: len(group.workers) == 1, message="it counts as dead while it finishes its task")
    assert group.answer("/healthz/live") == 200
    on.release("long", "long-too")
    poll(lambda: "exit status 70: ended by its watchdog" in group.log.read_text(), message="it has ended")
    poll(lambda: len(group.workers) == 2, message="a new process")
    assert on.notes()["start long"] == on.notes()["start long-too"] == 1


def test_a_worker_consumes_only_its_queues(on: Installation, start: Start) -> None:
    group = start(SYTQ_WORKER__QUEUES='["gentle"]', SYTQ_WORKER__PROCESSES="1")
    group.wait("/healthz/ready", 200)
    other = on.submit("plain", "other")
    on.wait_state(on.submit("gentle", "mine"), "succeeded")
    assert on.row(other).state == "queued"
    wrong = subprocess.run(
        [sys.executable, "-m", "sytq.cli", "worker"],
        env=on.environ | {"SYTQ_WORKER__QUEUES": '["gentel"]'},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert wrong.returncode == 2
    assert "'gentel' is not a queue; valid: " in wrong.stderr


def test_metrics_count_the_tasks_of_all_processes_of_a_group(on: Installation, start: Start) -> None:
    group = start(SYTQ_WORKER__THREADS="1")
    group.wait("/healthz/ready", 200)
    before = group.workers
    ended = 'sytq_task_seconds_count{outcome="succeeded",type="plain"}'
    for task in [on.submit("plain", f"t{n}", seconds=0.1) for n in range(10)]:
        on.wait_state(task, "succeeded")
    poll(lambda: group.counted().get(ended) == 10, message=lambda: str(group.counted()))
    counted = group.counted()
    assert counted['sytq_database_seconds_count{outcome="ok"}'] > 0, "the parent of the workers asked it before them"
    assert "sytq_workers" not in counted, "the API answers for the installation"
    # A reload resets the metrics, as a restart does.
    group.process.send_signal(signal.SIGHUP)
    poll(lambda: len(group.workers) == 2 and not set(group.workers) & set(before), message="new processes")
    group.wait("/healthz/ready", 200)
    on.wait_state(on.submit("plain", "after"), "succeeded")
    poll(lambda: group.counted().get(ended) == 1, message=lambda: str(group.counted()))
    assert list(on.folder.glob("sytq-*-*"))
    group.process.terminate()
    assert group.process.wait(60) == 0
    assert not list(on.folder.glob("sytq-*-*"))

"""`sytq worker` replaces a process that dies, alone: its siblings go on, and a crash loop is bounded."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sytq.observability import process_group
from sytq.worker import liveness
from sytq.worker.restarts import MAX_PAUSE, Restarts
from tests.installation import TRIALS, Installation
from tests.processes import Process
from tests.servers import poll

pytestmark = pytest.mark.faults
HARM = Path(__file__).parents[1] / "executor/watchdog_plugins"
#: A plugin whose loop cannot be made in a worker process, until the file beside it exists.
BROKEN = """
import pathlib
from sytq.plugins import Plugin

def make(runtime):
    if not pathlib.Path(__file__).with_suffix(".ready").exists():
        raise RuntimeError("the disk of the index is missing")

plugin = Plugin("broken", loops={"broken.index": make})
"""
OWN = """
from pydantic import BaseModel
from sytq import task

class Own(BaseModel):
    pass

@task("own", payload=Own, queue="own")
def own(ctx, payload):
    return {"own": 1}
"""


class Group:
    """A real `sytq worker`, its processes and what it has logged."""

    def __init__(self, on: Installation, **settings: str) -> None:
        self.on = on
        environ = on.environ | {"SYTQ_WORKER__PROCESSES": "2"} | settings
        self.process = Process(["sytq.cli", "worker"], environ, on.folder / "group.log")

    def wait_started(self, times: int) -> None:
        poll(lambda: self.process.text().count("worker started") >= times, message=self.process.text)

    def workers(self) -> list[int]:
        """The process ids of its worker processes."""
        return children(self.process.pid)

    def holder(self, task: str) -> int:
        """The process id of the worker that runs the task."""
        (name,) = [held.worker for held in self.on.runtime.inspection.running().items if held.id == task]
        return int(name.split("-")[-2])

    def lines(self, word: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.process.text().splitlines()]
        return [line for line in found if word in line["msg"]]

    def deaths(self) -> list[dict[str, Any]]:
        return self.lines("exited unexpectedly")


Start = Callable[..., Group]


@pytest.fixture
def installation(make_installation: Callable[..., Installation]) -> Installation:
    return make_installation(SYTQ_PLUGINS__PATHS=json.dumps([str(TRIALS), str(HARM)]))


@pytest.fixture
def start(installation: Installation) -> Iterator[Start]:
    """Starts a group with further settings; its processes end with the test."""
    started: list[Group] = []

    def start_group(**settings: str) -> Group:
        started.append(Group(installation, **settings))
        return started[-1]

    yield start_group
    for group in started:
        group.process.kill()


def test_p3_killed_process_is_replaced_and_its_sibling_goes_on(installation: Installation, start: Start) -> None:
    group = start(SYTQ_WORKER__THREADS="1")
    group.wait_started(2)
    names = ["a", "b", "c"]
    installation.hold(*names)
    tasks = {name: installation.submit("plain", name) for name in names}
    poll(lambda: installation.notes().total() == 2, message="one task on the one thread of each process")
    (waiting,) = [name for name in names if not installation.notes()[f"start {name}"]]
    first, second = [name for name in names if name != waiting]
    survivor = group.holder(tasks[second])
    installation.release(waiting)

    killed = time.time()
    os.kill(group.holder(tasks[first]), signal.SIGKILL)
    group.wait_started(3)
    assert time.time() - killed < 3, "the new process does not wait for the sibling's task"
    installation.wait_note(f"end {waiting}")
    assert installation.moments(f"end {waiting}")[0] - killed < 3, "it runs what waits"
    installation.wait_note(f"start {first}", times=2)
    assert installation.moments(f"start {first}")[1] - killed < 6
    assert survivor in group.workers()

    installation.release(first, second)
    rows = {name: installation.wait_state(task, "succeeded") for name, task in tasks.items()}
    assert {name: row.attempts for name, row in rows.items()} == dict.fromkeys((first, second, waiting), 1)
    assert group.process.terminate() == 0
    (death,) = group.deaths()
    assert (death["level"], death["error"]) == ("error", "killed by SIGKILL: out of memory, or somebody's kill -9")
    assert death["pid"] != survivor


def test_every_death_is_one_error_line_with_the_cause(installation: Installation, start: Start) -> None:
    group = start(SYTQ_WORKER__PROCESSES="3")
    group.wait_started(3)
    first, second, _ = group.workers()
    os.kill(first, signal.SIGSEGV)
    os.kill(second, signal.SIGTERM)
    group.wait_started(5)
    installation.submit("end-thread", "heartbeat")  # its watchdog ends the process
    group.wait_started(6)
    deaths = group.deaths()
    assert {line["error"] for line in deaths} == {
        "killed by SIGSEGV: a crash in native code",
        "exit status 0",
        "exit status 70: ended by its watchdog",
    }
    assert len(deaths) == 3
    assert {line["level"] for line in deaths} == {"error"}
    assert {first, second} <= {line["pid"] for line in deaths}
    assert group.process.terminate() == 0


def test_all_processes_killed_at_once_are_all_replaced(installation: Installation, start: Start) -> None:
    group = start()
    group.wait_started(2)
    installation.hold("a", "b")
    tasks = [installation.submit("gentle", name) for name in ("a", "b")]
    installation.wait_note("start a")
    installation.wait_note("start b")
    before = group.workers()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    group.wait_started(4)
    assert len(group.workers()) == 2
    assert not set(before) & set(group.workers())
    installation.release("a", "b")
    for task in tasks:
        assert installation.wait_state(task, "succeeded").attempts == 1
    assert group.process.terminate() == 0


def test_a_group_whose_processes_never_come_up_ends(installation: Installation, start: Start) -> None:
    group = start(SYTQ_PLUGINS__PATHS=_with_broken_plugin(installation))
    assert group.process.wait(60) == 1
    failed = group.lines("worker process failed")
    assert "the disk of the index is missing" in failed[0]["exception"]
    deaths = group.deaths()
    assert 5 <= len(deaths) <= 10
    assert {line["error"] for line in deaths} == {"exit status 1"}
    (last,) = [line for line in group.lines("") if line["level"] == "critical"]
    assert last["msg"].startswith("no worker process comes up: the group ends; correct")


def test_processes_that_come_up_late_run_tasks(installation: Installation, start: Start) -> None:
    paths = _with_broken_plugin(installation)
    group = start(SYTQ_PLUGINS__PATHS=paths)
    poll(lambda: len(group.deaths()) >= 4, message=group.process.text)
    (Path(json.loads(paths)[-1]) / "broken.ready").touch()
    group.wait_started(2)
    installation.wait_state(installation.submit("plain", "a"), "succeeded")
    assert group.process.terminate() == 0


def _with_broken_plugin(on: Installation) -> str:
    """`plugins.paths` with a plugin that starts nowhere."""
    folder = on.folder / "broken"
    folder.mkdir()
    (folder / "broken.py").write_text(BROKEN)
    return json.dumps([str(TRIALS), str(folder)])


def _kill_until_pause(group: Group) -> None:
    """Kill the group's only process four times: the next start is 2 s away then."""
    for deaths in range(4):
        group.wait_started(deaths + 1)
        (pid,) = group.workers()
        os.kill(pid, signal.SIGKILL)
        poll(lambda deaths=deaths: len(group.deaths()) > deaths, message=group.process.text)
    assert [line["retry_in"] for line in group.deaths()] == [0.0, 0.5, 1.0, 2.0]


@pytest.mark.skipif(sys.platform != "linux", reason="a signal to one thread, as Linux sends it")
def test_a_signal_that_another_thread_takes_ends_a_process(start: Start) -> None:
    group = start(SYTQ_WORKER__PROCESSES="1")
    folder = process_group.folder(group.process.pid)
    # Its watchdog says that it is ready: by then it waits for a signal.
    poll(lambda: any(process.ready for process in liveness.read_liveness(folder)), message=group.process.text)
    (worker,) = group.workers()
    others = [int(entry.name) for entry in Path(f"/proc/{worker}/task").iterdir() if entry.name != str(worker)]
    assert ctypes.CDLL(None).tgkill(worker, others[-1], signal.SIGTERM) == 0
    poll(lambda: group.lines("worker stopped"), timeout=20, message=group.process.text)


def test_sigterm_during_a_pause_ends_the_group_at_once(start: Start) -> None:
    group = start(SYTQ_WORKER__PROCESSES="1")
    _kill_until_pause(group)
    since = time.monotonic()
    assert group.process.terminate() == 0
    assert time.monotonic() - since < 1.5


def test_sighup_during_a_pause_starts_the_new_configuration_at_once(installation: Installation, start: Start) -> None:
    file = installation.folder / "sytq.yaml"
    file.write_text("worker: {queues: [plain]}")
    group = start(SYTQ_CONFIG=str(file), SYTQ_WORKER__PROCESSES="1")
    _kill_until_pause(group)
    file.write_text("worker: {queues: [gentle]}")
    group.process.signal_master(signal.SIGHUP)
    installation.wait_state(installation.submit("gentle", "a"), "succeeded")
    assert group.process.alive
    assert group.process.terminate() == 0


def test_a_new_process_has_the_configuration_and_code_of_its_siblings(
    make_installation: Callable[..., Installation], tmp_path: Path
) -> None:
    folder, file = tmp_path / "own", tmp_path / "sytq.yaml"
    folder.mkdir()
    (folder / "own.py").write_text(OWN)
    file.write_text("worker: {queues: [own]}")
    on = make_installation(SYTQ_PLUGINS__PATHS=json.dumps([str(TRIALS), str(folder)]), SYTQ_CONFIG=str(file))
    group = Group(on)
    try:
        group.wait_started(2)
        file.write_text("worker: {queues: [half")
        (folder / "own.py").write_text("half an edit (")
        for pid in group.workers():
            os.kill(pid, signal.SIGKILL)
        group.wait_started(4)
        assert on.wait_state(on.submit("own"), "succeeded").result == '{"own":1}'
    finally:
        group.process.kill()


@pytest.mark.parametrize(
    "command", [["sytq.cli", "worker"], ["dramatiq", "sytq.actors", "-p2", "-t2"]], ids=["sytq", "dramatiq"]
)
def test_processes_of_a_killed_first_process_finish_their_tasks_and_end(
    installation: Installation, command: list[str]
) -> None:
    environ = installation.environ | {"SYTQ_WORKER__SHUTDOWN_TIMEOUT": "60s"}
    process = Process(command, environ, installation.folder / "group.log")
    try:
        poll(lambda: process.text().count("worker started") == 2, message=process.text)
        workers = children(process.pid)
        installation.hold("a")
        task = installation.submit("gentle", "a")
        installation.wait_note("start a")
        process.signal_master(signal.SIGKILL)
        poll(lambda: sum(map(runs, workers)) == 1, message="the process without a task ends")
        installation.release("a")
        poll(lambda: not any(map(runs, workers)), message="the other one ends after it")
    finally:
        process.kill()
    live = installation.runtime.inspection.live([task])  # perhaps no worker is left to record it
    assert (live[task] if task in live else installation.row(task)).state == "succeeded"
    assert installation.notes() == {"start a": 1, "end a": 1}


def children(pid: int) -> list[int]:
    return sorted(int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def runs(pid: int) -> bool:
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


FORKS = """
import os, sys
from pathlib import Path
from sytq.observability import logs
from sytq.worker.member import Member
from sytq.worker.supervisor import Supervisor

logs.configure("info", "json", "worker")
fork, left = os.fork, [int(sys.argv[1])]
members = int(sys.argv[2])

def refused():
    if left[0]:
        left[0] -= 1
        raise BlockingIOError(11, "Resource temporarily unavailable")
    return fork()

def work(works, stop):
    works()
    os.kill(os.getppid(), 15)
    return stop.get() and 0

os.fork = refused
sys.exit(Supervisor([Member("worker process", work) for _ in range(members)], None, Path("/nonexistent")).run())
"""


@pytest.mark.parametrize(
    ("refusals", "members", "status"),
    [
        (3, 1, 0),
        (5, 1, 1),
        (9, 2, 1),  # the group has ended when the second one's fifth start would succeed
    ],
)
def test_a_refused_fork_is_tried_again_and_bounded(refusals: int, members: int, status: int) -> None:
    arguments = [sys.executable, "-c", FORKS, str(refusals), str(members)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    refused = [line for line in lines if line["msg"] == "worker process not started"]
    assert len(refused) == refusals
    assert "Resource temporarily unavailable" in refused[0]["error"]
    assert (done.returncode, any(line["level"] == "critical" for line in lines)) == (status, status != 0)


#: The first process hangs before it works or, with a liveness file, later; the second ends the group.
HANGS = """
import os, sys, time
from pathlib import Path
from sytq.observability import logs
from sytq.worker import liveness, supervisor
from sytq.worker.member import Member

logs.configure("info", "json", "worker")
liveness.FRESH = 0.3
supervisor._START_TIMEOUT, supervisor._TICK = 0.5, 0.1
folder, works_first = Path(sys.argv[1]), sys.argv[2] == "later"
hung = folder / "hung"

def work(works, stop):
    if not hung.exists():
        hung.touch()
        if works_first:
            liveness.LivenessFile(folder).touch(ready=True)
            works()
        time.sleep(60)
    works()
    os.kill(os.getppid(), 15)
    return stop.get() and 0

sys.exit(supervisor.Supervisor([Member("worker process", work)], None, folder).run())
"""


@pytest.mark.parametrize(
    ("when", "said_of_it"),
    [
        ("at its start", "worker process does not come up: it is killed"),
        ("later", "worker process hangs: it is killed, and its tasks run elsewhere"),
    ],
)
def test_the_only_process_of_a_group_is_replaced_when_it_hangs(when: str, said_of_it: str, tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", HANGS, str(tmp_path), when]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    said = [json.loads(line)["msg"] for line in done.stderr.splitlines()]
    assert said == [
        said_of_it,
        "worker process exited unexpectedly: a new one starts",
        "group stopping",
    ]
    assert done.returncode == 0


def test_restarts_are_immediate_then_slower_and_bounded() -> None:
    restarts = Restarts()
    assert [restarts.pause(1.0) for _ in range(8)] == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, MAX_PAUSE]
    assert {restarts.pause(1.0) for _ in range(2000)} == {MAX_PAUSE}
    assert [restarts.pause(100.0), restarts.pause(1.0)] == [0.0, 0.5], "it had run well"

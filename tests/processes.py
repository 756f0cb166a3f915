"""A process under test, with its log: a worker, or gunicorn with the API."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tests import forkserver
from tests.servers import poll

ROOT = Path(__file__).parents[1]
GUNICORN_CONF = ROOT / "etc" / "gunicorn.conf.py"


def worker_command(threads: int) -> list[str]:
    """A worker as deployed: one master with one process."""
    # Dramatiq's master supervises its workers only after all have booted or after the fork timeout; a worker that its
    # first task kills never reports its boot.
    return [
        *("dramatiq", "sytq.actors", "-p1", f"-t{threads}"),
        *("--worker-fork-timeout=1000", "--worker-shutdown-timeout=2000"),
    ]


def gunicorn_command(conf: Path = GUNICORN_CONF) -> list[str]:
    """The API as deployed."""
    return ["gunicorn", "-c", str(conf), "sytq.api:create_app()"]


class Process:
    """A master and its workers, in a process group of their own; `command` is a Python module and its arguments.

    With `fresh` it imports sytq and its plugins itself, rather than being forked from a process that did.
    """

    def __init__(self, command: Sequence[str], environ: dict[str, str], log: Path, *, fresh: bool = False) -> None:
        self.log = log
        self._process = (_started if fresh else _forked)(command, environ, log)

    def wait_ready(self, ready: Callable[[], bool]) -> None:
        poll(lambda: not self.alive or ready(), timeout=90, message=self.text)
        assert ready(), self.text()

    def text(self) -> str:
        """What it has logged so far."""
        return self.log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """Process id of the master."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to master and workers."""
        os.killpg(self._process.pid, number)

    def signal_master(self, number: signal.Signals) -> None:
        """Send a signal to the master alone."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """Send SIGKILL to master and workers at once. Harmless twice."""
        with contextlib.suppress(ProcessLookupError):  # workers may outlive their master
            self.signal(signal.SIGKILL)
        self._process.kill()  # a process that was forked just now may not have its group yet
        self._process.wait(40)

    def terminate(self) -> int:
        """SIGTERM to the master alone, as systemd's KillMode=mixed does; wait for the end and return its code."""
        self._process.terminate()
        return self.wait(60)

    def wait(self, timeout: float) -> int:
        return self._process.wait(timeout)


def _forked(command: Sequence[str], environ: dict[str, str], log: Path) -> forkserver.Process:
    module, *arguments = command
    return forkserver.Process(module, arguments, environ=environ, stdout=log, cwd=log.parent)


def _started(command: Sequence[str], environ: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            env=environ,
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

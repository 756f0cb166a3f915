"""The processes that `sytq dev` starts: one class for the API and the worker, and a guard for the worst case.

Owns how they are started, ended and, after a supervisor that was killed with -9, found again. Must not know
what they do.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence

from sytq.dev.folder import DevError, Folder
from sytq.embedded import lock

_KILL_TIMEOUT = 5.0  # seconds until killed processes must be gone
_LAST_LINES = 5


class Child:
    """A server process in a session of its own: Ctrl-C in the terminal reaches the supervisor alone.

    It inherits a locked file, which its own children inherit from it: while that is locked the process group
    still lives, so its number cannot be anyone else's. `grace` is in seconds.
    """

    def __init__(self, name: str, command: Sequence[str], folder: Folder, grace: float = 0.0) -> None:
        self.name = name
        self.log = folder.log(name)
        self._command = command
        self._alive = folder.alive(name)
        self._grace = grace
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """The process, while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self, environ: Mapping[str, str]) -> None:
        """Start it. Raises DevError when what ran before cannot be ended."""
        self.end_leftover()
        held = lock(self._alive)
        assert held is not None
        try:
            os.ftruncate(held, 0)
            with self.log.open("ab") as output:
                self._process = await asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=environ,
                    start_new_session=True,
                    pass_fds=[held],
                )
            os.write(held, f"{self._process.pid}\n".encode())
        finally:
            os.close(held)

    async def ended(self) -> int:
        """Wait until it has ended, and end what it left; the exit status, negative for a signal."""
        assert self._process is not None
        status = await self._process.wait()
        self.kill()
        return status

    async def stop(self) -> None:
        """End it with SIGTERM and, `grace` seconds later, with SIGKILL. Harmless twice."""
        if self._process is None:
            return
        if self._process.returncode is None:
            # The master alone: its workers would take a second signal, the group's, for "at once".
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), self._grace)
        self.kill()
        await self._process.wait()

    def kill(self) -> None:
        """End it and all that it started now."""
        if self._process is not None:
            # A group whose leader has just ended: the kernel hands its number out again only after all others.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def end_leftover(self) -> bool:
        """End what an earlier run left; False when there is nothing. Raises DevError when it will not end."""
        if not self._lives():
            return False
        # At once: a worker may be killed at any instruction, and the port is wanted.
        with contextlib.suppress(OSError, ValueError):
            os.killpg(int(self._alive.read_text()), signal.SIGKILL)
        deadline = time.monotonic() + _KILL_TIMEOUT
        while self._lives():
            if time.monotonic() > deadline:
                raise DevError(
                    f"the {self.name} of an earlier run still lives and cannot be ended: it has {self._alive} open"
                )
            time.sleep(0.02)
        return True

    def last_lines(self) -> list[str]:
        """The end of its log."""
        with contextlib.suppress(OSError), self.log.open("rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - 4096))
            return log.read().decode(errors="replace").splitlines()[-_LAST_LINES:]
        return []

    def _lives(self) -> bool:
        held = lock(self._alive)
        if held is None:
            return True
        os.close(held)
        return False


class Guard:
    """A shell that reads from the supervisor and, when that ends without a goodbye, ends the children.

    So a killed supervisor leaves no worker that works on without its provider, nor an API on the port.
    """

    _SCRIPT = 'while read -r said; do pids=$said; done; [ -z "$pids" ] || kill -TERM $pids'

    def __init__(self) -> None:
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", self._SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def watch(self, children: Iterable[Child]) -> None:
        """From now on these."""
        self._say(" ".join(str(child.pid) for child in children if child.pid))

    def close(self) -> None:
        """The goodbye."""
        self._say("")
        assert self._shell.stdin is not None
        with contextlib.suppress(OSError):
            self._shell.stdin.close()
        self._shell.wait()

    def _say(self, line: str) -> None:
        assert self._shell.stdin is not None
        with contextlib.suppress(OSError):  # a guard that somebody killed is missed only if we are killed too
            self._shell.stdin.write(f"{line}\n".encode())
            self._shell.stdin.flush()

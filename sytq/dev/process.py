"""The processes of `sytq dev`: starts and ends API and worker, and finds them again after a killed supervisor."""

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

    The process and its children inherit a locked file: while the file is locked, the process group is alive, so its id
    cannot belong to anyone else. `grace` is in seconds.
    """

    def __init__(self, name: str, command: Sequence[str], folder: Folder, grace: float = 0.0) -> None:
        self.name = name
        self.log = folder.log(name)
        self.replacing = asyncio.Lock()  # held while the process is replaced by a new one
        self._command = command
        self._alive = folder.alive(name)
        self._grace = grace
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """The process id, while the process is running."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self, environ: Mapping[str, str]) -> None:
        """Start the process. Raises DevError when the process of an earlier run cannot be ended."""
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
        """Wait for the end, kill leftover children and return the exit status, negative for a signal."""
        assert self._process is not None
        status = await self._process.wait()
        self.kill()
        return status

    async def stop(self) -> None:
        """Send SIGTERM and, after `grace` seconds, SIGKILL. Idempotent."""
        if self._process is None:
            return
        if self._process.returncode is None:
            # The master alone: its workers would take a second signal, from the group, as "at once".
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), self._grace)
        self.kill()
        await self._process.wait()

    def kill(self) -> None:
        """Kill the process and its children now."""
        if self._process is not None:
            # The leader has just ended, and the kernel reuses its id only after all others.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def end_leftover(self) -> bool:
        """Kill what an earlier run left behind; False when there is nothing. Raises DevError when that fails."""
        if not self._lives():
            return False
        # With SIGKILL: a worker may be killed at any instruction, and the port is needed.
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
    """A shell that ends the children when the supervisor dies without releasing them.

    A killed supervisor thus leaves neither a worker without its provider nor an API on the port.
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
        """Watch over these children from now on."""
        self._say(" ".join(str(child.pid) for child in children if child.pid))

    def close(self) -> None:
        """Release all children: the supervisor has ended them itself."""
        self._say("")
        assert self._shell.stdin is not None
        with contextlib.suppress(OSError):
            self._shell.stdin.close()
        self._shell.wait()

    def _say(self, line: str) -> None:
        assert self._shell.stdin is not None
        with contextlib.suppress(OSError):  # a killed guard matters only if the supervisor is killed too
            self._shell.stdin.write(f"{line}\n".encode())
            self._shell.stdin.flush()

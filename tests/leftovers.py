"""What a run of the tests leaves behind: processes, and entries of the temporary directory.

The run has a temporary directory of its own, which every process of it inherits. That also tells its processes from
others of the machine.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path


def begin() -> Path:
    """Give this process and its children a new temporary directory; pytest's own stays where it was."""
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    folder = tempfile.mkdtemp(prefix="sytq-tests-")
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    return Path(folder)


def end(folder: Path) -> list[str]:
    """Kill the processes that still run and delete the folder; return their commands, and what it held.

    A process that is about to end, as its master was killed, has some seconds for it.
    """
    left = []
    deadline = time.monotonic() + 5
    while any(_processes(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid, command in _processes(folder):
        left.append(f"process {pid}: {command[:200]}")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    left += [str(entry) for entry in folder.iterdir()]
    shutil.rmtree(folder, ignore_errors=True)  # a killed server may still be writing
    return left


def _processes(folder: Path) -> Iterator[tuple[int, str]]:
    inherited = f"TMPDIR={folder}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # A server may overwrite its environment with its title: its folder tells it.
            ours = inherited in (process / "environ").read_bytes().split(b"\0")
            if int(process.name) != os.getpid() and (ours or folder in (process / "cwd").readlink().parents):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if command:  # else it has ended and waits for its parent
                    yield int(process.name), command

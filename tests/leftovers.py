"""What a run of the tests leaves behind: processes, and entries of the temporary directory.

The run has a temporary directory of its own, which every process of it inherits. That also tells its processes from
others of the machine.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


def begin() -> Path:
    """Give this process and its children a new temporary directory; pytest's own stays where it was."""
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    folder = tempfile.mkdtemp(prefix="sytq-tests-")
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    return Path(folder)


def end(folder: Path) -> list[str]:
    """Delete the folder; return the names of what it held and the commands of the processes that still run."""
    left = [*_processes(folder), *(str(entry) for entry in folder.iterdir())]
    shutil.rmtree(folder)
    return left


def _processes(folder: Path) -> Iterator[str]:
    inherited = f"TMPDIR={folder}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # A server may overwrite its environment with its title: its folder tells it.
            ours = inherited in (process / "environ").read_bytes().split(b"\0")
            if int(process.name) != os.getpid() and (ours or folder in (process / "cwd").readlink().parents):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if command:  # else it has ended and waits for its parent
                    yield f"process {process.name}: {command[:200]}"

"""Vital signs: a file for each worker process of a group, touched as long as all its threads go round.

Owns where the files are and what their age means. The watchdog of a process writes its own, the group's warden reads
them; neither asks Redis. A process that hangs as a whole writes none, which nothing inside of it could notice.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

#: A process whose file is older than this (seconds) is not alive; it writes twice a second.
FRESH = 20.0


@dataclass(frozen=True, slots=True)
class ProcessLiveness:
    """What one process of the group last said: `age` in seconds, and whether Redis took its last heartbeat."""

    pid: int
    age: float
    ready: bool

    @property
    def alive(self) -> bool:
        return self.age < FRESH


def folder(master: int) -> Path:
    """The folder of the group whose master process is `master`."""
    base = os.environ.get("RUNTIME_DIRECTORY") or tempfile.gettempdir()
    return Path(base.split(":")[0]) / f"sytq-{os.getuid()}-{master}"


class LivenessFile:
    """This process's own file. Raises OSError where it cannot be written."""

    def __init__(self, place: Path) -> None:
        place.mkdir(mode=0o700, exist_ok=True)
        if place.is_symlink() or place.stat().st_uid != os.getuid():
            raise PermissionError(f"{place} belongs to somebody else")
        self._file = place / str(os.getpid())
        self._left = False

    def give(self, *, ready: bool) -> None:
        """Say that all is well."""
        if not self._left:
            self._file.write_text("ready" if ready else "")

    def remove(self) -> None:
        """Leave: from now on nobody misses this process."""
        self._left = True
        self._file.unlink(missing_ok=True)


def read_liveness(place: Path) -> list[ProcessLiveness]:
    """What the processes of a group last said; those that have ended say nothing."""
    found = []
    for file in place.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            os.kill(int(file.name), 0)
            age = time.time() - file.stat().st_mtime
            found.append(ProcessLiveness(int(file.name), max(age, 0.0), file.read_text() == "ready"))
    return found

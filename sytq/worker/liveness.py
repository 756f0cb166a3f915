"""Liveness files: one per worker process of a group, touched by its watchdog while all its threads make progress.

The group's health server reads them, so it also notices a process that hangs as a whole. Neither asks Redis.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

#: A process whose file is older than this (seconds) is not alive; it writes twice a second.
FRESH = 20.0


@dataclass(frozen=True, slots=True)
class ProcessLiveness:
    """Whether one process makes progress, and whether Redis took its last heartbeat."""

    pid: int
    alive: bool
    ready: bool


class LivenessFile:
    """This process's own file in its group's folder. Raises OSError when it cannot be made."""

    def __init__(self, place: Path) -> None:
        self._file = place / str(os.getpid())
        self._file.touch()  # at once: a process that ends removes an empty folder
        self._removed = False

    def touch(self, *, ready: bool) -> None:
        """Note that all threads make progress."""
        if not self._removed:
            self._file.write_text("ready" if ready else "")

    def remove(self) -> None:
        """Remove the file: this process is no longer expected to be alive."""
        self._removed = True
        self._file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty before the group's last process has removed its file
            self._file.parent.rmdir()


def remove(place: Path, pid: int) -> None:
    """Remove the file of a process that has died: another process may get its id."""
    with contextlib.suppress(OSError):
        (place / str(pid)).unlink()


def read_liveness(place: Path) -> list[ProcessLiveness]:
    """Return the liveness of a group's existing processes."""
    found = []
    for file in place.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            os.kill(int(file.name), 0)
            alive = time.time() - file.stat().st_mtime < FRESH  # noqa: TID251
            found.append(ProcessLiveness(int(file.name), alive, ready=file.read_text() == "ready"))
    return found


def can_be_written(place: Path) -> bool:
    """Whether a living process can write its file: not on a full disk."""
    file = place / "writable"
    try:
        file.write_text("ready")
        file.unlink()
    except OSError:
        return False
    return True

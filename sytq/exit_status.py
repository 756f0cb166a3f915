"""The exit status of a process in words, and what the kernel's out-of-memory killer has ended."""

from __future__ import annotations

import contextlib
import re
import signal
from pathlib import Path

#: Of a process that its watchdog ended (EX_SOFTWARE of sysexits.h).
WATCHDOG = 70
#: Of an isolated process that found no suspect that may run now (EX_TEMPFAIL).
NONE_FOUND = 75
_CONTROL_GROUPS = Path("/sys/fs/cgroup")
_OOM_KILLS = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)
_SIGNALS = {
    **dict.fromkeys((signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV), "a crash in native code"),
    signal.SIGABRT: "aborted by native code",
    signal.SIGKILL: "out of memory, or somebody's kill -9",
    signal.SIGSYS: "a system call that the service may not make",
    signal.SIGXCPU: "the limit of CPU time",
}


def describe(status: int, *, out_of_memory: bool = False) -> str:
    """Return an exit status in words; negative means a signal, as in `subprocess` and `os.waitstatus_to_exitcode`.

    `out_of_memory` says that `oom_kills` has risen meanwhile.
    """
    if status == -signal.SIGKILL and out_of_memory:
        return "killed by SIGKILL: out of memory, by the kernel"
    if status < 0:
        try:
            number = signal.Signals(-status)
        except ValueError:  # a real-time signal
            return f"killed by signal {-status}"
        cause = _SIGNALS.get(number)
        return f"killed by {number.name}: {cause}" if cause else f"killed by {number.name}"
    if status == WATCHDOG:
        return f"exit status {status}: ended by its watchdog"
    return f"exit status {status}"


def oom_kills(own: Path = Path("/proc/self/cgroup"), mounted: Path = _CONTROL_GROUPS) -> int | None:
    """How many processes of this control group the kernel has killed for lack of memory; None where it does not say.

    A process killed by a limit counts, as does one killed because the whole machine is out of memory.
    """
    for file in _counters(own, mounted):
        with contextlib.suppress(OSError):
            if found := _OOM_KILLS.search(file.read_text()):
                return int(found[1])
    return None


def _counters(own: Path, mounted: Path) -> list[Path]:
    """The files that may have the count: of cgroup v2 and v1, by path and, in a container, at the top."""
    files = []
    with contextlib.suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            # A container may see the path of its host, where nothing is mounted.
            for place in (path.lstrip("/"), ""):
                if not controllers:
                    files.append(mounted / place / "memory.events")
                elif "memory" in controllers.split(","):
                    files.append(mounted / "memory" / place / "memory.oom_control")
    return files

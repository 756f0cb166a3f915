"""The exit status of a process in words, and the kernel's count of what it killed for lack of memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sytq.exit_status import describe, oom_kills


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("raise SystemExit(3)", "exit status 3"),
        ("raise SystemExit(70)", "exit status 70: ended by its watchdog"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL: out of memory, or somebody's kill -9"),
        ("import os; os.kill(os.getpid(), 11)", "killed by SIGSEGV: a crash in native code"),
        ("import os; os.abort()", "killed by SIGABRT: aborted by native code"),
        ("import os; os.kill(os.getpid(), 15)", "killed by SIGTERM"),
    ],
)
def test_a_process_end_is_described_by_its_exit_status(program: str, said: str) -> None:
    assert describe(subprocess.run([sys.executable, "-c", program], timeout=60).returncode) == said


def test_a_real_time_signal_without_a_name_is_described_by_its_number() -> None:
    number = signal.SIGRTMIN + 3
    assert describe(-number) == f"killed by signal {number:d}"


def test_sigkill_while_the_kernel_counts_a_kill_is_out_of_memory() -> None:
    assert describe(-9, out_of_memory=True) == "killed by SIGKILL: out of memory, by the kernel"
    assert describe(-15, out_of_memory=True) == "killed by SIGTERM", "the kernel kills with SIGKILL"


#: Of cgroup v2, and what cgroup v1 has in memory.oom_control.
EVENTS = "low 0\nhigh 3\nmax 41\noom 5\noom_kill 2\noom_group_kill 1\n"
CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"


@pytest.mark.parametrize(
    ("own", "file", "text", "count"),
    [
        ("0::/system.slice/sytq.service\n", "system.slice/sytq.service/memory.events", EVENTS, 2),
        ("0::/\n", "memory.events", EVENTS, 2),
        ("0::/docker/4f1e\n", "memory.events", EVENTS, 2),
        ("5:cpu,cpuacct:/x\n4:memory:/x\n0::/\n", "memory/x/memory.oom_control", CONTROL, 2),
        ("4:memory:/docker/4f1e\n0::/\n", "memory/memory.oom_control", CONTROL, 2),
        ("4:hugetlb,memory:/x\n", "memory/x/memory.oom_control", CONTROL, 2),
        ("4:memory:/x\n", "memory/x/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n", None),
        ("0::/\n", "memory.current", "4096\n", None),
    ],
    ids=["v2", "v2 root of a namespace", "v2 of the host", "v1", "v1 of the host", "v1 shared", "linux 4.12", "none"],
)
def test_out_of_memory_kills_of_the_own_control_group_are_counted(
    tmp_path: Path, own: str, file: str, text: str, count: int | None
) -> None:
    (tmp_path / "own").write_text(own)
    place = tmp_path / "mounted" / file
    place.parent.mkdir(parents=True)
    place.write_text(text)
    assert oom_kills(tmp_path / "own", tmp_path / "mounted") == count


def test_a_system_without_control_groups_counts_nothing(tmp_path: Path) -> None:
    assert oom_kills(tmp_path / "missing", tmp_path) is None
    assert oom_kills() is None or os.path.isdir("/sys/fs/cgroup")

"""A real `sytq dev` in a folder: starts it, reads its output and finds its processes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

from tests import forkserver
from tests.servers import free_port, poll

_MARK = "DEV_RUN_OF_TESTS"


class Dev:
    """One `sytq dev`; the processes that it starts carry a mark in their environment."""

    def __init__(self, folder: Path, *arguments: str, port: int | None = None, **variables: str) -> None:
        self.port = port or free_port()
        self.api = f"http://127.0.0.1:{self.port}"
        self.mark = uuid.uuid4().hex
        self._folder = folder
        self._output = folder / f"terminal-{self.mark}"
        environ = {name: value for name, value in os.environ.items() if not name.startswith("SYTQ_")}
        self.process = forkserver.Process(
            "sytq.cli",
            ["dev", "--port", str(self.port), *arguments],
            environ=environ | {_MARK: self.mark} | variables,
            stdout=self._output,
            cwd=folder,
        )

    @property
    def said(self) -> str:
        return self._output.read_text(errors="replace")

    def until_said(self, pattern: str, times: int = 1, timeout: float = 120.0) -> re.Match[str]:
        """Wait until the output has the pattern this many times; return the last match."""

        def found() -> re.Match[str] | None:
            matches = list(re.finditer(pattern, self.said))
            assert len(matches) >= times or self.process.poll() is None, self.said
            return matches[-1] if len(matches) >= times else None

        match = poll(found, timeout=timeout, message=lambda: self.said)
        assert match is not None
        return match

    def wait(self, timeout: float = 120.0) -> int:
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {timeout:g} s: {self.said}") from None

    def processes(self) -> dict[int, str]:
        """Pid and command line of every live process of this run, including Redis and the guard."""
        supervisor = {self.process.pid: "sytq dev"} if self.process.poll() is None else {}
        return supervisor | dict(_all_with(self.mark, self._folder / ".sytq" / "redis"))

    def pid_of(self, *words: str) -> int:
        """The first process whose command line has all these words."""
        processes = self.processes()
        found = [pid for pid, command in processes.items() if all(word in command for word in words)]
        assert found, processes
        return min(found)

    def kill_all(self) -> None:
        """Kill every process of this run."""
        while processes := self.processes():
            for pid in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.poll()


def _all_with(mark: str, redis_folder: Path) -> Iterator[tuple[int, str]]:
    wanted = f"{_MARK}={mark}"
    if not Path("/proc/self/environ").exists():
        listed = subprocess.run(["ps", "-axEww", "-o", "pid=,command="], capture_output=True, text=True, check=True)
        for line in listed.stdout.splitlines():
            if wanted in line:
                pid, _, command = line.strip().partition(" ")
                yield int(pid), command
        return
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            with contextlib.suppress(OSError):
                ours = wanted.encode() in (process / "environ").read_bytes().split(b"\0")
                # Redis overwrites its environment with its title; it is found by its folder.
                if ours or (process / "cwd").readlink() == redis_folder:
                    yield int(process.name), (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()

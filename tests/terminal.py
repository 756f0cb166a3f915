"""The installed program `sytq`, with files or on a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from pathlib import Path

from tests import forkserver

PROGRAM = str(Path(sys.executable).with_name("sytq"))


def sytq(
    *arguments: str, environ: Mapping[str, str], stdin: str = "", cwd: Path = forkserver.ROOT
) -> subprocess.CompletedProcess[str]:
    """Run `sytq` without a terminal and wait for its end."""
    return forkserver.run(PROGRAM, arguments, environ=dict(environ), input=stdin, cwd=cwd)


def clean_environ(**settings: str) -> dict[str, str]:
    """The environment of the tests without settings of sytq, and with these."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SYTQ_")} | settings


def _take_terminal() -> None:
    """Make Ctrl-C a signal, not ignored as in background processes of a shell."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """`sytq` on a terminal of its own; `text` is the output so far."""

    def __init__(self, *arguments: str, environ: Mapping[str, str], columns: int = 120, lines: int = 40) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.process = subprocess.Popen(
            [PROGRAM, *arguments],
            env={key: value for key, value in environ.items() if key not in ("COLUMNS", "LINES")}
            | {"TERM": "xterm-256color"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(slave)
        self.text = ""

    def wait_for(self, words: str, timeout: float = 90) -> str:
        """Read until `words` were shown."""
        deadline = time.monotonic() + timeout
        while words not in self.text:
            assert time.monotonic() < deadline, f"'{words}' was not shown: {self.text[-3000:]}"
            assert self.read(0.1) or self.process.poll() is None, f"ended without '{words}': {self.text[-3000:]}"
        return self.text

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def ended(self, timeout: float = 90) -> int:
        """Read to the end and return the exit status."""
        deadline = time.monotonic() + timeout
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it goes on: {self.text[-3000:]}"
            self.read(0.1)
        while self.read(0.0):
            pass
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(40)
        os.close(self._master)

    def read(self, seconds: float = 0.1) -> bool:
        """Read the output of some time; False without output."""
        if not select.select([self._master], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # the other end is closed
            return False
        self.text += data.decode(errors="replace")
        return bool(data)

"""`sytq` commands, run by one long-lived process."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.installation import Installation

ROOT = Path(__file__).parents[2]

#: Starting Python and importing sytq takes most of a command's time, so one process runs the commands one after the
#: other, each as `sytq` would: its own arguments, environment and exit status.
SHELL = """
import contextlib, io, json, os, sys
from sytq.cli import main
for line in sys.stdin.buffer:
    arguments, environ = json.loads(line)
    out, err, status = io.StringIO(), io.StringIO(), 0
    os.environ.clear()
    os.environ.update(environ)
    sys.argv = ["sytq", *arguments]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            status = end.code or 0
    print(json.dumps([status, out.getvalue(), err.getvalue()]), flush=True)
"""


@dataclass(frozen=True)
class Done:
    stdout: str
    stderr: str


class Shell:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SHELL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )

    def run(self, arguments: Sequence[str], environ: dict[str, str]) -> tuple[int, Done]:
        assert self.process.stdin and self.process.stdout
        print(json.dumps([arguments, environ]), file=self.process.stdin, flush=True)
        status, stdout, stderr = json.loads(self.process.stdout.readline())
        return status, Done(stdout, stderr)


@functools.cache
def shell() -> Shell:
    return Shell()


def run(installation: Installation, *arguments: str, status: int = 0) -> Done:
    code, done = shell().run(arguments, installation.environ)
    assert code == status, done
    assert "Traceback" not in done.stderr
    return done


def found(installation: Installation, *arguments: str) -> Any:
    return json.loads(run(installation, *arguments, "--json").stdout)


def payload(installation: Installation, name: str, seconds: float = 0.0) -> str:
    return json.dumps({"journal": str(installation.journal), "name": name, "seconds": seconds})

"""Starts Python programs by forking a process that has imported sytq already.

A program (`python -m MODULE ARGUMENTS`, or `python PATH ARGUMENTS`) gets a process of its own, with its own session,
environment, folder, arguments and exit status. It only lacks the second that imports take, which most tests of workers
and commands are not about. A test of readiness, imports or the installed script uses `subprocess`. What Python reads
as it starts (PYTHONHASHSEED, PYTHONUTF8, TZ...) is that of the tests.
"""

from __future__ import annotations

import functools
import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

ROOT = Path(__file__).parents[1]
#: Imported before the first fork. Modules whose import has effects (sytq.actors, gunicorn_conf) must not be here.
_PACKAGES = ("sytq.api", "sytq.broker", "sytq.cli", "sytq.executor", "sytq.ledger", "sytq.service", "sytq.worker")
_MODULES = (
    "aiohttp",
    "dramatiq.cli",
    "genai_prices",
    "gunicorn.app.wsgiapp",
    "gunicorn.workers.gasgi",
    "jinja2",
    "jsonschema",
    "rich.table",
    "standardwebhooks",
    "sytq.api.app",
    "sytq.runtime",
    "sytq.worker_runtime",
    "yaml",
)
_EFFECTS = ("sytq.api.gunicorn_conf", "sytq.cli.__main__")


class Process:
    """A forked program, with the part of subprocess.Popen's interface that tests use."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        environ: dict[str, str],
        stdout: Path,
        stderr: Path | None = None,
        stdin: Path | None = None,
        cwd: Path = ROOT,
    ) -> None:
        self.args = [module, *arguments]
        self.returncode: int | None = None
        stdout.touch()  # it can be read at once
        paths = [str(path) for path in (stdin or os.devnull, stdout, stderr or stdout)]
        self.pid: int = _server().ask(
            module=module, arguments=list(arguments), environ=environ, paths=paths, cwd=str(cwd)
        )

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = _server().ask(pid=self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            time.sleep(0.005)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(
    module: str,
    arguments: Sequence[str],
    *,
    environ: dict[str, str],
    input: str = "",
    cwd: Path = ROOT,
    timeout: float = 60.0,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, as `subprocess.run(..., capture_output=True, text=True)` does."""
    with tempfile.TemporaryDirectory(prefix="sytq-run-") as folder:
        stdin, stdout, stderr = (Path(folder, name) for name in ("stdin", "stdout", "stderr"))
        stdin.write_text(input)
        process = Process(module, arguments, environ=environ, stdin=stdin, stdout=stdout, stderr=stderr, cwd=cwd)
        try:
            process.wait(timeout)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)
        return subprocess.CompletedProcess(process.args, process.wait(), stdout.read_text(), stderr.read_text())


class _Server:
    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("SYTQ_", "PROMETHEUS_"))}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.forkserver", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=environ,
                cwd=ROOT,
                start_new_session=True,  # Ctrl-C is for the tests, which end what they started
            )
        self._lock = threading.Lock()
        self._stream = ours.makefile("rwb")
        ours.close()

    def ask(self, **request: Any) -> Any:
        with self._lock:
            self._stream.write(json.dumps(request).encode() + b"\n")
            self._stream.flush()
            reply = self._stream.readline()
        assert reply, f"the fork server ended with {self._process.wait()}"
        return json.loads(reply)

    def close(self) -> None:
        self._stream.close()
        self._process.wait(10)


@functools.cache
def _server() -> _Server:
    return _Server()


def stop() -> None:
    """End the server, if one was started; what it started goes on."""
    if _server.cache_info().currsize:
        _server().close()


def _import() -> None:
    import sytq.plugins

    for package in _PACKAGES:
        path = importlib.import_module(package).__path__
        for module in pkgutil.walk_packages(path, package + "."):
            if module.name not in _EFFECTS:
                importlib.import_module(module.name)
    for name in _MODULES:
        importlib.import_module(name)
    sytq.plugins.find(())
    gc.collect()
    gc.freeze()  # else each fork would copy the memory of all objects at its first collection


def _serve(stream: IO[bytes]) -> dict[str, Any]:
    """Answer requests until the tests end; return what to run in each forked process."""
    for line in stream:
        request = json.loads(line)
        if "pid" in request:
            pid, status = os.waitpid(request["pid"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        elif answer := os.fork():
            pass
        else:
            return dict(request)
        stream.write(json.dumps(answer).encode() + b"\n")
        stream.flush()
    sys.exit()


def _run(module: str, arguments: list[str], environ: dict[str, str], paths: list[str], cwd: str) -> NoReturn:
    from prometheus_client import values

    os.setsid()
    os.chdir(cwd)
    for number, path in enumerate(paths):
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND if number else os.O_RDONLY
        opened = os.open(path, flags, 0o644)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environ)
    values.ValueClass = values.get_value_class()  # it read the environment at its import
    first = os.path.dirname(module) if os.path.isabs(module) else cwd
    sys.path[0:1] = [first, *filter(None, environ.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = [module, *arguments]
    warnings.filterwarnings("ignore", module="runpy", category=RuntimeWarning)  # the module is imported already
    if os.path.isabs(module):
        runpy.run_path(module, run_name="__main__")
    else:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit()


def main() -> NoReturn:
    _import()
    with socket.socket(fileno=int(sys.argv[1])) as control, control.makefile("rwb") as stream:
        request = _serve(stream)
    _run(**request)


if __name__ == "__main__":
    main()

"""The first process of a container: `python -m sytq.worker.reaper COMMAND ...`.

Owns what an init owes: signals go to the command, orphans are reaped, and the command's end is the container's.
`--probe` instead of a command is the container's health check. Only that imports anything of the service.
"""

from __future__ import annotations

import os
import signal
import sys
import urllib.request
from types import FrameType

_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def run(command: list[str]) -> int:
    """Run a command to its end and return its exit status, 128 and the signal when one ended it."""
    # Blocked until the handlers stand: a signal in between must not be lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
        try:
            os.execvp(command[0], command)  # noqa: S606 (no shell on purpose)
        except OSError as error:
            print(f"{command[0]}: {error.strerror}", file=sys.stderr)
            os._exit(127)

    def pass_on(number: int, frame: FrameType | None) -> None:
        os.kill(child, number)

    for number in _PASSED_ON:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
    while True:
        ended, status = os.wait()
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def probe() -> int:
    """Return 0 when an API or a worker group here says that it lives."""
    for port in _ports():
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz/live", timeout=2):
                return 0
        except OSError:
            continue
    return 1


def _ports() -> tuple[int, int]:
    """The API's and the workers'."""
    from sytq.config import load
    from sytq.errors import ConfigError

    try:
        settings = load(plugins=False)
    except ConfigError as error:  # what runs goes on with what it began with, most likely there
        print(error, file=sys.stderr)
        return 8080, 8081
    return settings.api.port, settings.worker.port or 8081


if __name__ == "__main__":
    sys.exit(probe() if sys.argv[1:] == ["--probe"] else run(sys.argv[1:]))

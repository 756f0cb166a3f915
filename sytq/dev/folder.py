"""The folder of `sytq dev` (`.sytq`): who has it, and what lies where in it.

Owns the folder's lock and the webhook secret that is made in it once. Must not start anything.
"""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import shlex
from collections.abc import Mapping
from pathlib import Path

from sytq.embedded import lock
from sytq.errors import SytqError


class DevError(SytqError):
    """`sytq dev` cannot start or go on; the message is for a person."""


class Folder:
    """One `.sytq`, had by one supervisor at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock: int | None = None

    @property
    def database(self) -> Path:
        return self.path / "sytq.db"

    @property
    def redis(self) -> Path:
        return self.path / "redis"

    @property
    def metrics(self) -> Path:
        """Where API and worker count."""
        return self.path / "metrics"

    @property
    def env(self) -> Path:
        """For another terminal: `. .sytq/env`."""
        return self.path / "env"

    def write_env(self, variables: Mapping[str, str]) -> None:
        """Say in a shell's words what other commands need to find this service."""
        lines = (f"export {name}={shlex.quote(value)}\n" for name, value in sorted(variables.items()))
        self.env.write_text("".join(lines))

    def log(self, name: str) -> Path:
        """The log of one child."""
        return self.path / "log" / f"{name}.log"

    def alive(self, name: str) -> Path:
        """The file that a child holds locked while it lives."""
        return self.path / "run" / name

    def claim(self) -> None:
        """Make the folder (for this account only) and be its one owner. Raises DevError."""
        try:
            for folder in (self.path, self.path / "log", self.path / "run", self.metrics):
                folder.mkdir(mode=0o700, exist_ok=True)
            self._lock = lock(self.path / "lock")
        except OSError as error:
            raise DevError(f"{self.path} cannot be used: {error.strerror}") from None
        if self._lock is None:
            raise DevError(
                f"{self.path} is in use by another `sytq dev`{self._owner()}; stop that one or use another folder"
            )
        os.ftruncate(self._lock, 0)
        os.write(self._lock, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def webhook_secret(self) -> Path:
        """A file with the secret that signs callbacks, the same one in every run."""
        path = self.path / "webhook.secret"
        if not path.exists():
            made = path.with_suffix(".new")
            made.touch(mode=0o600)
            made.write_text(f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}\n")
            made.replace(path)
        return path

    def _owner(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            return f" (pid {int((self.path / 'lock').read_text())})"
        return ""

"""The folder of `sytq dev` (`.sytq`): its lock, its paths and the generated webhook secret."""

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
    """`sytq dev` cannot start or continue; the message is for a person."""


class Folder:
    """One `.sytq`, owned by one supervisor at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.database = self.path / "sytq.db"
        self.redis = self.path / "redis"
        self.metrics = self.path / "metrics"
        self.env = self.path / "env"  # to source in another terminal: `. .sytq/env`
        self._lock: int | None = None

    def write_env(self, variables: Mapping[str, str]) -> None:
        """Write the variables that other commands need to find this service, as shell exports."""
        lines = (f"export {name}={shlex.quote(value)}\n" for name, value in sorted(variables.items()))
        self.env.write_text("".join(lines))

    def log(self, name: str) -> Path:
        return self.path / "log" / f"{name}.log"

    def alive(self, name: str) -> Path:
        """The file that a child holds locked while it is alive."""
        return self.path / "run" / name

    def claim(self) -> None:
        """Create the folder (for this account only) and lock it. Raises DevError."""
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
        """The file with the secret that signs callbacks; the secret is the same in every run."""
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

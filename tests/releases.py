"""Two releases of sytq side by side: their source and their processes.

Finds and unpacks the previous ones.
"""

from __future__ import annotations

import configparser
import http.client
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import processes
from tests.processes import ROOT
from tests.servers import free_port


@dataclass(frozen=True)
class Release:
    """A source tree that runs with this interpreter's packages."""

    name: str
    folder: Path

    def environ(self, settings: dict[str, str]) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith("SYTQ_")}
        return ours | settings | {"PYTHONPATH": str(self.folder)}

    def run(self, settings: dict[str, str], *arguments: str) -> str:
        """Run a command of this release and wait for its end."""
        done = subprocess.run(
            [sys.executable, "-m", "sytq.cli", *arguments],
            env=self.environ(settings),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def drive(self, module: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a module of this tree's `tests` or `bench` with the sytq of this release; `options` of subprocess.run."""
        # The release's folder comes first, the current one not at all.
        environ = self.environ({}) | {"PYTHONSAFEPATH": "1", "PYTHONPATH": f"{self.folder}:{ROOT}"}
        return subprocess.run([sys.executable, "-m", module, *arguments], env=environ, text=True, **options)


def this() -> Release:
    return Release("this", ROOT)


def previous() -> list[str]:
    """The commits that tests/previous-releases names."""
    lines = (ROOT / "tests/previous-releases").read_text().splitlines()
    return [line for line in lines if line and line[0] != "#"]


def unpack(ref: str, folder: Path, name: str) -> Release:
    """The source of a commit from git's history, in `folder`. Skips where the commit is missing."""
    known = subprocess.run(["git", "cat-file", "-e", f"{ref}^{{commit}}"], cwd=ROOT, capture_output=True)
    if known.returncode:
        pytest.skip(f"{ref} is not in this clone, so it cannot be run: `git fetch --unshallow --tags`")
    packed = subprocess.run(
        ["git", "archive", ref, "sytq", "plugins", "setup.cfg"], cwd=ROOT, capture_output=True, check=True
    )
    subprocess.run(["tar", "-x", "-C", str(folder)], input=packed.stdout, check=True)
    # As if installed: the names of its plugins, and the plugins to load.
    (folder / "sytq_plugins").symlink_to("plugins")
    metadata = configparser.ConfigParser()
    metadata.read(folder / "setup.cfg")
    egg = folder / "sytq-0.egg-info"
    egg.mkdir()
    (egg / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: sytq\nVersion: 0\n")
    plugins = metadata["options.entry_points"]["sytq.plugins"].strip()
    (egg / "entry_points.txt").write_text(f"[sytq.plugins]\n{plugins}\n")
    return Release(name, folder)


class Process(processes.Process):
    """`sytq api` or `sytq worker` of a release."""

    def __init__(self, release: Release, what: str, settings: dict[str, str], folder: Path) -> None:
        self.release = release
        self.port = free_port()
        environ = release.environ(settings | {"SYTQ_API__PORT": str(self.port)})
        log = folder / f"{release.name}-{what}-{self.port}.log"
        super().__init__(["sytq.cli", what], environ, log, fresh=release.folder != ROOT)
        self.wait_ready(self._answers if what == "api" else lambda: "worker started" in self.text())

    def children(self) -> set[str]:
        """Process ids of its worker processes."""
        return set(Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split())

    def post(self, path: str, body: object) -> tuple[int, object]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/healthz/live")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

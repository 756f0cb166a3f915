"""Watches plugin files, and checks that worker and API can load them before a restart."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from sytq.dev.scaffold import here
from sytq.errors import ConfigError
from sytq.tasktypes.registry import Registry
from sytq.testing.check import check

_PERIOD = 0.3  # seconds between two scans, and without a change until a file counts as saved

#: Path -> modification time and size.
Seen = dict[Path, tuple[int, int]]


class Saved:
    """Watches the `configured` folders (`plugins.paths`), or the project's own folder without them."""

    def __init__(self, configured: Sequence[Path] | None) -> None:
        self._configured = configured
        self._seen = self._look()
        self._broken: set[Path] = set()

    def variables(self) -> dict[str, str]:
        """The variable that names the project's folder, which may be new."""
        folder = here() if self._configured is None else None
        return {} if folder is None else {"SYTQ_PLUGINS__PATHS": json.dumps([str(folder)])}

    def set_aside(self, registry: Registry) -> Iterator[str]:
        """Yield a line for each of the watched files that could not be loaded at the start."""
        for each in registry.quarantined:
            if (file := Path(each.source).absolute()) in self._seen:
                yield f"{_near(file)} is set aside: {each.error}"

    async def next(self, environ: Mapping[str, str], say: Callable[[str], None]) -> str:
        """Wait until files are saved, added or removed and all load, and return their names. Prints those that fail."""
        waiting: set[Path] = set()
        while True:
            changed = await self._changed()
            waiting |= changed
            self._broken = {file for file in self._broken - changed if file in self._seen}
            for file in sorted(changed & self._seen.keys()):
                for line in await asyncio.to_thread(self._problems, file, environ):
                    self._broken.add(file)
                    say(line)
            if not self._broken:
                return ", ".join(_near(file) for file in sorted(waiting))
            still = ", ".join(_near(file) for file in sorted(self._broken))
            say(f"Not reloaded, what runs goes on as it was: mend {still}")

    async def _changed(self) -> set[Path]:
        while True:
            await asyncio.sleep(_PERIOD)
            before, now = self._seen, await asyncio.to_thread(self._look)
            if now == before:
                continue
            while True:  # an editor may write in several steps
                await asyncio.sleep(_PERIOD)
                later = await asyncio.to_thread(self._look)
                if later == now:
                    break
                now = later
            self._seen = now
            return {file for file in before.keys() | now.keys() if before.get(file) != now.get(file)}

    def _look(self) -> Seen:
        project = here()
        found: Seen = {}
        for folder in self._configured if self._configured is not None else [project] if project else []:
            for file in folder.glob("*.py"):
                try:
                    status = file.stat()
                except OSError:  # removed just now
                    continue
                found[file] = (status.st_mtime_ns, status.st_size)
        return found

    def _problems(self, file: Path, environ: Mapping[str, str]) -> list[str]:
        """One line for each reason why a worker could not load this file."""
        try:
            report = check(file, {**environ, **self.variables()}, tests=False)
        except (OSError, ConfigError) as error:
            return [f"{_near(file)}: {error}"]
        return [
            f"{_near(file)}{f':{problem.line}' if problem.line else ''}: {problem.text}"
            for problem in report.problems
            if problem.fatal
        ]


def _near(file: Path) -> str:
    """The path relative to the current folder if the file is inside it."""
    path = os.path.relpath(file)
    return str(file) if path.startswith("..") else path

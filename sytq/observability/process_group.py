"""A process group: a master (gunicorn's or Dramatiq's) and its children, of which one is scraped for all.

Its processes share a folder. They count in files there (prometheus_client's multiprocess mode), and a worker process
has its liveness file in it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
from prometheus_client import Metric, values
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from sytq.observability.metrics import registry

log = structlog.get_logger(__name__)

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"


def folder(master: int) -> Path:
    """Return where the folder of the group with this master process is."""
    return _base() / f"{_prefix()}{master}"


def create(master: int) -> Path:
    """Return the group's folder, made if it is not there, and remove those of dead masters.

    Raises OSError where it cannot be written.
    """
    for other in _base().glob(f"{_prefix()}*"):
        if not alive(other.name.removeprefix(_prefix())):
            shutil.rmtree(other, ignore_errors=True)
    place = folder(master)
    place.mkdir(mode=0o700, exist_ok=True)
    if place.is_symlink() or place.stat().st_uid != os.getuid():
        raise PermissionError(f"{place} belongs to another account")
    return place


def alive(pid: str) -> bool:
    """Whether there is a process of this id; True for what is no id."""
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError):
        pass
    return True


def share(master: int) -> None:
    """Count in the folder of this master's group, or in the one that PROMETHEUS_MULTIPROC_DIR names already."""
    try:
        if _FOLDER not in os.environ:
            os.environ[_FOLDER] = str(create(master))
            # prometheus_client looks at the variable when it is imported, which has happened.
            values.ValueClass = values.get_value_class()
        merge_dead()
    except OSError as error:
        log.warning("metrics of this process are not shared with its group", error=str(error))


def merge_dead() -> None:
    """Put what ended processes of the group have counted into one file, so that their number does not matter."""
    place = os.environ.get(_FOLDER)
    if place is None:
        return
    with _locked(place):
        for file in Path(place).glob("*_*.db"):
            kind, _, pid = file.stem.rpartition("_")
            if alive(pid):
                continue
            if file.stat().st_size:  # else it was killed just as it made the file
                total = MmapedDict(str(file.with_name(f"{kind}_ended.db")))
                for key, amount, _, _ in MmapedDict.read_all_values_from_file(str(file)):
                    total.write_value(key, total.read_value(key)[0] + amount, 0.0)
                total.close()
            file.unlink()


class GroupCollector(Collector):
    """What the processes of this group have counted; without a folder that they share, what this process has."""

    def collect(self) -> Iterable[Metric]:
        place = os.environ.get(_FOLDER)
        if place is None:
            return list(registry.collect())
        with _locked(place):
            return list(MultiProcessCollector(None, place).collect())


@contextmanager
def _locked(place: str) -> Iterator[None]:
    """Nobody else reads or merges the files of the folder: what is being merged would be counted twice."""
    descriptor = os.open(place, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _base() -> Path:
    return Path((os.environ.get("RUNTIME_DIRECTORY") or tempfile.gettempdir()).split(":")[0])


def _prefix() -> str:
    return f"sytq-{os.getuid()}-"

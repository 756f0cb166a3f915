"""A process group: a master (gunicorn's or Dramatiq's) and its children; a scrape of one process covers all.

Its processes share a folder with their metrics (prometheus_client's multiprocess mode) and liveness files.
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

from sytq.observability.metrics import declared, registry

log = structlog.get_logger(__name__)

#: The variable that names the folder in which the processes of a group count.
FOLDER = "PROMETHEUS_MULTIPROC_DIR"


def folder(master: int) -> Path:
    """Return the path of the folder of this master's group."""
    return _base() / f"{_prefix()}{master}"


def create(master: int) -> Path:
    """Create the group's folder if needed and return it; remove folders of dead masters. Raises OSError."""
    for other in _base().glob(f"{_prefix()}*"):
        if not alive(other.name.removeprefix(_prefix())):
            shutil.rmtree(other, ignore_errors=True)
    place = folder(master)
    place.mkdir(mode=0o700, exist_ok=True)
    if place.is_symlink() or place.stat().st_uid != os.getuid():
        raise PermissionError(f"{place} belongs to another account")
    return place


def alive(pid: str) -> bool:
    """Whether a process has this id; True for an invalid id."""
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError):
        pass
    return True


def share(master: int) -> None:
    """Count in the folder of this master's group, or in PROMETHEUS_MULTIPROC_DIR if that is set."""
    try:
        if FOLDER not in os.environ:
            os.environ[FOLDER] = str(create(master))
            # prometheus_client reads the variable at import, which has happened.
            values.ValueClass = values.get_value_class()
            for series in declared.values():  # made before, perhaps by the parent of this process
                series.forget()
        merge_dead()
    except OSError as error:
        log.warning("metrics of this process are not shared with its group", error=str(error))


def merge_dead() -> None:
    """Merge the metrics of ended processes of the group into one file, so that files do not accumulate."""
    place = os.environ.get(FOLDER)
    if place is None:
        return
    with _locked(place):
        for file in Path(place).glob("*_*.db"):
            kind, _, pid = file.stem.rpartition("_")
            if alive(pid):
                continue
            if file.stat().st_size:  # else the process was killed while creating the file
                total = MmapedDict(str(file.with_name(f"{kind}_ended.db")))
                for key, amount, _, _ in MmapedDict.read_all_values_from_file(str(file)):
                    total.write_value(key, total.read_value(key)[0] + amount, 0.0)
                total.close()
            file.unlink()


class GroupCollector(Collector):
    """The metrics of this group's processes, or of this process alone without a shared folder."""

    def collect(self) -> Iterable[Metric]:
        place = os.environ.get(FOLDER)
        if place is None:
            return list(registry.collect())
        with _locked(place):
            return list(MultiProcessCollector(None, place).collect())


@contextmanager
def _locked(place: str) -> Iterator[None]:
    """Exclude other readers and mergers of the folder, which would count files twice during a merge."""
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

"""Checks this machine: ports and API protection, open files, free space.

The limit of open files is this shell's; systemd units and images set their own.
"""

from __future__ import annotations

import resource
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import requests

from sytq.cli.config import is_loopback
from sytq.cli.doctor.finding import FAIL, OK, WARN, Finding
from sytq.config import Settings

_TIMEOUT = 3.0
#: Client connections of one API process, and its other open files: Redis, files, pipes.
_CLIENTS, _BESIDES = 1000, 250
_LITTLE, _TOO_LITTLE = 1 << 30, 100 << 20  # bytes


def ports(settings: Settings) -> Iterator[Finding]:
    host, port = settings.api.host, settings.api.port
    open_to_others = not is_loopback(host)
    if open_to_others and not settings.auth.enabled:
        said = f"{host}:{port} is reachable from other machines while auth.enabled is false: only loopback is served"
        yield Finding("api address", WARN, said, "set auth.enabled: true and create keys with `sytq key create`")
    else:
        said = f"{host}:{port}, {'keys required' if settings.auth.enabled else 'this machine only, without keys'}"
        yield Finding("api address", OK, said)
    yield _answering("api", host, port, "start `sytq api` if it belongs on this machine")
    if settings.worker.port is not None:
        yield _answering("worker port", settings.worker.host, settings.worker.port, "start `sytq worker`")


def _answering(check: str, host: str, port: int, todo: str) -> Finding:
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 (looked up, not bound)
    try:
        with socket.create_connection((local, port), _TIMEOUT):
            pass
    except OSError:
        return Finding(check, WARN, f"nothing listens at {host}:{port}", todo)
    shown = f"[{local}]" if ":" in local else local
    try:
        with requests.Session() as session:
            session.trust_env = False
            answer = session.get(f"http://{shown}:{port}/healthz/ready", timeout=_TIMEOUT, allow_redirects=False)
    except requests.RequestException as error:
        said = f"the server at {host}:{port} does not answer: {type(error).__name__}"
        return Finding(check, FAIL, said, "check its log, or find out which program uses the port")
    if answer.status_code == 200:
        return Finding(check, OK, f"ready at {host}:{port}")
    if answer.status_code == 503:
        said = f"it answers at {host}:{port} but is not ready"
        return Finding(check, FAIL, said, "see the checks of redis and database")
    said = f"another program listens at {host}:{port} (HTTP {answer.status_code})"
    return Finding(check, FAIL, said, "stop that program, or configure another port")


def files(settings: Settings) -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    pool = settings.database.pool
    api, worker = _CLIENTS + pool, settings.worker.async_concurrency + settings.worker.threads + pool
    needed = max(api, worker) + _BESIDES
    if soft != resource.RLIM_INFINITY and soft < needed:
        more = needed if hard == resource.RLIM_INFINITY or hard >= needed else f"{needed}, as root"
        said = f"the limit is {soft}, and a busy process needs about {needed}"
        yield Finding("open files", WARN, said, f"`ulimit -n {more}`, or LimitNOFILE in the unit")
    else:
        limit = "no limit" if soft == resource.RLIM_INFINITY else f"limit {soft}"
        yield Finding("open files", OK, f"{limit}, {needed} needed")


def disk(settings: Settings) -> Iterator[Finding]:
    """Check free space for SQLite's file and for the data of `sytq dev`."""
    places = {Path(".sytq").absolute()} if Path(".sytq").is_dir() else set[Path]()
    parts = urlsplit(settings.database_url)
    if parts.scheme == "sqlite":
        places.add(Path(unquote(parts.path[1:])).absolute().parent)
    for place in sorted(places):
        if not place.is_dir():
            continue  # reported by the database check
        free = shutil.disk_usage(place).free
        verdict = FAIL if free < _TOO_LITTLE else WARN if free < _LITTLE else OK
        todo = "" if verdict == OK else "free some space: with a full disk no task is accepted"
        yield Finding("disk", verdict, f"{free / (1 << 30):.1f} GiB free in {place}", todo)

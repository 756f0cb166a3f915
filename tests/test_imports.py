"""Importing a module has no effect: no socket, thread, process, global broker or read of the environment.

`sytq.actors` is the exception by design: importing it is how `dramatiq sytq.actors` starts a worker.
`sytq.api.gunicorn_conf` is gunicorn's configuration file, which gunicorn reads by importing it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXCEPT = {"sytq.actors", "sytq.api.gunicorn_conf"}

PROBE = r"""
import _thread, importlib, json, os, sys, threading

folder, names = os.path.join(sys.argv[1], ""), sys.argv[2:]
found = []
EVENTS = {
    "socket.__new__", "socket.connect", "socket.bind", "socket.getaddrinfo", "sqlite3.connect",
    "subprocess.Popen", "os.fork", "os.posix_spawn",
}

def callers():
    frame = sys._getframe(2)
    while frame:
        yield frame.f_code.co_filename, frame.f_code.co_name
        frame = frame.f_back

def hook(event, arguments):
    if event in EVENTS:
        # urllib3 binds a socket to ::1 for an instant to learn whether there is IPv6.
        if not any(name == "_has_ipv6" and "urllib3" in file for file, name in callers()):
            found.append(event)

def reader():
    # The code that asked: above os.py and the mapping mixins.
    for file, _ in callers():
        if file[0] != "<" and os.path.basename(file) not in ("os.py", "_collections_abc.py"):
            return file
    return ""

def watch(method):
    original = getattr(type(os.environ), method)
    def watched(self, *arguments):
        if reader().startswith(folder):
            found.append(f"environment read: {method}{arguments}")
        return original(self, *arguments)
    setattr(type(os.environ), method, watched)

for method in ("__getitem__", "__iter__", "__contains__", "copy"):
    if hasattr(type(os.environ), method):
        watch(method)
sys.addaudithook(hook)

def watch_threads(owner, method): # Python 3.11 has no audit event for these
    original = getattr(owner, method)
    def watched(*arguments, **named):
        found.append("thread started")
        return original(*arguments, **named)
    setattr(owner, method, watched)

watch_threads(threading.Thread, "start")
watch_threads(_thread, "start_new_thread")
result = {}
for name in names:
    found.clear()
    try:
        importlib.import_module(name)
    except Exception as problem:
        found.append(f"does not import: {problem!r}")
    broker = sys.modules.get("dramatiq.broker")
    if broker is not None and broker.global_broker is not None:
        found.append("global broker set")
        broker.global_broker = None
    result[name] = list(found)
print(json.dumps(result))
"""


def effects(folder: Path, modules: list[str], path: Path) -> dict[str, list[str]]:
    """The effects of importing each module, in order in one fresh process; `folder` holds our code."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(folder), *modules],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=path,
        env=os.environ | {"PYTHONPATH": str(path)},
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return result


def our_modules() -> list[str]:
    names = set()
    for file in (ROOT / "sytq").rglob("*.py"):
        parts = file.relative_to(ROOT).with_suffix("").parts
        if parts[-1] != "__main__":
            names.add(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return sorted(names - EXCEPT)


@pytest.fixture(scope="module")
def imported() -> dict[str, list[str]]:
    return effects(ROOT / "sytq", our_modules(), ROOT)


@pytest.mark.parametrize("module", our_modules())
def test_importing_has_no_effect(imported: dict[str, list[str]], module: str) -> None:
    assert imported[module] == []


#: What a module must not do when it is imported, and what the probe calls it.
GUILTY = [
    ("import socket; socket.socket()", "socket.__new__"),
    ("import socket; socket.create_connection(('127.0.0.1', 1), 0.1)", "socket.connect"),
    ("import threading; threading.Thread(target=int).start()", "thread started"),
    ("import _thread; _thread.start_new_thread(int, ())", "thread started"),
    ("import os; os.environ.get('SYTQ_CONFIG')", "environment read"),
    ("import os; os.getenv('HOME')", "environment read"),
    ("import os; 'HOME' in os.environ", "environment read"),
    ("import os; dict(os.environ)", "environment read"),
    ("import sqlite3; sqlite3.connect(':memory:')", "sqlite3.connect"),
    ("import subprocess; subprocess.run(['true'])", "subprocess.Popen"),
    ("import dramatiq; dramatiq.get_broker()", "global broker set"),
    ("import asyncio; asyncio.new_event_loop().close()", "socket.__new__"),
]


def test_probe_detects_import_effects(tmp_path: Path) -> None:
    (tmp_path / "innocent.py").write_text("import requests, redis, falcon, peewee, pymysql, dramatiq\n")
    modules = ["innocent"]
    for n, (code, _) in enumerate(GUILTY):
        modules.append(f"guilty_{n}")
        (tmp_path / f"guilty_{n}.py").write_text(code + "\n")
    innocent, *guilty = effects(tmp_path, modules, tmp_path).values()
    assert innocent == []
    for (code, effect), seen in zip(GUILTY, guilty, strict=True):
        assert any(found.startswith(effect) for found in seen), (code, seen)


#: Libraries of one kind of work, and what runs tasks: imported where they are used.
NOT_IN_THE_RUNTIME = {
    *("aiohttp", "aiosmtplib", "falcon", "genai_prices", "gunicorn", "jinja2", "jsonschema", "requests", "sentry_sdk"),
    *("standardwebhooks", "typer", "yaml"),
    *("sytq.executor.consumer", "sytq.http.sessions", "sytq.streams", "sytq.worker"),
}


def modules_after(code: str, path: Path) -> set[str]:
    """The modules of a fresh process without configuration after `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}; print(*sys.modules)"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=path,
        env={"PYTHONPATH": str(ROOT)},
        check=True,
    )
    return set(done.stdout.split())


def test_runtime_imports_no_part_before_its_use(tmp_path: Path) -> None:
    found = modules_after("import sytq.runtime", tmp_path)
    assert {"dramatiq", "peewee", "prometheus_client", "pydantic", "redis", "structlog"} & found == set()


def test_loading_settings_and_plugins_imports_no_library_before_its_use(tmp_path: Path) -> None:
    code = "from sytq.config import load; from sytq.runtime import build; build(load())"
    assert (NOT_IN_THE_RUNTIME | {"redis"}) & modules_after(code, tmp_path) == set()


def test_listing_tasks_imports_no_redis_client(tmp_path: Path) -> None:
    code = "import sytq.cli.tasks; sytq.cli.tasks.open_runtime(None).database"
    assert "redis" not in modules_after(code, tmp_path)


def test_a_worker_process_imports_no_library_after_its_fork(tmp_path: Path) -> None:
    master = "import sytq.worker.process, sytq.worker_runtime, sytq.config; sytq.config.load()"
    imported = modules_after(master, tmp_path)
    assert "sytq.http.sessions" in imported  # with aiohttp: the first request imports nothing on the event loop
    more = modules_after(f"{master}; import sytq.actors", tmp_path) - imported
    assert {name.partition(".")[0] for name in more} - sys.stdlib_module_names == {"sytq"}

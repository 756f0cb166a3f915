"""The units: verification, settings, installation, and restarts without refused requests."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from sytq import config
from sytq.runtime import build
from tests.servers import poll
from tests.tables import make_tables
from tests.tools import required

ROOT = Path(__file__).parents[2]
UNITS = sorted(
    file for file in (ROOT / "systemd").iterdir() if file.suffix in (".service", ".socket", ".target", ".slice")
)
SERVICES = [file for file in UNITS if file.suffix == ".service"]


#: An interpreter whose new virtual environments have sytq's dependencies already.
PYTHON = f"""#!/bin/sh
"{sys.executable}" "$@" || exit
if [ "$2" = venv ]; then "{sys.executable}" "{Path(__file__).parent / "dependencies.py"}" "$3"; fi
"""


def settings_of(unit: Path) -> dict[str, str]:
    return dict(re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.MULTILINE))


def analyze() -> str:
    return required("systemd-analyze", "package systemd")


def test_systemd_analyze_verifies_the_units(tmp_path: Path) -> None:
    for unit in UNITS:
        (tmp_path / unit.name).write_text(unit.read_text().replace("/opt/sytq/bin/sytq", sys.executable))
    names = [str(tmp_path / unit.name.replace("@", "@llm")) for unit in UNITS]
    for unit in UNITS:
        if "@" in unit.name:
            shutil.copy(tmp_path / unit.name, tmp_path / unit.name.replace("@", "@llm"))
    done = subprocess.run(
        [analyze(), "verify", "--man=no", "--recursive-errors=no", *names], capture_output=True, text=True, timeout=60
    )
    ours = [line for line in done.stderr.splitlines() if "sytq" in line]
    assert (done.returncode, ours) == (0, [])


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_security_exposure_of_each_service_is_low(unit: Path) -> None:
    done = subprocess.run(
        [analyze(), "security", "--offline=true", "--no-pager", "--threshold=20", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    found = re.search(r"Overall exposure level for .*: ([0-9.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    assert float(found[1]) <= 2.0


def test_stop_timeout_exceeds_the_graceful_shutdown() -> None:
    defaults = config.load(environ={})
    api, worker = (settings_of(ROOT / "systemd" / name) for name in ("sytq-api.service", "sytq-worker@.service"))
    assert int(api["TimeoutStopSec"]) > defaults.api.graceful_timeout
    assert int(worker["TimeoutStopSec"]) > defaults.worker.shutdown_timeout + 15
    assert int(worker["WatchdogSec"]) >= 3 * 20  # sytq.worker.liveness.FRESH
    for unit in (api, worker):
        assert (unit["KillMode"], unit["Restart"], unit["Type"]) == ("mixed", "always", "notify")


def test_sytq_as_service_runs_with_the_settings_of_the_units(tmp_path: Path) -> None:
    # systemd does not run here: the properties given to systemd-run are compared with the units.
    (tmp_path / "systemd-run").write_text("#!/bin/sh\nprintf '%s\\0' \"$@\"\n")
    (tmp_path / "systemd-run").chmod(0o755)
    given = ["send", "webhook", "body=$HOME costs 5$", "two words"]
    done = subprocess.run(
        [ROOT / "systemd/sytq-as-service", *given],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "SUDO_USER": "ann"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    words = done.stdout.split("\0")[:-1]
    program = words.index("/opt/sytq/bin/sytq")
    assert words[program + 1 :] == [word.replace("$", "$$") for word in given], "systemd makes $ of $$"
    asked = [after for word, after in itertools.pairwise(words[:program]) if word == "-p"]
    assert {"--wait", "--pipe", "--setenv=SUDO_USER=ann"} <= set(words[:program])
    assert len(asked) == (program - words.index("-p")) / 2
    for unit in SERVICES:
        lines = unit.read_text().splitlines()
        assert [one for one in asked if one not in lines] == [], unit.name
        decisive = "User|Group|WorkingDirectory|Environment|LoadCredential|UMask|StateDirectory|EnvironmentFile"
        said = {line for line in lines if re.match(rf"({decisive})=", line)} - {
            "EnvironmentFile=-/etc/sytq/worker-%i.env"
        }
        assert said <= set(asked), unit.name


def test_credentials_loaded_by_systemd_are_settings(tmp_path: Path) -> None:
    # LoadCredential=sytq:/etc/sytq/credentials loads the file redis__password as sytq_redis__password.
    assert settings_of(ROOT / "systemd/sytq-api.service")["LoadCredential"] == "sytq:/etc/sytq/credentials"
    (tmp_path / "sytq_redis__password").write_text("geheim\n")
    settings = config.load(environ={"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert settings.redis.password.get_secret_value() == "geheim"


def test_install_rollback_and_uninstall(tmp_path: Path) -> None:
    dest = tmp_path / "root"
    top = dest / "opt/sytq"
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)

    def run(*arguments: str, ok: bool = True) -> str:
        done = subprocess.run(
            [str(ROOT / "systemd/install"), *arguments],
            env=os.environ | {"DESTDIR": str(dest), "PYTHON": str(python)},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert (done.returncode == 0) == ok, done.stderr
        return done.stdout

    run("install")
    first = (top / "bin").readlink().parts[1]
    assert str(dest) not in (top / "bin/sytq").read_text()
    said = subprocess.run(
        [top / "versions" / first / "bin/python", "-m", "sytq.cli", "--version"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
    )
    assert said.stdout.startswith("sytq ")
    assert {unit.name for unit in UNITS} == {file.name for file in (dest / "usr/local/lib/systemd/system").iterdir()}
    assert os.access(dest / "usr/local/bin/sytq-as-service", os.X_OK)
    assert (dest / "etc/sytq/credentials").stat().st_mode & 0o777 == 0o700
    run("rollback", ok=False)

    # A second version, without asking pip again.
    shutil.copytree(top / "versions" / first, top / "versions/9.9", symlinks=True)
    (dest / "etc/sytq/sytq.yaml").write_text("app: {mode: production}\n")
    run("rollback", "9.9")
    assert (top / "bin").readlink() == Path("versions/9.9/bin")
    run("rollback")
    assert (top / "bin").readlink() == Path(f"versions/{first}/bin")
    run("rollback", "7.7", ok=False)

    def enabled() -> set[Path]:
        return {file for file in (dest / "etc/systemd/system").rglob("sytq*") if file.is_symlink()}

    enable = [required("systemctl", "package systemd"), f"--root={dest}", "--quiet", "enable"]
    subprocess.run(
        [*enable, "sytq.target", "sytq-api", "sytq-worker@default", "sytq-worker@llm"], check=True, timeout=60
    )
    assert len(enabled()) == 5
    other = dest / "etc/systemd/system/timers.target.wants/sytq-ours.timer"
    other.parent.mkdir()
    other.symlink_to("/etc/systemd/system/sytq-ours.timer")

    run("uninstall")
    assert not top.exists()
    assert enabled() == {other}, "nobody else's"
    assert (dest / "etc/sytq/sytq.yaml").read_text() == "app: {mode: production}\n", "the operator's own stays"
    run("uninstall", "--purge")
    assert [file for file in dest.rglob("*") if file.is_file()] == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root makes accounts")
def test_account_and_folders_match_the_units(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    for program, *arguments in (["systemd-sysusers"], ["systemd-tmpfiles", "--create"]):
        file = ROOT / "systemd" / f"{program.removeprefix('systemd-')}.d" / "sytq.conf"
        command = [required(program, "package systemd"), f"--root={tmp_path}", *arguments, str(file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
    name, _, uid, gid, _, home, shell = (tmp_path / "etc/passwd").read_text().strip().split(":")
    assert (name, home, shell) == ("sytq", "/var/lib/sytq", "/usr/sbin/nologin")
    assert all(settings_of(unit)["User"] == settings_of(unit)["Group"] == name for unit in SERVICES)
    owners = {"etc/sytq": ("0", 0o750), "etc/sytq/credentials": ("0", 0o700), "var/lib/sytq": (uid, 0o750)}
    for folder, (owner, mode) in owners.items():
        found = (tmp_path / folder).stat()
        assert (str(found.st_uid), found.st_mode & 0o777) == (owner, mode), folder
    assert gid != "0"


class Activated:
    """API processes that inherit a listening socket, one after the other, as with systemd."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.folder = folder
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "SYTQ_DATABASE__URL": f"sqlite:///{folder / 'sytq.db'}",
            "SYTQ_REDIS__URL": redis_url,
            "SYTQ_LOGGER__FORMAT": "json",
            "SYTQ_API__WORKERS": "2",
            "SYTQ_CONFIG": str(folder / "sytq.yaml"),
        }
        (folder / "sytq.yaml").write_text("")
        self.runtime = build(config.load(environ=self.environ))
        make_tables(self.runtime.database)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
        self.port = self.listener.getsockname()[1]
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> subprocess.Popen[bytes]:
        number = len(self.processes)
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.bind(str(self.folder / f"notify-{number}"))
        notify.settimeout(90)

        def hand_over() -> None:
            os.dup2(self.listener.fileno(), 3)
            os.set_inheritable(3, True)

        process = subprocess.Popen(
            ["/bin/sh", "-c", f'LISTEN_FDS=1 LISTEN_PID=$$ exec "{sys.executable}" -m sytq.cli api'],
            env=self.environ | {"NOTIFY_SOCKET": str(self.folder / f"notify-{number}")},
            preexec_fn=hand_over,
            close_fds=False,
            stdin=subprocess.DEVNULL,
            stdout=(self.folder / "log").open("ab"),
            stderr=subprocess.STDOUT,
        )
        self.processes.append(process)
        assert b"READY=1" in notify.recv(4096)
        notify.close()
        return process

    def reload(self) -> int:
        """Run the reload commands in order until one fails, as `systemctl reload` does."""
        for line in re.findall(r"^ExecReload=(.*)$", (ROOT / "systemd/sytq-api.service").read_text(), re.MULTILINE):
            command = line.replace("$MAINPID", str(self.processes[-1].pid)).split()
            if command[0] == "/opt/sytq/bin/sytq":
                command[:1] = [sys.executable, "-m", "sytq.cli"]
            done = subprocess.run(command, env=self.environ, capture_output=True, timeout=60)
            if done.returncode:
                break
        return done.returncode

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def wait_booted(self, workers: int) -> int:
        """Wait until that many gunicorn workers have booted since the beginning; return the number."""
        poll(lambda: self.log().count("ASGI server listening") >= workers, timeout=90, message=self.log)
        return workers

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self.runtime.database.close_all()


@pytest.fixture
def activated(tmp_path: Path, redis_url: str) -> Iterator[Activated]:
    one = Activated(tmp_path, redis_url)
    yield one
    one.close()


def submit(port: int) -> str:
    """One request on a connection of its own: its status, or how it failed. A busy machine may take long to restart."""
    body = b'{"url": "http://example.com/"}'
    head = f"POST /api/v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
            connection.sendall(head.encode() + body)
            received = b""
            while chunk := connection.recv(65536):
                received += chunk
    except OSError as error:
        return type(error).__name__
    return received[9:12].decode() or "no answer"


@pytest.mark.faults
def test_reload_with_invalid_configuration_keeps_the_processes(activated: Activated) -> None:
    running = activated.start()
    activated.wait_booted(2)
    (activated.folder / "sytq.yaml").write_text("api: {port: 99999}\n")
    assert activated.reload() != 0
    assert submit(activated.port) == "200"
    (activated.folder / "sytq.yaml").write_text("logger: {level: debug}\n")
    assert activated.reload() == 0
    activated.wait_booted(4)
    assert submit(activated.port) == "200"
    assert running.poll() is None
    worker = (ROOT / "systemd/sytq-worker@.service").read_text()
    assert re.findall(r"^ExecReload=.*$", worker, re.MULTILINE) == re.findall(
        r"^ExecReload=.*$", (ROOT / "systemd/sytq-api.service").read_text(), re.MULTILINE
    )


@pytest.mark.faults
def test_reloads_and_restarts_refuse_and_lose_no_request(activated: Activated) -> None:
    old = activated.start()
    answers: Counter[str] = Counter()
    ended = threading.Event()

    def client() -> None:
        while not ended.is_set():
            answers[submit(activated.port)] += 1

    clients = [threading.Thread(target=client) for _ in range(4)]
    for one in clients:
        one.start()
    try:
        poll(lambda: answers["200"] > 50, message="load")
        booted = activated.wait_booted(2)  # gunicorn is ready before its workers are
        assert activated.reload() == 0
        activated.wait_booted(booted + 2)
        so_far = answers["200"]
        poll(lambda: answers["200"] > so_far + 50, message="load")
        old.terminate()
        assert old.wait(90) == 0  # as systemctl restart: start after the end of the old process
        old = activated.start()
        so_far = answers["200"]
        poll(lambda: answers["200"] > so_far + 50, message="load")
    finally:
        ended.set()
        for one in clients:
            one.join(130)
    assert set(answers) == {"200"}, answers
    _, total = activated.runtime.ledger.find()
    assert total == answers["200"]

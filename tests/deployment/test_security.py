"""No secret is committed, and the dependency audit reports its failures."""

from __future__ import annotations

import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import free_port

ROOT = Path(__file__).parents[2]
#: Formats of real keys. Keys of tests and examples have other formats.
SECRETS = {
    "private key": r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----",
    "AWS key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "GitHub token": r"\b(?:ghp|gho|ghs|ghr)_[A-Za-z0-9]{36}\b|\bgithub_pat_[A-Za-z0-9_]{60,}",
    "Slack token": r"\bxox[baprs]-[A-Za-z0-9-]{20,}",
    "provider key": r"\bsk-(?:proj-|ant-)?[A-Za-z0-9]{32,}",
    "Google key": r"\bAIza[A-Za-z0-9_-]{35}\b",
    "signing secret": r"\bwhsec_[A-Za-z0-9+/]{40,}",
    "token": r"\beyJ[A-Za-z0-9_-]{20,}\.eyJ[A-Za-z0-9_-]{20,}\.",
}
#: Files with keys that were made for tests.
KNOWN = {"tests/http/hook.example.pem", "tests/plugins/email/localhost.pem"}


def committed() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [Path(name) for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def found(text: str) -> list[str]:
    return [kind for kind, pattern in SECRETS.items() if re.search(pattern, text)]


def test_no_secret_is_committed() -> None:
    files = committed()
    assert len(files) > 200
    guilty = {}
    for file in files:
        text = (ROOT / file).read_bytes().decode(errors="replace")
        if (kinds := found(text)) and str(file) not in KNOWN:
            guilty[str(file)] = kinds
    assert guilty == {}


@pytest.mark.parametrize(
    "text",
    [
        "-----BEGIN RSA " + "PRIVATE KEY-----",
        "AKIA" + "ABCDEFGHIJKLMNOP",
        "ghp_" + "a" * 36,
        "sk-" + "a1" * 20,
        "whsec_" + "QUJD" * 12,
    ],
)
def test_secret_search_finds_common_key_formats(text: str) -> None:
    assert found(f"key = '{text}'")


class Osv(http.server.BaseHTTPRequestHandler):
    """A vulnerability database with one vulnerability, of `jinja2`."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        package = asked["package"]
        ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.4.1"}]}]
        known = {"id": "PYSEC-1", "summary": "s", "affected": [{"package": package, "ranges": ranges}]}
        body = json.dumps({"vulns": [known]} if package["name"] == "jinja2" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def osv() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Osv)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1/query"
    server.shutdown()
    server.server_close()


def audit(*arguments: object, **environ: str) -> subprocess.CompletedProcess[str]:
    """The real pip-audit, as `make audit` runs it."""
    command = [sys.executable, str(ROOT / "tools/audit.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environ, timeout=120)


def test_dependency_audit_checks_every_locked_dependency(osv: str, tmp_path: Path) -> None:
    done = audit(OSV_URL=osv)
    count = len([line for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line])
    assert (done.returncode, done.stderr.count("PYSEC-1")) == (1, 1)
    assert re.search(r"^jinja2 3\S+: PYSEC-1, mended in 2.4.1$", done.stderr, re.MULTILINE)
    safe = tmp_path / "safe.lock"
    safe.write_text(re.sub(r"(?mi)^jinja2.*\n", "", (ROOT / "requirements.lock").read_text()))
    done = audit(safe, OSV_URL=osv)
    assert (done.returncode, done.stdout) == (
        0,
        f"no known vulnerabilities in the {count - 1} dependencies of safe.lock\n",
    )


@pytest.mark.parametrize(("strict", "code"), [("", 0), ("1", 3)])
def test_dependency_audit_reports_an_unavailable_database(strict: str, code: int) -> None:
    done = audit(OSV_URL=f"http://127.0.0.1:{free_port()}/v1/query", STRICT=strict)
    assert (done.returncode, done.stdout) == (code, "")
    assert "could not be asked about" in done.stderr

"""No secret is committed, and the audit says when it knows nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: What keys look like. Tests and examples make theirs up, so that they do not look so.
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
#: Keys that tests made for themselves.
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
def test_the_search_finds(text: str) -> None:
    assert found(f"key = '{text}'")


def audit(tmp_path: Path, said: str, code: int, **environ: str) -> subprocess.CompletedProcess[str]:
    program = tmp_path / "pip-audit"
    program.write_text(f"#!{sys.executable}\nimport sys\nprint({said!r})\nsys.exit({code})\n")
    program.chmod(0o755)
    return subprocess.run(
        [str(ROOT / "tools/audit"), str(program)], capture_output=True, text=True, env=os.environ | environ, timeout=60
    )


def test_the_audit_fails_for_a_vulnerability_and_says_when_it_knows_nothing(tmp_path: Path) -> None:
    vulnerable = json.dumps({"dependencies": [{"name": "x", "vulns": [{"id": "PYSEC-1"}]}]})
    done = audit(tmp_path, vulnerable, 1)
    assert done.returncode == 1
    assert "PYSEC-1" in done.stderr
    done = audit(tmp_path, "", 1)
    assert done.returncode == 0
    assert "nothing is known" in done.stderr
    assert audit(tmp_path, "", 1, STRICT="1").returncode == 3
    assert "no known" in audit(tmp_path, "{}", 0).stdout

"""Clients that generators make of the document compile under strict settings, and the one of Python works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.installation import Installation
from tests.processes import ROOT

DOCUMENT = ROOT / "docs" / "openapi.json"
CALLERS = Path(__file__).parent / "clients"
GENERATORS = ROOT / ".venv-generators"  # made by tools/test-generators


def run(*command: str | Path, cwd: Path) -> None:
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def python_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the generated package `client` and its caller."""
    generator = GENERATORS / "bin" / "openapi-python-client"
    if not generator.exists():
        assert os.environ.get("CI") != "true", "tools/test-generators could not install openapi-python-client"
        pytest.skip("openapi-python-client is not installed (tools/test-generators)")
    folder = tmp_path_factory.mktemp("python")
    (folder / "config.yaml").write_text("post_hooks: []")  # the formatter needs no test
    options = ("--path", DOCUMENT, "--output-path", "client", "--meta", "none", "--config", "config.yaml")
    run(generator, "generate", "--fail-on-warning", *options, cwd=folder)
    shutil.copy(CALLERS / "caller.py", folder)
    return folder


def test_generated_python_client_passes_mypy_strict(python_client: Path) -> None:
    environment = ("--python-executable", GENERATORS / "bin" / "python", "--cache-dir", python_client / "cache")
    run(sys.executable, "-m", "mypy", "--strict", *environment, "client", "caller.py", cwd=python_client)


def test_generated_python_client_submits_and_reads_tasks(python_client: Path, api: Installation) -> None:
    run(GENERATORS / "bin" / "python", "caller.py", f"http://127.0.0.1:{api.port}", cwd=python_client)


def test_generated_typescript_types_pass_tsc_strict(tmp_path: Path) -> None:
    modules = GENERATORS / "node_modules"
    if not modules.exists():
        pytest.skip("openapi-typescript is not installed (npm, then tools/test-generators)")
    (tmp_path / "node_modules").symlink_to(modules)
    run(modules / ".bin" / "openapi-typescript", DOCUMENT, "-o", "client.ts", cwd=tmp_path)
    shutil.copy(CALLERS / "caller.ts", tmp_path)
    strict = ("--strict", "--exactOptionalPropertyTypes", "--noUncheckedIndexedAccess", "--skipLibCheck")
    target = ("--noEmit", "--target", "es2022", "--module", "es2022", "--moduleResolution", "bundler")
    run(modules / ".bin" / "tsc", *strict, *target, "caller.ts", cwd=tmp_path)

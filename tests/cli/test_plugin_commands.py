"""`sytq plugin`: new, check and list."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from sytq.config import load
from sytq.dev import scaffold
from sytq.errors import InvalidInput
from sytq.tasktypes.registry import Registry
from tests import terminal


def sytq(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return terminal.sytq("plugin", *arguments, environ=terminal.clean_environ(**variables), cwd=folder)


def test_new_plugin_is_one_file_that_passes_its_check(tmp_path: Path) -> None:
    made = sytq(tmp_path, "new", "nightly-import")
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("Wrote plugins/nightly_import.py.\n")
    assert [file.name for file in (tmp_path / "plugins").iterdir()] == ["nightly_import.py"]
    checked = sytq(tmp_path, "check", "plugins/nightly_import.py")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout == "plugins/nightly_import.py: ok (nightly-import; 4 tests passed, 2 do not apply)\n"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("email", "'email' is taken by "),
        ("there", "plugins/there.py already exists; choose another name"),
        ("Upper", "'Upper' is not valid; valid: a small letter"),
        ("../up", "'../up' is not valid"),
        ("class", "'class' cannot be a function name"),
        ("task", "'task' cannot be a function name"),
        ("test-it", "'test-it' cannot be a function name"),
    ],
)
def test_invalid_or_taken_name_is_refused_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plugins").mkdir()
    Path("plugins/there.py").write_text("x = 1\n")
    with pytest.raises(InvalidInput) as refused:
        scaffold.write(name, Path("plugins"), Registry.load(load(environ={})))
    assert words in str(refused.value)
    assert [file.read_text() for file in Path("plugins").iterdir()] == ["x = 1\n"]


def test_refused_name_prints_one_line_and_exits_1(tmp_path: Path) -> None:
    refused = sytq(tmp_path, "new", "Upper")
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert list(tmp_path.iterdir()) == []


def test_new_plugin_is_reported_as_json(tmp_path: Path) -> None:
    made = sytq(tmp_path, "new", "nightly-import", "--json", "--folder", "mine")
    assert json.loads(made.stdout) == {"type": "nightly-import", "file": "mine/nightly_import.py"}
    assert (tmp_path / "mine" / "nightly_import.py").exists()


def test_new_plugin_is_written_to_the_configured_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    made = sytq(tmp_path, "new", "one", SYTQ_PLUGINS__PATHS=json.dumps([str(tmp_path / "mine")]))
    assert (made.returncode, (tmp_path / "mine" / "one.py").exists()) == (0, True)
    assert "is taken" in sytq(tmp_path, "new", "one", SYTQ_PLUGINS__PATHS=f'["{tmp_path / "mine"}"]').stderr


def test_check_reports_problems_by_line_and_exit_status(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import time\nasync def f(ctx):\n    time.sleep(1)\n")
    done = sytq(tmp_path, "check", "bad.py")
    assert (done.returncode, done.stdout) == (1, "")
    first, second = done.stderr.splitlines()
    assert first.startswith("bad.py:3: Async functions should not call `time.sleep`")
    assert second.startswith("bad.py: it declares no task type")
    report = json.loads(sytq(tmp_path, "check", "bad.py", "--json").stdout)
    assert [problem["line"] for problem in report["problems"]] == [3, None]
    assert sytq(tmp_path, "check", "none.py").returncode == 2
    (tmp_path / "sytq.yaml").write_text("api: {port: high}\n")
    unusable = sytq(tmp_path, "check", "bad.py", "-f", "sytq.yaml")
    assert unusable.returncode == 2 and "api.port" in unusable.stderr


def test_list_shows_every_type_and_quarantined_files(tmp_path: Path) -> None:
    sytq(tmp_path, "new", "greet")
    (tmp_path / "plugins" / "broken.py").write_text("import nothing_of_this_name\n")
    environ = {"SYTQ_PLUGINS__PATHS": '["plugins"]', "SYTQ_DATABASE__URL": f"sqlite:///{tmp_path}/sytq.db"}
    entries = json.loads(sytq(tmp_path, "list", "--json", **environ).stdout)
    (greet,) = [entry for entry in entries if entry["type"] == "greet"]
    assert (greet["state"], greet["version"], greet["retry"]["max_attempts"]) == ("ready", 1, 5)
    assert greet["source"].endswith("plugins/greet.py")
    assert list(greet["payload_schema"]["properties"]) == ["name"]
    (broken,) = [entry for entry in entries if entry["state"] == "quarantined"]
    assert (broken["type"], broken["source"]) == (None, "plugins/broken.py")
    assert "nothing_of_this_name" in broken["reason"]
    shown = sytq(tmp_path, "list", **environ).stdout
    assert "quarantined  plugins/broken.py; ModuleNotFoundError: No module named 'nothing_of_this_name'" in shown

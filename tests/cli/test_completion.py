"""Shell completion: bash with the printed script, and the protocol of zsh."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.terminal import PROGRAM, sytq

BASH = """
eval "$(_SYTQ_COMPLETE=source_bash sytq)"
complete -p sytq >&2
for line in "$@"; do
    COMP_WORDS=($line)
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    _sytq_completion sytq
    echo "${COMPREPLY[*]}"
done
"""


def completions(line: str, **environ: str) -> str:
    """The completions of a line, as zsh gets them."""
    return sytq(environ={"_SYTQ_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": line} | environ).stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_commands_and_types() -> None:
    path = f"{Path(PROGRAM).parent}:/usr/bin:/bin"
    lines = ("sytq sh", "sytq dead re", "sytq send we", "sytq send webhook --prio")
    done = subprocess.run(["bash", "-c", BASH, "bash", *lines], env={"PATH": path}, capture_output=True, text=True)
    assert "_sytq_completion sytq" in done.stderr, done
    assert done.stdout.splitlines() == ["show", "replay", "webhook", "--priority"]


def test_types_queues_priorities_and_queries_are_completed(tmp_path: Path) -> None:
    send = completions("sytq send ")
    assert '"email"' in send and "llm.balance" not in send  # an internal type
    assert '"llm"' in completions("sytq send llm --queue l")
    assert '"urgent"' in completions("sytq send llm --priority u")
    assert '"state\\\\:"' in completions("sytq ls st")
    assert '"state\\\\:dead"' in completions("sytq ls state:d")
    assert '"held\\\\:false"' in completions("sytq ls held:f")
    assert '"unique_key\\\\:"' in completions("sytq ls uni")
    assert '"result."' in completions("sytq ls res")
    assert '"type\\\\:webhook"' in completions("sytq dead list type:w")
    assert '"webhook"' in completions("sytq stats --type w")
    (tmp_path / "own.py").write_text(
        "from pydantic import BaseModel\nfrom sytq import task\n\nclass P(BaseModel): ...\n\n"
        "@task('own-type', payload=P)\ndef own(ctx, payload): ...\n"
    )
    assert "own-type" in completions("sytq send own", SYTQ_PLUGINS__PATHS=json.dumps([str(tmp_path)]))


def test_broken_plugin_or_configuration_completes_without_errors(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise RuntimeError\n")
    broken = sytq(
        environ={
            "_SYTQ_COMPLETE": "complete_zsh",
            "_TYPER_COMPLETE_ARGS": "sytq send we",
            "SYTQ_PLUGINS__PATHS": json.dumps([str(tmp_path)]),
        }
    )
    assert '"webhook"' in broken.stdout and broken.stderr == ""
    environ = {"_SYTQ_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "sytq send we", "SYTQ_API__PORT": "high"}
    wrong = sytq(environ=environ)
    assert "webhook" not in wrong.stdout and wrong.stderr == ""

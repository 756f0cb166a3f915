"""Completion as a shell asks for it: bash with the script that the program prints, and the protocol of the others."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.terminal import PROGRAM, sytq

BASH = """
eval "$(_SYTQ_COMPLETE=source_bash sytq)"
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
complete -p sytq >&2
_sytq_completion sytq
printf '%s\\n' "${COMPREPLY[@]}"
"""


def asked(line: str, **environ: str) -> str:
    """What zsh is told."""
    return sytq(environ={"_SYTQ_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": line} | environ).stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_commands_and_types() -> None:
    path = f"{Path(PROGRAM).parent}:/usr/bin:/bin"

    def completed(*words: str) -> list[str]:
        done = subprocess.run(["bash", "-c", BASH, "bash", *words], env={"PATH": path}, capture_output=True, text=True)
        assert "_sytq_completion sytq" in done.stderr, done
        return done.stdout.split()

    assert completed("sytq", "sh") == ["show"]
    assert completed("sytq", "dead", "re") == ["replay"]
    assert completed("sytq", "send", "we") == ["webhook"]
    assert completed("sytq", "send", "webhook", "--prio") == ["--priority"]


def test_types_queues_priorities_and_queries_are_completed(tmp_path: Path) -> None:
    send = asked("sytq send ")
    assert '"email"' in send and "llm.balance" not in send  # which nobody sends
    assert '"llm"' in asked("sytq send llm --queue l")
    assert '"urgent"' in asked("sytq send llm --priority u")
    assert '"state\\\\:"' in asked("sytq ls st")
    assert '"state\\\\:dead"' in asked("sytq ls state:d")
    assert '"held\\\\:false"' in asked("sytq ls held:f")
    assert '"unique_key\\\\:"' in asked("sytq ls uni")
    assert '"result."' in asked("sytq ls res")
    assert '"type\\\\:webhook"' in asked("sytq dead list type:w")
    assert '"webhook"' in asked("sytq stats --type w")
    (tmp_path / "own.py").write_text(
        "from pydantic import BaseModel\nfrom sytq import task\n\nclass P(BaseModel): ...\n\n"
        "@task('own-type', payload=P)\ndef own(ctx, payload): ...\n"
    )
    assert "own-type" in asked("sytq send own", SYTQ_PLUGINS__PATHS=json.dumps([str(tmp_path)]))


def test_what_cannot_be_loaded_completes_nothing_and_says_nothing(tmp_path: Path) -> None:
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

"""Every command in docs/runbook.md works as printed, and what it tells to look for is what the code says."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.installation import Installation
from tests.servers import RedisServer
from tests.terminal import clean_environ, sytq
from tests.tools import required

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/runbook.md").read_text()
#: The page without its commands and without other inline code.
PROSE = re.sub(r"```.*?```|`[^`]*`", "", PAGE, flags=re.DOTALL)
#: Quoted, and not said by sytq: a word, and gunicorn's line.
NOT_SAID = {"save", "Connection in use"}
CODE = {".py", ".lua"}
COMMANDS = [
    line for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL) for line in block.splitlines()
]


def test_each_section_says_what_to_do() -> None:
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    assert len(sections) > 10
    for section in sections:
        assert "**Do.**" in section, section.splitlines()[0]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=60)


def test_every_command_of_the_page_works(installation: Installation, redis_server: RedisServer) -> None:
    # A dead task gives the commands something to list and replay.
    installation.start_api()
    installation.start_worker()
    installation.wait_state(installation.submit("failing", "f"), "dead")
    assert len(set(COMMANDS)) > 15
    for command in dict.fromkeys(COMMANDS):
        program, *arguments = shlex.split(command)
        if program == "sytq":
            done = sytq(*arguments, environ=installation.environ, stdin="y\n")
        elif program == "curl":
            port = f"127.0.0.1:{installation.port}"
            options = ["-f", *(word.replace("127.0.0.1:8080", port) for word in arguments)]
            done = run(required("curl", "package curl"), *options)
        else:
            assert program == "redis-cli", command
            done = run(required("redis-cli", "package redis-tools"), "-p", str(redis_server.port), *arguments)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        assert done.stdout.strip(), command


@pytest.mark.parametrize("word", sorted(set(re.findall(r"`sytq [a-z ]+[a-z]", PAGE))))
def test_commands_in_the_text_exist(word: str) -> None:
    words = word.removeprefix("`sytq ").split()
    done = sytq(*words, "--help", environ=clean_environ())
    assert done.returncode == 0, word


def sources() -> str:
    """The code that logs, answers and counts."""
    files = [file for folder in ("sytq", "plugins") for file in (ROOT / folder).rglob("*") if file.suffix in CODE]
    return "\n".join(file.read_text() for file in files)


def test_named_messages_metrics_and_reasons_exist_verbatim() -> None:
    code = sources()
    said = set(re.findall(r'"([^"]+)"', PROSE)) - NOT_SAID
    names = set(re.findall(r"`(sytq_[a-z_]+)`", PAGE)) | set(re.findall(r"`\[([a-z_]+)\]`", PAGE))
    assert len(said) > 4 and len(names) > 1
    assert not {text for text in said | names if " ".join(text.split()) not in code}


def test_named_settings_are_documented() -> None:
    documented = (ROOT / "docs/configuration.md").read_text()
    sections = set(re.findall(r"`([a-z]+)\.[a-z_]+`", documented))
    named = {setting for setting in re.findall(r"`([a-z]+\.[a-z_.<>]+)`", PAGE) if setting.split(".")[0] in sections}
    assert len(named) > 4
    assert not {setting for setting in named if setting not in documented}

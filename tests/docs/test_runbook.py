"""Every command in docs/runbook.md works as printed."""

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

PAGE = (Path(__file__).parents[2] / "docs/runbook.md").read_text()
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

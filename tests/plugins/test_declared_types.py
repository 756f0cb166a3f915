"""Types declared in the configuration: how payload values reach the request or the command."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sytq_plugins.command import arguments

from sytq.config import load
from sytq.errors import ConfigError, InvalidInput
from sytq.tasktypes.registry import Registry
from sytq.testing import Harness, Reply
from tests.installation import Installation
from tests.servers import poll


def registry(**types: Any) -> Registry:
    return Registry.load(load(environ={"SYTQ_TYPES": json.dumps(types)}))


@pytest.fixture
def installed(tmp_path: Path, redis_url: str) -> Iterator[Callable[..., Installation]]:
    """An installation with these types and a worker."""
    made: list[Installation] = []

    def start(**types: Any) -> Installation:
        url = f"sqlite:///{tmp_path / 'sytq.db'}"
        made.append(Installation(tmp_path, url, redis_url, SYTQ_TYPES=json.dumps(types)))
        made[0].start_worker()
        return made[0]

    yield start
    for one in made:
        one.close()


def submit(installation: Installation, type_name: str, payload: Any) -> str:
    task = installation.runtime.submitter.prepare(type_name, payload)
    installation.runtime.submitter.submit([task])
    return str(task.id)


# -- http


def test_http_type_fills_its_request_and_retries_by_its_policy() -> None:
    section = {
        "http": {
            "url": "https://shop.example/orders/{name}?q={name}",
            "headers": {"X-Name": "for {name}", "X-None": "{missing}"},
            "body": {"n": "{n}", "text": "n={n} {missing}", "list": ["{items}", "{flag}"]},
        },
        "payload": {"name": "text", "n": "integer", "items": "list", "flag": "boolean", "missing": "optional text"},
        "retry": {"first": "100ms", "max_attempts": 3},
    }
    filled = "https://shop.example/orders/a%2Fb%3Fc%26d%3D%C3%A9?q=a/b?c%26d%3D%C3%A9"
    with Harness("paid", config=section) as harness:
        harness.http.answer(filled, 503, 200)
        run = harness.run({"name": "a/b?c&d=é", "n": 7, "items": [1, {"x": None}], "flag": True})
        assert (run.row.attempts, run.result) == (2, {"status": 200, "body": ""})
        first, second = harness.http.calls
    assert first == second
    assert first.json() == {"n": 7, "text": "n=7 ", "list": [[1, {"x": None}], True]}
    assert first.headers["x-name"] == "for a/b?c&d=é"
    assert (first.headers["x-none"], first.headers["idempotency-key"]) == ("", run.id)
    assert first.headers["content-type"] == "application/json"


def test_number_that_json_lacks_is_kept_as_text_and_loses_no_result() -> None:
    said = '{"rate": NaN, "most": 1e999}'
    kept = {"rate": "NaN", "most": "1e999"}
    section = {"http": {"url": "https://shop.example/"}}
    with Harness("shop", settings={"types": {"shop": section}}) as harness:
        harness.http.answer("https://shop.example/", Reply(body=said))
        assert harness.run({}).result == {"status": 200, "body": kept}
    assert run(command=["printf", "%s", said])["output"] == kept


def test_payload_values_cannot_alter_the_request_structure() -> None:
    says = {
        "the end": ({"x": "1", "y": "2"}, "HTTP 404 from shop.example"),
        "dots": ({"x": "..", "y": "2"}, "a value would be '.' or '..' in the URL's path"),
        "crlf": ({"x": "1", "y": "2\r\nHost: evil"}, "headers.X-X: line breaks and control characters"),
        "missing": ({"x": "1"}, "y: missing, and the template has a place for it"),
    }
    with Harness("one", config={"http": {"url": "https://shop.example/a/{x}/b", "headers": {"X-X": "{y}"}}}) as harness:
        harness.http.otherwise(404)
        for payload, words in says.values():
            run = harness.submit(payload)
            assert run.start() == "dead"
            assert words in (run.error or "")
        (only,) = harness.http.calls
        assert only.json() == {"x": "1", "y": "2"}  # without a body the payload is sent


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"http": {"url": "https://{host}/"}}, r"types\.one\.http\.url: value 'https://\{host\}/' is not valid"),
        ({"http": {"url": "https://example.org:{port}/"}}, r"types\.one\.http\.url: .*places behind the host only"),
        ({"http": {"url": "file:///etc/passwd"}}, r"types\.one\.http\.url: .* not such a URL"),
        ({"http": {"url": "https://u:p@example.org/"}}, r"types\.one\.http\.url: "),
        (
            {"http": {"url": "https://a.org", "headers": {"Host": "b.org"}}},
            r"types\.one\.http\.headers\.Host: .*set by the client",
        ),
        ({"http": {}}, r"types\.one\.http\.url: missing"),
        ({"http": {"url": "https://a.org", "metod": "GET"}}, r"did you mean types\.one\.http\.method\?"),
        (
            {"http": {"url": "https://a.org/{ordr}"}, "payload": {"order": "text"}},
            r"types\.one\.http\.url: value '\{ordr\}' is not valid: \{ordr\} is not a field of payload; valid: order",
        ),
        (
            {"http": {"url": "https://a.org"}, "payload": {"n": "int"}},
            r"types\.one\.payload\.n: value 'int' is not valid",
        ),
        (
            {"command": ["ls"], "payload": {"model_dump": "text"}},
            r"types\.one\.payload: value 'model_dump' is not valid",
        ),
        ({"command": ["ls"], "payload": {"_x": "text"}}, r"types\.one\.payload: value '_x' is not valid"),
        ({"command": []}, r"types\.one\.command: "),
        ({"command": ["{program}"]}, r"types\.one\.command\.0: .*the program cannot come from a payload"),
        ({"command": ["ls", "{x}"], "payload": {}}, r"types\.one\.command: value '\{x\}' is not valid"),
        ({"command": "ls -l"}, r"types\.one\.command: "),
        ({"comand": ["ls"]}, r"types\.one: no such task type; valid: .*one with one of the keys command, http"),
    ],
)
def test_invalid_declaration_is_refused_at_startup(section: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        registry(one=section)


def test_payloads_are_validated_by_their_declared_fields() -> None:
    fields = {
        "a": "text",
        "n": "integer",
        "f": "optional number",
        "b": "optional boolean",
        "o": "optional object",
        "l": "optional list",
        "x": "optional any",
    }
    declared = registry(one={"command": ["true"], "payload": fields}).get("one")
    declared.parse({"a": "x", "n": 1})
    declared.parse({"a": "x", "n": 1, "f": 1.5, "b": False, "o": {}, "l": [], "x": None})
    named = registry(one={"command": ["true"], "payload": {"copy": "text", "json": "text", "class": "text"}}).get("one")
    payload = {"copy": "a", "json": "b", "class": "c"}
    assert named.parse(payload).model_dump(mode="json", exclude_unset=True) == payload
    for wrong in ({}, {"a": 1, "n": 1}, {"a": "x", "n": "1"}, {"a": "x", "n": 1.5}, {"a": "x", "n": 1, "z": 1}):
        with pytest.raises(InvalidInput):
            declared.parse(wrong)


def test_section_of_an_installed_type_only_configures_it() -> None:
    declared = registry(webhook={"timeout": "7s"}).get("webhook")
    assert declared.timeout == 7
    assert "types." not in declared.source


# -- command


def run(payload: Any = None, **section: Any) -> Any:
    """Run a command type once: its result, or its state and error."""
    with Harness("one", config=section) as harness:
        once = harness.submit(payload or {})
        return once.result if once.start() == "succeeded" else (once.state, once.error)


def test_payload_values_are_single_arguments_without_a_shell(tmp_path: Path) -> None:
    nasty = "a b; touch /tmp/x $(id) `id` 'q' \"q\" | * \n é"
    shown = run({"x": nasty, "n": 5}, command=["printf", "[%s]", "{x}", "n={n}", "{x}{n}"])
    assert shown == {"exit": 0, "output": f"[{nasty}][n=5][{nasty}5]"}


def test_a_value_cannot_become_an_option() -> None:
    for value in ("-rf", "--help", -7):
        with pytest.raises(InvalidInput, match="x: begins with '-'"):
            arguments(["rm", "{x}"], {"x": value})
    assert arguments(["rm", "--", "-{x}", "a{x}"], {"x": "-b"}) == ["rm", "--", "--b", "a-b"]
    with pytest.raises(InvalidInput, match="NUL"):
        arguments(["ls", "{x}"], {"x": "a\0b"})


def test_command_reads_the_payload_and_its_json_output_is_parsed() -> None:
    assert run({"a": ["é", 1]}, command=["cat"])["output"] == {"a": ["é", 1]}
    assert run({"a": "x" * 300_000}, command=["true"]) == {"exit": 0, "output": ""}  # reading the input is optional


def test_command_environment_is_minimal_and_output_is_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SYTQ_REDIS__PASSWORD", "hush")
    shown = run(command=["env"], environment={"SHOP": "7"})["output"]
    assert {line.partition("=")[0] for line in shown.splitlines()} == {
        "PATH", "LANG", "SYTQ_TASK_ID", "SYTQ_ATTEMPT", "SHOP",
    }  # fmt: skip
    assert run(command=["pwd"], folder=str(tmp_path))["output"].strip() == str(tmp_path)
    cut = run(command=["sh", "-c", "head -c 5000000 /dev/zero | tr '\\0' x"], max_output="1KiB")["output"]
    assert cut == "x" * 1024 + "\n[cut at 1024 bytes]"


def test_command_exit_status_decides_and_stderr_is_reported() -> None:
    failing = ["sh", "-c", "echo first >&2; echo 'token=abcdef123 is bad' >&2; exit 3"]
    assert run(command=failing) == ("retrying", "sh: exit status 3: token=*** is bad")
    assert run(command=failing, dead_on=[3]) == ("dead", "sh: exit status 3: token=*** is bad")
    state, error = run(command=["sh", "-c", "kill -SEGV $$"])
    assert state == "retrying" and "killed by signal 11" in error
    state, error = run(command=["/no/such"])
    assert state == "dead" and "there is no program /no/such" in error


def alive(pid: int) -> bool:
    try:
        # A zombie is dead; its parent has not waited for it yet.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


#: Starts a child, writes both pids, and ignores SIGTERM.
STUBBORN = "trap '' TERM; sleep 300 & echo $$ $! > {folder}/pids; wait; wait"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
@pytest.mark.faults
def test_command_timeout_kills_all_its_child_processes(installed: Callable[..., Installation], tmp_path: Path) -> None:
    script = STUBBORN.replace("{folder}", str(tmp_path))
    installation = installed(
        one={"command": ["sh", "-c", script], "timeout": "10s", "retry": {"max_attempts": 1}},
        two={"command": ["sh", "-c", "sleep 300 & exit 0"], "timeout": "60s"},
    )
    begun = time.monotonic()
    row = installation.wait_state(submit(installation, "one", {}), "dead")
    assert row.error.startswith("timed out after 10 s")
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    poll(lambda: not any(alive(pid) for pid in pids), message="both have ended")
    # A child left in the background does not delay the end of the command.
    installation.wait_state(submit(installation, "two", {}), "succeeded")
    assert time.monotonic() - begun < 58


@pytest.mark.skipif(not Path("/usr/bin/setpriv").exists(), reason="needs util-linux")
@pytest.mark.faults
def test_command_ends_with_its_killed_worker_and_runs_on_another(
    installed: Callable[..., Installation], tmp_path: Path
) -> None:
    script = f"echo $$ >> {tmp_path}/pids; test $(wc -l < {tmp_path}/pids) -gt 1 || exec sleep 300"
    installation = installed(one={"command": ["sh", "-c", script]})
    task_id = submit(installation, "one", {})
    pids = tmp_path / "pids"
    poll(lambda: pids.exists() and pids.read_text().strip(), message="the program runs")
    (first,) = (int(pid) for pid in pids.read_text().split())
    installation.workers[0].signal(signal.SIGKILL)
    poll(lambda: not alive(first), message="the program ends with its worker")
    installation.start_worker()
    row = installation.wait_state(task_id, "succeeded")
    assert row.attempts == 1
    assert len(pids.read_text().split()) == 2

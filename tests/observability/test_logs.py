"""Structured logging. Each test runs its own process: logging is global, and pytest adds handlers to it."""

from __future__ import annotations

import ast
import itertools
import json
import os
import pty
import re
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sytq.config.masking import _LOOKS_SECRET, is_secret_key, mask_text, mask_url
from sytq.observability.logs import SHOWN
from tests.installation import Installation

PRELUDE = """
import logging, sys, structlog
from sytq.observability import logs
logs.configure({level!r}, {form!r}, "worker")
log = structlog.get_logger("ours")
"""


def run(code: str, *, form: str = "json", level: str = "info") -> str:
    program = PRELUDE.format(level=level, form=form) + code
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return done.stderr


def records(code: str, **options: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(code, **options).splitlines()]


def test_each_line_is_a_json_object_with_the_standard_fields() -> None:
    (record,) = records("log.bind(task_id='t1').warning('slow\\ntask', duration=1.5, worker_id='w', job_id=7)")
    time = record.pop("time")
    assert record == {
        "level": "warning",
        "msg": "slow\ntask",
        "logger": "ours",
        "process": "worker",
        "task_id": "t1",
        "duration": 1.5,
        "worker_id": "w",
        "job_id": 7,
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time)
    age = datetime.now(UTC) - datetime.fromisoformat(time.replace("Z", "+00:00"))
    assert timedelta(0) <= age < timedelta(seconds=30)


@pytest.mark.parametrize("name", ["dramatiq.worker", "gunicorn.error", "gunicorn.access", "peewee", "aiohttp.access"])
def test_library_records_have_the_same_format(name: str) -> None:
    (record,) = records(f"logging.getLogger({name!r}).info('%s of %d', 'one', 2, extra={{'job_id': 7}})")
    assert (record["level"], record["msg"], record["logger"]) == ("info", "one of 2", name)
    assert (record["process"], record["job_id"]) == ("worker", 7)


def test_handlers_of_gunicorn_are_replaced() -> None:
    code = """
from gunicorn.config import Config
from gunicorn.glogging import Logger
config = Config()
config.set("accesslog", "-")
gunicorn = Logger(config)
logs.configure("info", "json", "api")
gunicorn.error("listening")
gunicorn.access_log.info("GET /")
gunicorn.setup(config)
logs.configure("info", "json", "api")
gunicorn.info("after a reload")
"""
    assert [(record["process"], record["msg"]) for record in records(code)] == [
        ("api", "listening"),
        ("api", "GET /"),
        ("api", "after a reload"),
    ]


def test_context_variables_are_in_sytq_and_library_records() -> None:
    code = """
structlog.contextvars.bind_contextvars(task_id="t9")
log.info("a")
logging.getLogger("lib").info("b")
structlog.contextvars.clear_contextvars()
log.info("c")
"""
    assert [record.get("task_id") for record in records(code)] == ["t9", "t9", None]


def test_configuring_again_replaces_handlers_and_follows_sys_stderr() -> None:
    code = """
import io
first = io.StringIO()
real, sys.stderr = sys.stderr, first
logs.configure("info", "json", "one")
log.info("into the replaced stream")
sys.stderr = real
logs.configure("info", "json", "two")
log.info(f"once, after {first.getvalue().count(chr(10))} line there")
"""
    (record,) = records(code)
    assert (record["process"], record["msg"]) == ("two", "once, after 1 line there")


def test_level_applies_to_all_loggers() -> None:
    code = """
log.info("x")
logging.getLogger("lib").info("x")
logging.getLogger("dramatiq").warning("x")
log.error("y")
"""
    assert [record["msg"] for record in records(code, level="error")] == ["y"]


def test_an_exception_is_one_field() -> None:
    code = """
try:
    raise ValueError("redis://u:geheim@h:1 refused")
except ValueError:
    log.exception("a")
    logging.getLogger("lib").exception("b")
"""
    for record in records(code):
        assert record["exception"].startswith("Traceback (most recent call last):")
        assert record["exception"].endswith("ValueError: redis://u:***@h:1 refused")


def test_library_records_contain_no_payloads() -> None:
    code = """
from dramatiq import Message
message = Message("default", "llm", ({"prompt": "geheim"},), {"x": "geheim"}, {})
logging.getLogger("dramatiq.worker").error("Failed to process message %s with unhandled exception.", message)
logging.getLogger("dramatiq.worker").debug("Received message %s", message)
logging.getLogger("peewee").debug(("INSERT ...", ["geheim"]))
"""
    output = run(code, level="debug")
    assert "geheim" not in output
    (record,) = [json.loads(line) for line in output.splitlines()]
    assert re.fullmatch(r"Failed to process message llm [0-9a-f-]{36} with unhandled exception\.", record["msg"])


def test_only_listed_fields_show_text_and_secrets_are_always_masked() -> None:
    code = """
log.info("key sk-geheim123456 of", error="Bearer geheimgeheim", api_key="geheim", max_tokens=2000, paid=True,
    payload={"prompt": "geheim"}, url="https://h/geheim", object=Exception("geheim"), at=None)
logging.getLogger("lib").info("%s", {"password": "geheim"}, extra={"body": "geheim", "job_id": 7})
"""
    ours, theirs = found = records(code)
    assert "geheim" not in json.dumps(found)
    assert (ours["max_tokens"], ours["paid"], ours["at"], theirs["job_id"]) == (2000, True, None, 7)
    assert (ours["payload"], ours["url"], theirs["body"]) == ("***", "***", "***")


def test_every_field_that_sytq_logs_is_listed() -> None:
    methods = {"debug", "info", "warning", "error", "exception", "critical", "bind"}
    found = set()
    for folder in ("sytq", "plugins"):
        for file in (Path(__file__).parents[2] / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if not isinstance(node, ast.Call):
                    continue
                said = ast.unparse(node.func)
                logs = isinstance(node.func, ast.Attribute) and node.func.attr in methods
                logs = logs and bool(re.match(r"(.*\blog|line|.*get_logger.*)\.", said))
                if (
                    logs
                    or said in ("bind_contextvars", "log_failure")
                    or said.endswith(("REDIS.failed", "DATABASE.failed"))
                ):
                    found |= {keyword.arg for keyword in node.keywords if keyword.arg}
    assert {"task_id", "request_id", "duration", "error", "loop"} < found
    numbers = {
        "ahead",
        "attempts",
        "kept_in_redis",
        "messages",
        "more",
        "pid",
        "reload",
        "running",
        "tasks",
        "unavailable",
        "waiting",
    }
    assert found - SHOWN - numbers - {"exc_info"} == set()


def test_additional_fields_can_be_shown() -> None:
    code = """
logs.configure("info", "json", "worker", ["customer"])
log.info("a", customer="Miller", url="https://h")
"""
    (record,) = records(code)
    assert (record["customer"], record["url"]) == ("Miller", "***")


def test_lines_have_contract_ds_job_id_and_the_worker_id() -> None:
    code = """
logs.identify(worker_id="host-1")
log.info("a", task_id="t1")
log.info("b")
"""
    one, two = records(code)
    assert (one["task_id"], one["job_id"], one["worker_id"]) == ("t1", "t1", "host-1")
    assert (two["worker_id"], "job_id" in two) == ("host-1", False)


def test_unserializable_values_and_broken_text_do_not_lose_the_line() -> None:
    code = """
from datetime import date
log.info("处理中 \\udcff", tick=date(2026, 1, 9), data=b"x", queues={(1, 2): {3}})
"""
    (record,) = records(code)
    assert record["msg"].startswith("处理中")
    assert (record["tick"], record["queues"], record["data"]) == ("2026-01-09", {"(1, 2)": [3]}, "***")


def test_all_lines_of_a_worker_have_its_worker_id(installation: Installation) -> None:
    worker = installation.start_worker()
    task = installation.submit("failing", "f")
    installation.wait_state(task, "dead")
    assert worker.terminate() == 0
    lines = [json.loads(line) for line in worker.text().splitlines() if line.startswith("{")]
    about = [line for line in lines if line["msg"].startswith("task ")]
    assert [line["msg"] for line in about[:3]] == ["task failed", "task failed", "task is dead"]
    for line in about[:3]:
        assert (line["task_id"], line["job_id"], line["attempt"] > 0) == (task, task, True)
        assert isinstance(line["duration"], float)
    started = next(number for number, line in enumerate(lines) if line["msg"] == "worker started")
    assert {line.get("worker_id") for line in lines[started:] if line["logger"].startswith("sytq")} == {
        lines[started]["worker_id"]
    }


def test_console_lines_are_plain_text_without_colour_in_a_pipe() -> None:
    output = run("log.info('hello', task_id='t1', password='geheim')", form="console")
    assert "[info" in output and "hello" in output and "task_id=t1" in output and "process=worker" in output
    assert "\x1b[" not in output and "geheim" not in output


def test_console_exceptions_show_no_local_variables() -> None:
    code = """
def call(key):
    raise ValueError("no")
try:
    call("geheim")
except ValueError:
    log.exception("failed")
"""
    output = run(code, form="console")
    assert "ValueError: no" in output
    assert "key = 'geheim'" not in output


def test_console_lines_are_coloured_on_a_terminal() -> None:
    controller, terminal = pty.openpty()
    code = PRELUDE.format(level="info", form="console") + "log.error('hello')"
    subprocess.run([sys.executable, "-c", code], stderr=terminal, timeout=90, check=True)
    os.close(terminal)
    output = os.read(controller, 65536).decode()
    os.close(controller)
    assert "hello" in output and "\x1b[" in output


def test_warnings_are_logged_in_the_same_format() -> None:
    (record,) = records("import warnings; warnings.warn('old')")
    assert record["logger"] == "py.warnings" and "old" in record["msg"]


@pytest.mark.parametrize("key", ["password", "api_key", "X-Api-Key", "Authorization", "Set-Cookie", "access_token"])
def test_secret_keys_are_recognized(key: str) -> None:
    assert is_secret_key(key)


@pytest.mark.parametrize("key", ["max_tokens", "prompt_tokens", "idempotency_key", "token_bucket", "secretary", "key"])
def test_other_keys_are_not_secret(key: str) -> None:
    assert not is_secret_key(key)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("task-0198c2d4aaaa ended", "task-0198c2d4aaaa ended"),
        ("sk-0198c2d4aaaa", "sk-***"),
        ("use 'Bearer abcdefgh12'", "use 'Bearer ***'"),
        ("Authorization: Basic dXNlcjpwdw==", "Authorization: Basic ***"),
        ("?api_key=abc&x=1", "?api_key=***&x=1"),
        ("{'password': 'abc'}", "{'password': '***'}"),
        ("http://h:80/a?mail=x@y.z", "http://h:80/a?mail=x@y.z"),
        ("redis://:pw@h:1/0 and amqp://u:pw@h", "redis://:***@h:1/0 and amqp://u:***@h"),
        ("u:p/w@tcp(h:1)/q", "u:***@tcp(h:1)/q"),
        ("prompt_tokens=12 tokens: 4", "prompt_tokens=12 tokens: 4"),
    ],
)
def test_only_secrets_in_text_are_masked(text: str, masked: str) -> None:
    assert mask_text(text) == masked
    assert mask_text(masked) == masked


@pytest.mark.parametrize("repeated", ["a", "a.", "=", "=:", "x://", "://a:", "token ", "bearer ", " ", "token=", "sk-"])
def test_a_long_text_is_masked_in_linear_time(repeated: str) -> None:
    text = "secret ://u@ :@tcp( " + repeated * (100_000 // len(repeated))
    began = time.process_time()
    mask_text(text)
    assert time.process_time() - began < 3


SIGNS = (
    *(
        "password",
        "passwd",
        "\u017fecret",
        "secret",
        "to\u212aen",
        "token",
        "api-key",
        "apikey",
        "api_key",
        "authorization",
    ),
    *(
        "authorization",
        "bearer ",
        "authorization: basic ",
        "sk-",
        "whsec_",
        "sytq_0123456789ab_",
        "https://user",
        "user",
    ),
)


def test_no_quick_look_leaves_a_secret() -> None:
    masked = set[int]()
    for sign, between, behind in itertools.product(SIGNS, ("", "=", ": ", '": "', ":"), ("", "@host/", "@tcp(host)")):
        for text in (f"{sign}{between}a1b2c3d4e5{behind}", f"{sign.upper()}{between}A1B2C3D4E5{behind}"):
            expected = text
            for number, (pattern, instead) in enumerate(_LOOKS_SECRET):
                expected, count = pattern.subn(instead, expected)
                masked |= {number} if count else set()
            assert mask_text(text) == expected
    assert masked == set(range(len(_LOOKS_SECRET)))


def test_password_with_unescaped_slashes_is_masked_in_a_url() -> None:
    assert mask_url("redis://u:p/w@x@h:1/0") == "redis://u:***@h:1/0"
    assert mask_url("u:p@/w@unix(/s)/q?a=b") == "u:***@unix(/s)/q?a=b"
    assert mask_url("https://h/v1") == "https://h/v1"


def test_importing_changes_no_logging() -> None:
    code = "import logging, sytq.observability.logs; r = logging.getLogger(); print(r.handlers, r.level)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=90)
    assert done.stdout == "[] 30\n"


def test_dramatiq_worker_process_logs_in_the_same_format(tmp_path: Path) -> None:
    (tmp_path / "logging_worker.py").write_text(
        """
import dramatiq
from dramatiq.brokers.stub import StubBroker
from sytq.observability import logs
logs.configure("info", "json", "worker")
dramatiq.set_broker(StubBroker())
"""
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "dramatiq", "logging_worker", "--processes", "1", "--threads", "1"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    limit = threading.Timer(90, process.kill)
    limit.start()
    try:
        ready = next((line for line in process.stderr if "is ready for action" in line), "")
    finally:
        process.terminate()
        _, rest = process.communicate(timeout=90)
        limit.cancel()
    assert json.loads(ready)["process"] == "worker"
    assert "Worker process is ready for action" in ready
    assert [line for line in rest.splitlines() if "WorkerProcess" in line and not line.startswith("{")] == []

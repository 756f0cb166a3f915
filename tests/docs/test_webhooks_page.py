"""docs/webhooks.md: its receivers accept a real delivery and refuse a changed one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sytq import config
from tests.plugins.deliveries import attempt_now, settings
from tests.receiver import Receiver
from tests.servers import free_port, poll

PAGE = (Path(__file__).parents[2] / "docs/webhooks.md").read_text("utf-8")
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = '{"报告": "完成", "a": 1}\r\n'


def snippet(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.fixture
def php(tmp_path: Path) -> Iterator[str]:
    """The receiver of the page, served by PHP."""
    if shutil.which("php") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("with CI=true php must be there")
        pytest.skip("no php here")
    script, port = tmp_path / "receiver.php", free_port()
    script.write_text(snippet("php"))
    server = subprocess.Popen(
        ["php", "-S", f"127.0.0.1:{port}", str(script)],
        env=os.environ | {"WEBHOOK_SECRET": SECRET},
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}/hook"

    def answers() -> bool:
        try:
            urllib.request.urlopen(url, b"", timeout=5)
        except urllib.error.HTTPError as error:
            return error.code == 401  # unsigned
        except OSError:
            return False
        return False

    try:
        poll(answers, message="php serves")
        yield url
    finally:
        server.terminate()
        server.wait(10)


def test_php_receiver_accepts_only_genuine_deliveries(php: str) -> None:
    payload = {"url": php, "body": BODY}
    other = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
    assert attempt_now(payload, settings(webhook__secret=SECRET)).result["status"] == 204
    rotating = [{"match": "*", "secret": other, "previous": SECRET, "until": "2999-01-01"}]
    assert attempt_now(payload, settings(webhook__secrets=rotating)).result["status"] == 204
    assert "HTTP 401" in (attempt_now(payload, settings(webhook__secret=other)).outcome.error or "")


def test_python_receiver_accepts_only_genuine_deliveries() -> None:
    found: dict[str, Any] = {}
    exec(snippet("python"), found)
    receiver = Receiver(204)
    try:
        attempt_now({"url": receiver.url, "body": BODY}, settings(webhook__secret=SECRET))
    finally:
        receiver.close()
    (arrived,) = receiver.received
    assert found["is_genuine"](SECRET, arrived.body, arrived.headers)
    assert not found["is_genuine"](SECRET, arrived.body + b" ", arrived.headers)
    assert not found["is_genuine"](SECRET, arrived.body, arrived.headers | {"webhook-timestamp": "1614265330"})
    assert not found["is_genuine"](SECRET, arrived.body, {})


def test_go_receiver_accepts_only_genuine_deliveries(tmp_path: Path) -> None:
    if shutil.which("go") is None:
        pytest.skip("no go here")
    receiver = Receiver(204)
    try:
        attempt_now({"url": receiver.url, "body": BODY}, settings(webhook__secret=SECRET))
    finally:
        receiver.close()
    (arrived,) = receiver.received
    headers = "\n".join(f'\theader.Set("{name}", "{value}")' for name, value in arrived.headers.items())
    (tmp_path / "go.mod").write_text("module webhook\n\ngo 1.21\n")
    (tmp_path / "webhook.go").write_text(snippet("go"))
    (tmp_path / "body").write_bytes(arrived.body)
    (tmp_path / "webhook_test.go").write_text(
        'package webhook\n\nimport (\n\t"net/http"\n\t"os"\n\t"testing"\n)\n\nfunc TestIt(t *testing.T) {\n'
        f'\tbody, _ := os.ReadFile("body")\n\theader := http.Header{{}}\n{headers}\n'
        f'\tif !IsGenuine("{SECRET}", body, header) || IsGenuine("{SECRET}", body[1:], header) {{\n'
        '\t\tt.Fatal("wrong")\n\t}\n}\n'
    )
    subprocess.run(["go", "test", "./..."], cwd=tmp_path, check=True)


def test_the_configuration_of_the_page_loads(tmp_path: Path) -> None:
    for number, text in enumerate(re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)):
        assert yaml.safe_load(text)
        file = tmp_path / f"{number}.yaml"
        file.write_text(text)
        config.load(str(file), environ={})

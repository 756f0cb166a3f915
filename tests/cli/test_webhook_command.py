"""`sytq webhook test`: one real, signed delivery."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks
from typer.testing import CliRunner

from sytq.cli import app
from tests.receiver import Receiver

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SYTQ_DATABASE__URL", f"sqlite:///{tmp_path / 'sytq.db'}")
    monkeypatch.setenv("SYTQ_REDIS__URL", "redis://127.0.0.1:1")  # the command needs neither store
    monkeypatch.setenv("SYTQ_OUTBOUND__ALLOW_NETWORKS", '["127.0.0.0/8"]')
    monkeypatch.setenv("SYTQ_WEBHOOK__SECRET", SECRET)


def run(*words: str) -> Any:
    return CliRunner().invoke(app, ["webhook", "test", *words])


def test_a_test_delivery_is_signed_and_shows_the_answer() -> None:
    receiver = Receiver(204)
    done = run(receiver.url, "--header", "X-Own: a:b")
    receiver.close()
    assert done.exit_code == 0, done.output
    (arrived,) = receiver.received
    standardwebhooks.Webhook(SECRET).verify(arrived.body, arrived.headers)
    assert arrived.headers["x-own"] == "a:b" and json.loads(arrived.body)["type"] == "test"
    assert f"id        {arrived.headers['webhook-id']}" in done.output
    assert "status    204" in done.output and "connect" in done.output and "delivered" in done.output


def test_failed_test_delivery_exits_1_with_the_error() -> None:
    receiver = Receiver(503)
    done = run(receiver.url, "--json", "--body", "x")
    receiver.close()
    assert done.exit_code == 1
    known = json.loads(done.stdout)
    assert known["delivered"] is False and known["status"] == 503 and "HTTP 503" in known["error"]
    assert receiver.received[0].body == b"x"
    assert run("http://127.0.0.1:1/").exit_code == 1


def test_a_test_delivery_shows_what_of_the_answer_was_not_read() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with listening.accept()[0] as connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nContent-Length: 2\r\n\r\nok")

        threading.Thread(target=answer, daemon=True).start()
        done = run(f"http://127.0.0.1:{listening.getsockname()[1]}/")
    assert done.exit_code == 0 and "verdict   delivered" in done.output
    assert "cut       the head cannot be read as HTTP; no body was read" in done.output


@pytest.mark.parametrize("url", ["http://10.0.0.1/", "nonsense"])
def test_url_that_submissions_refuse_is_refused(url: str) -> None:
    done = run(url)
    assert done.exit_code == 1 and "url" in str(done.exception)

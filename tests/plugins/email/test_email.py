"""Mail, against a real SMTP server: recipients, retries, templates, attachments and refused input."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from sytq import Fail, Retry, Waiting
from sytq.config import load
from sytq.errors import ConfigError, InvalidInput
from sytq.runtime import Runtime
from sytq.tasktypes.registry import Registry
from tests.installation import BUILT_IN, Installation
from tests.plugins.email.server import PEM, MailServer
from tests.plugins.running import Run, runtime_of

SENDER = "Shop <shop@example.org>"


@pytest.fixture
def server() -> Iterator[MailServer]:
    made = MailServer().start()
    yield made
    made.stop()


def section(port: int, **more: Any) -> dict[str, str]:
    own = {"host": "127.0.0.1", "port": port, "security": "none", "sender": SENDER} | more
    return {"TYPES__EMAIL": json.dumps(own)}


def mailing(folder: Path, redis_url: str, port: int, **more: Any) -> AbstractContextManager[Runtime]:
    """An installation whose mail server is at `port`."""
    return runtime_of(f"sqlite:///{folder / 'sytq.db'}", redis_url, **section(port, **more))


@pytest.fixture
def runtime(tmp_path: Path, redis_url: str, server: MailServer) -> Iterator[Runtime]:
    for folder in ("templates", "files"):
        (tmp_path / folder).mkdir()
    folders = {"templates": str(tmp_path / "templates"), "attachments": [str(tmp_path / "files")]}
    with mailing(tmp_path, redis_url, server.port, **folders) as made:
        yield made


def send(runtime: Runtime, **payload: Any) -> Any:
    return Run(runtime, "email", {"to": "a@example.com"} | payload).start()


def test_a_message_arrives_with_both_bodies_and_its_recipients(runtime: Runtime, server: MailServer) -> None:
    run = Run(
        runtime,
        "email",
        {
            "to": ["Ann Ö. <a@example.com>", "b@exämple.com"],
            "cc": "c@example.com",
            "bcc": "d@example.com",
            "reply_to": "help@example.org",
            "subject": "Größe: 报告",
            "text": "Hällo\n.\n..dots",
            "html": "<p>Hällo</p>",
        },
        created_at=dt.datetime(2026, 7, 1, 12, 0, tzinfo=dt.UTC),
    )
    result = run.start()
    (message,) = server.messages
    addresses = ["a@example.com", "b@xn--exmple-cua.com", "c@example.com", "d@example.com"]
    assert server.recipients == [addresses]
    assert result == {"message_id": f"<{run.id}@example.org>", "sent": addresses, "refused": {}}
    assert message["Message-ID"] == f"<{run.id}@example.org>"
    assert message["From"] == SENDER
    assert message["To"] == '"Ann Ö." <a@example.com>, b@xn--exmple-cua.com'
    assert (message["Cc"], message["Reply-To"], message["Bcc"]) == ("c@example.com", "help@example.org", None)
    assert message["Subject"] == "Größe: 报告"
    assert message["Date"].datetime == dt.datetime(2026, 7, 1, 12, 0, tzinfo=dt.UTC)
    text, html = message.get_body(("plain",)), message.get_body(("html",))
    assert text and text.get_content().replace("\r\n", "\n") == "Hällo\n.\n..dots\n"
    assert html and html.get_content().strip() == "<p>Hällo</p>"
    assert all(ord(c) < 128 for c in message.as_string())


def test_only_temporarily_refused_recipients_are_retried(runtime: Runtime, server: MailServer) -> None:
    server.replies = {"b@example.com": ["450 greylisted <b@example.com>"] * 2, "c@example.com": ["550 no such user"]}
    run = Run(runtime, "email", {"to": ["a@example.com", "b@example.com", "c@example.com"], "subject": "x"})
    for _ in range(2):
        with pytest.raises(Retry, match=r"^1 refused for now \(450\); 1 sent$") as raised:
            run.start()
        assert not raised.value.consumes_attempt
    result = run.start()
    assert server.recipients == [["a@example.com"], ["b@example.com"]]
    assert result["sent"] == ["a@example.com", "b@example.com"]
    assert result["refused"] == {"c@example.com": "550 no such user"}
    # The same message for both recipients, and further attempts send nothing.
    assert len({message["Message-ID"] for message in server.messages}) == 1
    assert run.start() == result
    assert len(server.messages) == 2


@pytest.mark.parametrize("key", ["a@example.com", "MAIL", "DATA"])
def test_permanent_refusal_is_final_and_quotes_no_address(runtime: Runtime, server: MailServer, key: str) -> None:
    server.replies = {key: ["554 <a@example.com> is not wanted"]}
    with pytest.raises(Fail, match=r"^refused for good for all 1 recipients \(554\)$"):
        send(runtime)
    assert server.messages == []


def test_temporarily_refused_mail_is_resent_to_all_recipients(runtime: Runtime, server: MailServer) -> None:
    server.replies = {"DATA": ["452 disk full"]}
    run = Run(runtime, "email", {"to": ["a@example.com", "b@example.com"]})
    with pytest.raises(Retry, match=r"2 refused for now \(452\)"):
        run.start()
    assert run.start()["sent"] == ["a@example.com", "b@example.com"]


@pytest.mark.parametrize("hangs_up_after", [3, 20, None])
def test_unknown_recipients_keep_no_others_from_their_mail(
    runtime: Runtime, server: MailServer, hangs_up_after: int | None
) -> None:
    unknown = [f"unknown{number}@example.com" for number in range(25)]
    known = [f"known{number}@example.com" for number in range(4)]
    server.hangs_up_after = hangs_up_after
    server.replies = {one: ["550 no such user"] * 30 for one in unknown}
    result = send(runtime, to=[*known[:2], *unknown[:20], known[2], *unknown[20:], known[3]])
    assert sorted(result["sent"]) == known
    assert result["refused"] == dict.fromkeys(unknown, "550 no such user")
    assert sorted(one for message in server.recipients for one in message) == known, "each gets it once"


@pytest.mark.parametrize("says", ["452 4.5.3 too many recipients", "552 too many", "421 4.7.0 too many, closing"])
@pytest.mark.parametrize("most", [1, 2])
def test_a_limit_of_recipients_divides_the_message(runtime: Runtime, server: MailServer, most: int, says: str) -> None:
    server.most, server.says_beyond = most, says
    to = [f"known{number}@example.com" for number in range(5)]
    assert send(runtime, to=to)["sent"] == to
    assert [one for message in server.recipients for one in message] == to
    assert max(map(len, server.recipients)) == most


def test_too_many_recipients_by_its_old_code_is_no_refusal_for_good(runtime: Runtime, server: MailServer) -> None:
    server.replies = {"a@example.com": ["552 too many recipients"]}
    run = Run(runtime, "email", {"to": "a@example.com"})
    with pytest.raises(Retry, match=r"^1 refused for now \(452\)$"):
        run.start()
    assert run.start()["sent"] == ["a@example.com"]


@pytest.mark.parametrize(
    ("key", "reply", "says"),
    [
        ("MAIL", "530 5.7.0 Authentication required", "demands a login (530): set types.email.username"),
        ("a@example.com", "530 5.7.0 Authentication required", "demands a login (530): set types.email.username"),
        ("MAIL", "535 5.7.8 credentials invalid", "does not accept the user name or password (535)"),
        ("MAIL", "454 4.7.0 Temporary authentication failure", "cannot check the login now (454)"),
        ("a@example.com", "421 4.3.2 shutting down", "refuses the conversation (421)"),
    ],
)
def test_what_refuses_the_session_refuses_no_recipient(
    runtime: Runtime, server: MailServer, key: str, reply: str, says: str
) -> None:
    server.replies = {key: [reply]}
    run = Run(runtime, "email", {"to": ["a@example.com", "b@example.com"]})
    with pytest.raises(Retry, match=re.escape(says)):
        run.start()
    runtime.limiters.resume(f"smtp:127.0.0.1:{server.port}")  # after a refused login
    assert run.start()["sent"] == ["a@example.com", "b@example.com"]


def test_mail_waits_without_a_login_while_the_server_refuses_it(runtime: Runtime, server: MailServer) -> None:
    server.replies = {"MAIL": ["535 5.7.8 credentials invalid"]}
    with pytest.raises(Retry, match="does not accept the user name") as refused:
        send(runtime)
    name = f"smtp:127.0.0.1:{server.port}"
    assert runtime.submitter.prepare("email", {"to": "a@example.com"}).limiters == (name,)
    with pytest.raises(Waiting, match=f"waiting for {name}: paused by email"):
        send(runtime)
    assert server.messages == []
    assert refused.value.permit is not None and refused.value.permit.refused_by == name


def assert_mail_is_retried_for_a_day(runtime: Runtime, says: str) -> None:
    """Each delay is about the age of the message, between 10 s and 900 s; the age grows while the test runs."""

    def sent(age: float) -> Run:
        return Run(runtime, "email", {"to": "a@example.com"}, dt.datetime.now(dt.UTC) - dt.timedelta(seconds=age))

    for age, delay in ((0, 10), (100, 100), (7200, 900)):
        with pytest.raises(Retry, match=says) as raised:
            sent(age).start()
        assert not raised.value.consumes_attempt
        assert delay - 5 <= float(raised.value.after or 0) < delay + 30
    with pytest.raises(Fail, match=rf"given up after 90\d\d\d s: {says}"):
        sent(25 * 3600).start()


def test_retry_delay_grows_with_age_and_retries_end_at_keep_trying(runtime: Runtime, server: MailServer) -> None:
    server.replies = {"a@example.com": ["450 later"] * 9}
    assert_mail_is_retried_for_a_day(runtime, r"1 refused for now \(450\)")


def test_unavailable_server_consumes_no_attempt(tmp_path: Path, redis_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    unavailable = pytest.raises(Retry, match=f"no connection to 127.0.0.1:{port}")
    with mailing(tmp_path, redis_url, port) as runtime, unavailable as raised:
        send(runtime)
    assert not raised.value.consumes_attempt


def test_mail_without_a_configured_server_waits_until_keep_trying(tmp_path: Path) -> None:
    with runtime_of(f"sqlite:///{tmp_path / 'a.db'}", "redis://127.0.0.1:1/0") as runtime:
        assert_mail_is_retried_for_a_day(runtime, r"no mail server is configured: set types\.email\.host and \.sender")


def test_slow_server_is_abandoned_at_the_deadline(tmp_path: Path, redis_url: str) -> None:
    stop = threading.Event()

    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            while not stop.wait(0.02):
                try:
                    connection.sendall(b"2")
                except OSError:
                    return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,))
        thread.start()
        with mailing(tmp_path, redis_url, listener.getsockname()[1], deadline="500ms") as runtime:
            begun = time.monotonic()
            with pytest.raises(Retry, match="was not done within"):
                send(runtime)
            assert time.monotonic() - begun < 30
        stop.set()
        thread.join()


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_tls_certificate_and_login_are_verified(tmp_path: Path, redis_url: str, security: str) -> None:
    server = MailServer(tls=security, user="u", password="right").start()
    common = {"host": "localhost", "security": security, "username": "u"}
    try:
        for more, says in (
            ({"password": "right"}, r"no TLS with localhost:\d+: its certificate"),
            ({"password": "wrong", "ca_file": str(PEM)}, r"does not accept the user name or password \(535\)"),
            ({"password": "right", "ca_file": str(tmp_path / "none")}, "ca_file cannot be read"),
        ):
            with (
                mailing(tmp_path, redis_url, server.port, **common, **more) as runtime,
                pytest.raises(Retry, match=says),
            ):
                send(runtime)
        assert server.messages == []
        with mailing(tmp_path, redis_url, server.port, **common, password="right", ca_file=str(PEM)) as runtime:
            assert send(runtime)["sent"] == ["a@example.com"]
    finally:
        server.stop()


def test_mail_goes_on_when_a_worker_has_another_password(tmp_path: Path, redis_url: str) -> None:
    server = MailServer(tls="starttls", user="u", password="right").start()
    own = {"host": "localhost", "port": server.port, "security": "starttls", "username": "u", "ca_file": str(PEM)}

    def configured(password: str) -> str:
        return json.dumps(own | {"sender": SENDER, "password": password})

    made = Installation(tmp_path, f"sqlite:///{tmp_path / 'sytq.db'}", redis_url, **BUILT_IN)
    try:
        made.start_worker(SYTQ_TYPES__EMAIL=configured("wrong"))
        mails = [made.runtime.submitter.prepare("email", {"to": f"{name}@example.com", "text": "x"}) for name in "abc"]
        made.runtime.submitter.submit(mails)
        tasks = [mail.id for mail in mails]
        for task in tasks:
            assert "does not accept the user name" in str(made.wait_state(task, "retrying").error)
        made.start_worker(SYTQ_TYPES__EMAIL=configured("right"))
        made.workers[0].kill()
        for task in tasks:
            made.wait_state(task, "succeeded", timeout=60)
    finally:
        made.close()
        server.stop()


def test_missing_starttls_prevents_sending_in_plain_text(tmp_path: Path, redis_url: str, server: MailServer) -> None:
    own = {"security": "starttls", "username": "u", "password": "p"}
    refused = pytest.raises(Retry, match="offers no STARTTLS")
    with mailing(tmp_path, redis_url, server.port, **own) as runtime, refused:
        send(runtime)
    assert server.messages == []


@pytest.mark.parametrize(
    "payload",
    [
        {"subject": "x\r\nBcc: e@example.com"},
        {"subject": "x\nBcc: e@example.com"},
        {"to": "a@example.com\r\nRCPT TO:<e@example.com>"},
        {"to": "A\r\n <a@example.com>"},
        {"to": "a@example.com>,<e@example.com"},
        {"to": "a b@example.com"},
        {"to": "nobody"},
        {"to": "ä@example.com"},
        {"reply_to": "x\u2028y@example.com"},
        {"attachments": [{"path": "x", "name": "x\r\nContent-Type: text/html"}]},
        {"template": "../secret"},
        {"template": "t", "text": "x"},
        {"headers": {"X-Y": "z"}},
        {"sender": "boss@example.org"},
    ],
)
def test_header_injection_is_refused_at_submission(runtime: Runtime, payload: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        runtime.submitter.prepare("email", {"to": "a@example.com"} | payload)


def test_template_renders_subject_text_and_html(runtime: Runtime, server: MailServer, tmp_path: Path) -> None:
    templates = tmp_path / "templates"
    (templates / "hello.subject.txt").write_text("For {{ name }}\n")
    (templates / "hello.txt").write_text("Dear {{ name }}, {% include 'foot.txt' %}")
    (templates / "hello.html").write_text("<p>Dear {{ name }}</p>")
    (templates / "foot.txt").write_text("yours")
    send(runtime, template="hello", data={"name": "A <b>\r\nBcc: e@example.com"})
    (message,) = server.messages
    assert message["Subject"] == "For A <b>  Bcc: e@example.com"
    assert (message["Bcc"], server.recipients) == (None, [["a@example.com"]])
    text, html = message.get_body(("plain",)), message.get_body(("html",))
    assert text and text.get_content().startswith("Dear A <b>")
    assert text.get_content().rstrip().endswith("yours")
    assert html and "<p>Dear A &lt;b&gt;" in html.get_content()


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ name.__class__.__mro__ }}", "SecurityError"),
        ("{{ ''.__class__.__base__.__subclasses__() }}", "SecurityError"),
        ("{{ data.pop() }}", "UndefinedError: 'data' is undefined"),
        ("{% for n in range(10000000) %}x{% endfor %}", "OverflowError"),
        ("{% for n in range(90000) %}{{ 'x' * 99 }}{% endfor %}", "more than 4194304 characters"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% if %}", "template t.txt line 1: TemplateSyntaxError"),
        ("{% include 'other.txt' %}", "includes other.txt, which is not there"),
        ("{% include '../../etc/passwd' %}", "includes ../../etc/passwd, which is not there"),
    ],
)
def test_a_template_cannot_leave_its_sandbox(
    runtime: Runtime, server: MailServer, tmp_path: Path, template: str, says: str
) -> None:
    (tmp_path / "templates" / "t.txt").write_text(template)
    with pytest.raises(Fail) as failed:
        send(runtime, template="t", data={"name": "hush"})
    assert says in str(failed.value)
    assert "hush" not in str(failed.value)
    assert server.messages == []


def test_missing_template_is_named_in_the_error(runtime: Runtime) -> None:
    with pytest.raises(Fail, match=r"neither nosuch\.txt nor nosuch\.html"):
        send(runtime, template="nosuch")


def test_attachments_are_read_from_the_listed_folder(runtime: Runtime, server: MailServer, tmp_path: Path) -> None:
    files = tmp_path / "files"
    (files / "deep").mkdir()
    (files / "deep" / "r.pdf").write_bytes(b"%PDF\x00\xff")
    (files / "inside").symlink_to(files / "deep")
    send(
        runtime,
        attachments=[
            {"path": "deep/r.pdf"},
            {"path": str(files / "inside" / "r.pdf"), "name": "Prüfung.bin"},
        ],
    )
    (message,) = server.messages
    found = [(part.get_filename(), part.get_content_type(), part.get_content()) for part in message.iter_attachments()]
    assert found == [
        ("r.pdf", "application/pdf", b"%PDF\x00\xff"),
        ("Prüfung.bin", "application/octet-stream", b"%PDF\x00\xff"),
    ]


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "link", "folder/secret", "pipe", ".", "nosuch", "a\0b"])
def test_attachment_path_outside_the_folder_is_refused(
    runtime: Runtime, server: MailServer, tmp_path: Path, path: str
) -> None:
    (tmp_path / "secret").write_text("hush")
    files = tmp_path / "files"
    (files / "link").symlink_to(tmp_path / "secret")
    (files / "folder").symlink_to(tmp_path)
    os.mkfifo(files / "pipe")
    with pytest.raises(Fail, match=r"attachments\.0: not a file in one of the folders of types\.email\.attachments"):
        send(runtime, attachments=[{"path": path}])
    assert server.messages == []


def test_total_size_of_attachments_is_limited(tmp_path: Path, redis_url: str, server: MailServer) -> None:
    (tmp_path / "a").write_bytes(b"x" * 600)
    with mailing(tmp_path, redis_url, server.port, attachments=[str(tmp_path)], max_attachments="1KiB") as runtime:
        send(runtime, attachments=[{"path": "a"}])
        with pytest.raises(Fail, match=r"attachments\.1: larger than types\.email\.max_attachments"):
            send(runtime, attachments=[{"path": "a"}, {"path": "a"}])


def test_configured_recipient_gets_mail_without_recipients(tmp_path: Path, redis_url: str, server: MailServer) -> None:
    nobody = pytest.raises(Fail, match=r"neither the payload nor types\.email\.to")
    with mailing(tmp_path, redis_url, server.port) as runtime, nobody:
        Run(runtime, "email", {}).start()
    with mailing(tmp_path, redis_url, server.port, to="ops@example.org") as runtime:
        assert Run(runtime, "email", {}).start()["sent"] == ["ops@example.org"]


@pytest.mark.parametrize(
    ("own", "says"),
    [
        ({"host": "h"}, r"types\.email\.sender: value '' is not valid: host without a sender"),
        (
            {"host": "h", "sender": SENDER, "security": "none", "username": "u", "password": "hush"},
            r"types\.email\.security: value 'none' is not valid: a password would go in the clear; valid: starttls",
        ),
        ({"hots": "h"}, r"types\.email\.hots: no such setting; did you mean types\.email\.host\?"),
        ({"to": "nobody"}, r"types\.email\.to\.0: value 'nobody' is not valid"),
    ],
)
def test_invalid_configuration_is_refused_at_startup(own: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        Registry.load(load(environ={"SYTQ_TYPES__EMAIL": json.dumps(own)}))
    assert "hush" not in str(error.value)


@pytest.mark.faults
def test_mail_of_a_killed_worker_is_resent_with_the_same_message_id(
    tmp_path: Path, redis_url: str, server: MailServer
) -> None:
    server.hold = threading.Event()
    own = {f"SYTQ_{name}": value for name, value in section(server.port).items()}
    installation = Installation(tmp_path, f"sqlite:///{tmp_path / 'sytq.db'}", redis_url, **own)
    try:
        worker = installation.start_worker()
        task = installation.runtime.submitter.prepare("email", {"to": "a@example.com", "text": "once"})
        installation.runtime.submitter.submit([task])
        assert server.reached.wait(90)  # the server has the message, without an answer to the worker
        worker.kill()
        server.hold.set()
        installation.start_worker()
        row = installation.wait_state(task.id, "succeeded")
        assert json.loads(row.result)["sent"] == ["a@example.com"]
        first, second = server.messages
        assert (first["Message-ID"], first["Date"]) == (second["Message-ID"], second["Date"])
    finally:
        installation.close()

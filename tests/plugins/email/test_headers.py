"""A message read by other libraries than the one that wrote it has the same recipients, subject and names."""

from __future__ import annotations

import datetime as dt
import email.header
import email.utils
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from fast_mail_parser import parse_email
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError
from sytq_plugins.email import Attachment, Config, Email
from sytq_plugins.email.message import build

CONFIG = Config(host="mail", sender='"Shop, Ö." <shop@example.org>')  # type: ignore[arg-type]
NOW = dt.datetime(2026, 7, 1, 12, tzinfo=dt.UTC)


def visible(text: str) -> bool:
    """No control character, and no half of a pair."""
    return all(unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") for c in text)


texts = st.text(max_size=120).filter(visible)


def written(**payload: Any) -> bytes:
    message = Email(**{"to": ["a@example.com"], "text": "x"} | payload)
    return build(message, CONFIG, message.to, "0197", NOW)[1]


def decoded(raw: str) -> str:
    return "".join(
        part if isinstance(part, str) else part.decode(charset or "ascii")
        for part, charset in email.header.decode_header(raw.replace("\r\n", ""))
    )


@given(subject=texts)
@example(subject="=?utf-8?q?x?=")
@example(subject=" two  spaces ")
@example(subject="x" * 500)
@example(subject="word " * 60)
@example(subject="报告" * 80)
def test_the_subject_is_read_as_it_was_given(subject: str) -> None:
    data = written(subject=subject)
    assert parse_email(data).subject == subject
    assert decoded(email.message_from_bytes(data)["Subject"]) == subject
    assert_lines(data)


@given(names=st.lists(texts, min_size=1, max_size=5))
@example(names=['O\'Neil "Bob"', "Müller, Hans", "back\\slash", "x <y@z>", "a;b:c", "Dr. (Max)"])
@example(names=["=?utf-8?q?=2C?=", "Ö" * 120, "a" * 200, "😀 party", "'", '"'])
def test_recipients_and_their_names_are_read_as_they_were_given(names: list[str]) -> None:
    names = [name.strip() for name in names]
    quoted = [name.replace("\\", "\\\\").replace('"', '\\"') for name in names]
    data = written(to=[f'"{name}" <a{number}@example.com>' for number, name in enumerate(quoted)])
    message = email.message_from_bytes(data)
    wanted = [(name, f"a{number}@example.com") for number, name in enumerate(names)]
    assert [(decoded(name), at) for name, at in email.utils.getaddresses([message["To"]])] == wanted
    assert [(decoded(name), at) for name, at in email.utils.getaddresses([message["From"]])] == [
        ("Shop, Ö.", "shop@example.org")
    ]
    (shown,) = parse_email(data).headers["To"]
    assert all(f"<{at}>" in shown or shown.endswith(at) or f" {at}," in f" {shown}," for _, at in wanted)
    assert all(name in shown for name in names if '"' not in name and "\\" not in name)
    assert_lines(data)


def assert_lines(data: bytes) -> None:
    """RFC 5322: lines of ASCII, of at most 998 characters, none of them blank before the body."""
    head = data.partition(b"\r\n\r\n")[0]
    assert head.isascii()
    assert max(map(len, head.split(b"\r\n"))) <= 998
    assert all(line.strip() for line in head.split(b"\r\n"))


@pytest.mark.parametrize(
    "name",
    ["report.pdf", "Größe 1.pdf", "报告" * 30 + ".pdf", "=?utf-8?q?x?=.pdf", "100% it's.pdf", "x" * 200 + ".pdf"],
)
def test_the_name_of_an_attachment_is_read_as_it_was_given(name: str, tmp_path: Path) -> None:
    (tmp_path / "file.pdf").write_bytes(b"content")
    message = Email(to=["a@example.com"], attachments=[Attachment(path="file.pdf", name=name)])
    config = CONFIG.model_copy(update={"attachments": [tmp_path]})
    data = build(message, config, message.to, "0197", NOW)[1]
    (attachment,) = parse_email(data).attachments
    assert (attachment.filename, attachment.content) == (name, b"content")
    (part,) = [part for part in email.message_from_bytes(data).walk() if part.get_filename()]
    assert email.utils.collapse_rfc2231_value(str(part.get_filename())) == name


@pytest.mark.parametrize(
    "address",
    [
        ".a@example.com",
        "a.@example.com",
        "a..b@example.com",
        "a b@example.com",
        "a@-example.com",
        "a@b..com",
        "ä@b.com",
    ],
)
def test_an_address_that_no_header_takes_is_refused_at_submission(address: str) -> None:
    for mailbox in (address, f"Ann <{address}>"):
        with pytest.raises(ValidationError, match="not a mail address; valid: name@example"):
            Email(to=[mailbox], text="x")

"""One message as bytes: headers safe from injection, bodies from templates, attachments from listed folders.
A message built again for the same task has the same Message-ID and Date, so that a receiver recognises it.
"""

from __future__ import annotations

import datetime as dt
import mimetypes
import os
import re
import stat
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, parseaddr
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from .headers import mailbox_line, text_line

if TYPE_CHECKING:
    import jinja2

    from . import Attachment, Config, Email

_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_ADDRESS = re.compile(rf"(?=.{{1,64}}@){_ATOM}(?:\.{_ATOM})*@[A-Za-z0-9](?:[A-Za-z0-9.-]{{0,252}}[A-Za-z0-9])?")
_RENDERED_MOST = 4 << 20  # characters of one rendered template
_PLAIN = SMTP.clone(cte_type="7bit")  # for servers without 8BITMIME


class Unbuildable(Exception):
    """The message cannot be built, and a retry would not help."""


def _one_line(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("line breaks and control characters cannot stand in a header")
    return text


def _mailbox(text: str) -> str:
    address(_one_line(text))
    return text


Line = Annotated[str, AfterValidator(_one_line), Field(max_length=500)]
#: `shop@example.org` or `The Shop <shop@example.org>`
Mailbox = Annotated[str, AfterValidator(_mailbox), Field(max_length=320)]


def address(mailbox: str) -> str:
    """The bare address of a mailbox, with its domain in ASCII and lower case. Raises ValueError."""
    _, found = parseaddr(mailbox)
    local, _, domain = found.rpartition("@")
    try:
        bare = f"{local}@{domain.encode('idna').decode().lower()}"
    except UnicodeError:
        bare = ""
    whole = mailbox == found or mailbox.endswith(f"<{found}>")
    if not whole or not _ADDRESS.fullmatch(bare):
        raise ValueError("not a mail address; valid: name@example.org or Name <name@example.org>")
    return bare


def build(payload: Email, config: Config, to: list[str], task_id: str, created_at: dt.datetime) -> tuple[str, bytes]:
    """Return the Message-ID and the whole message. Raises Unbuildable."""
    assert config.sender
    message = EmailMessage(policy=_PLAIN)
    subject, text, html = payload.subject, payload.text, payload.html
    if payload.template:
        rendered = _render(config.templates, payload.template, payload.data)
        subject, text, html = subject or rendered["subject.txt"] or "", rendered["txt"], rendered["html"]
        subject = _CONTROL.sub(" ", subject).strip()
    id_ = f"<{task_id}@{address(config.sender).partition('@')[2]}>"
    head = [mailbox_line("From", _named([config.sender]))]
    head += [mailbox_line(name, _named(mailboxes)) for name, mailboxes in (("To", to), ("Cc", payload.cc)) if mailboxes]
    if not to and not payload.cc:
        head.append("To: undisclosed-recipients:;\r\n")
    if payload.reply_to:
        head.append(mailbox_line("Reply-To", _named([payload.reply_to])))
    head.append(text_line("Subject", subject))
    head.append(f"Date: {format_datetime(created_at)}\r\nMessage-ID: {id_}\r\n")
    if text is not None or html is None:
        message.set_content(text or "")
        if html is not None:
            message.add_alternative(html, subtype="html")
    else:
        message.set_content(html, subtype="html")
    left = config.max_attachments
    for number, attachment in enumerate(payload.attachments):
        try:
            name, data = _read(config.attachments, attachment, left)
        except Unbuildable as error:
            raise Unbuildable(f"attachments.{number}: {error}") from None
        left -= len(data)
        kind = (mimetypes.guess_type(name)[0] or "application/octet-stream").split("/")
        message.add_attachment(data, maintype=kind[0], subtype=kind[1], filename=name)
        *_, part = message.iter_attachments()
        part.set_param("filename", name, "Content-Disposition", charset="utf-8")  # else "=?" begins an encoded word
    return id_, "".join(head).encode("ascii") + message.as_bytes()


def _named(mailboxes: list[str]) -> list[tuple[str, str]]:
    return [(parseaddr(mailbox)[0], address(mailbox)) for mailbox in mailboxes]


def _render(folder: Path | None, name: str, data: dict[str, object]) -> dict[str, str | None]:
    """The output of `<name>.subject.txt`, `<name>.txt` and `<name>.html`; None for a missing file."""
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    if folder is None:
        raise Unbuildable("a template is named, and types.email.templates names no folder")
    environment = ImmutableSandboxedEnvironment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=jinja2.select_autoescape(["html"], default=False),
        undefined=jinja2.StrictUndefined,
    )
    rendered: dict[str, str | None] = {}
    for part in ("subject.txt", "txt", "html"):
        try:
            rendered[part] = _bounded(environment.get_template(f"{name}.{part}"), data)
        except jinja2.TemplateNotFound as error:
            if error.name != f"{name}.{part}":
                raise Unbuildable(f"template {name}.{part} includes {error.name}, which is not there") from None
            rendered[part] = None
        except jinja2.TemplateError as error:  # its text may quote the data
            line = f" line {error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else ""
            named = f": {error.message}" if isinstance(error, jinja2.UndefinedError) else ""
            raise Unbuildable(f"template {name}.{part}{line}: {type(error).__name__}{named}") from None
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise Unbuildable(f"template {name}.{part} fails on this data: {type(error).__name__}") from None
    if rendered["txt"] is None and rendered["html"] is None:
        raise Unbuildable(f"types.email.templates has neither {name}.txt nor {name}.html")
    return rendered


def _bounded(template: jinja2.Template, data: dict[str, object]) -> str:
    parts, size = [], 0
    for part in template.generate(**data):
        size += len(part)
        if size > _RENDERED_MOST:
            raise Unbuildable(f"a template made more than {_RENDERED_MOST} characters")
        parts.append(part)
    return "".join(parts)


def _read(folders: list[Path], attachment: Attachment, most: int) -> tuple[str, bytes]:
    """Name and content of a file inside one of `folders`, after resolving links. Raises Unbuildable."""
    if not folders:
        raise Unbuildable("types.email.attachments names no folder")
    for folder in folders:
        try:
            inside = folder.resolve(strict=True)
            file = (inside / attachment.path).resolve(strict=True)
            if not file.is_relative_to(inside):
                continue
            # The real path: no later symlink is followed, and opening a pipe does not block.
            descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except (OSError, ValueError, RuntimeError):
            continue
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            continue
        with open(descriptor, "rb") as opened:
            data = opened.read(most + 1)
        if len(data) > most:
            raise Unbuildable("larger than types.email.max_attachments leaves room for")
        return attachment.name or _CONTROL.sub("_", Path(attachment.path).name), data
    raise Unbuildable("not a file in one of the folders of types.email.attachments")

"""The header lines of a message by RFC 5322 and RFC 2047, from which every reader gets back what was given.

Python's EmailMessage folds and encodes headers too, differently in each version, and takes a text that looks encoded
for an encoded one.
"""

from __future__ import annotations

import re
from email.header import Header

_PHRASE = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")


def text_line(name: str, text: str) -> str:
    """A header with any text on one line."""
    words = text.split()
    plain = text.isascii() and "=?" not in text and text == " ".join(words) and all(len(word) < 60 for word in words)
    folded = Header(text, "us-ascii" if plain else "utf-8", header_name=name).encode(linesep="\r\n")
    return f"{name}: {folded}\r\n"


def mailbox_line(name: str, mailboxes: list[tuple[str, str]]) -> str:
    """A header with mailboxes, each a display name (or "") and an address."""
    listed = ",\r\n ".join(f"{_phrase(display)} <{address}>" if display else address for display, address in mailboxes)
    return f"{name}: {listed}\r\n"


def _phrase(name: str) -> str:
    if not name.isascii() or "=?" in name:
        return Header(name, "utf-8").encode(linesep="\r\n")
    if _PHRASE.fullmatch(name):
        return name
    quoted = re.sub(r'(["\\])', r"\\\1", name)
    return f'"{quoted}"'

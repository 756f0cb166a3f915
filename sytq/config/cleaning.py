"""Takes off what copying leaves around secrets and addresses, and refuses what cannot stand inside one.

Works on the settings of all layers, also of plugins: a secret is known by type or name, an address by type.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from sytq.config.masking import MASK
from sytq.config.problems import Path, Place, is_secret, source

#: White space and the invisible characters of editors and web pages: byte order mark, zero-width space, joiners.
_BLANK = "[\\s\ufeff\u200b\u200c\u200d\u2060]+"
_ENDS = re.compile(rf"\A{_BLANK}|{_BLANK}\Z")


class OneLine:
    """Among the annotations of a type: its text is cleaned like a secret."""


def cleaned(value: Any, place: Place | None, problems: list[str], origins: Mapping[str, str], path: Path = ()) -> Any:
    """The settings with clean secrets and addresses; names those that cannot be used in `problems`."""

    def below(key: str, inner: Any) -> Any:
        return cleaned(inner, place and place.below(key), problems, origins, (*path, key))

    if isinstance(value, dict):
        return {key: below(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [below(str(number), inner) for number, inner in enumerate(value)]
    one_line = place is not None and any(isinstance(note, OneLine) for note in place.notes)
    if not isinstance(value, str) or not (is_secret(path, place) or one_line):
        return value
    text = trimmed(value)
    if reason := _defect(text):
        said = f"value '{MASK}' is not valid: {reason}; valid: the bare text, in one line"
        problems.append(f"{'.'.join(path)}: {said}{source(path, origins)}")
    return text


def trimmed(text: str) -> str:
    """The text without white space and invisible characters at its ends."""
    return _ENDS.sub("", text)


def _defect(text: str) -> str | None:
    # urlsplit drops bare line breaks without a word, and a percent-encoded one is part of the password.
    decoded = unquote(text) if "://" in text else text
    if any(unicodedata.category(character) == "Cc" for character in text + decoded):
        return "a line break or another control character stands inside"
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'`":
        return "the quotes around it are part of the value"
    return None

"""Reads a payload from the words of a command line: `key=value`, `nested.key=value`, `key:=json`, `key=@file`."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sytq.api.body import parse_object
from sytq.errors import InvalidInput

VALID = "key=value, key:=json, key=@file, nested.key=value; a whole payload as @file.json, - (standard input) or JSON"
_WORD = re.compile(r"([^=:]+)(:?=)(.*)", re.DOTALL)


def payload(words: Sequence[str]) -> dict[str, Any]:
    """Build the object: a whole payload (JSON, file or standard input) first, then single fields over it.

    Raises InvalidInput naming the word or the field.
    """
    whole = [word for word in words if word == "-" or word[:1] in ("@", "{")]
    if len(whole) > 1:
        raise InvalidInput(whole[1][:64], "give only one whole payload")
    found = parse_object(_read(whole[0])) if whole else {}
    given: set[str] = set()
    for word in words:
        if word in whole:
            continue
        match = _WORD.fullmatch(word)
        if match is None:
            raise InvalidInput(word[:64], f"not a field; valid: {VALID}")
        key, sign, text = match.groups()
        if key in given:
            raise InvalidInput(key[:64], f'given twice; write a list as {key[:64]}:=\'["a", "b"]\'')
        given.add(key)
        _put(found, key, _value(key, sign, text))
    return found


def _value(key: str, sign: str, text: str) -> Any:
    data = _read(text) if text != "-" else b"-"
    if sign == ":=":
        # Read as a member of an object, as strictly as every payload.
        try:
            return parse_object(b'{"value": %s\n}' % data)["value"]
        except InvalidInput as error:
            raise InvalidInput(key[:64], f"{error.message}; write text without the colon: {key[:64]}=...") from None
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(key[:64], f"not UTF-8 at byte {error.start}") from None


def _put(into: dict[str, Any], key: str, value: Any) -> None:
    *above, last = key.split(".")
    for depth, name in enumerate(above):
        inner = into.setdefault(name, {})
        if not isinstance(inner, dict):
            raise InvalidInput(
                key[:64], f"'{'.'.join(above[: depth + 1])[:64]}' already has a value that is not an object"
            )
        into = inner
    if not all((*above, last)):
        raise InvalidInput(key[:64], "part of the name is empty")
    into[last] = value


def _read(word: str) -> bytes:
    """Read standard input for `-`, the file for `@file`, else the word itself. Raises InvalidInput."""
    if word == "-":
        return sys.stdin.buffer.read()
    if not word.startswith("@"):
        return word.encode("utf-8", "surrogateescape")
    try:
        return Path(word[1:]).read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise InvalidInput(word[:64], f"the file cannot be read: {reason}") from None

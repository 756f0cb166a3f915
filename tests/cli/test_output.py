"""Output of commands is valid in the encoding of standard output."""

from __future__ import annotations

import json

import pytest

from sytq.cli.output import as_json


def test_lone_surrogate_is_printed_as_json(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    as_json({"result": "half \ud83d", "name": "Zoë"})
    assert json.loads(capsysbinary.readouterr().out) == {"result": "half \ud83d", "name": "Zoë"}

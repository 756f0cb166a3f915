"""What commands print can be printed."""

from __future__ import annotations

import json

import pytest

from sytq.cli.output import as_json


def test_half_an_emoji_in_a_task_is_no_error(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    as_json({"result": "half \ud83d", "name": "Zoë"})
    assert json.loads(capsysbinary.readouterr().out) == {"result": "half \ud83d", "name": "Zoë"}

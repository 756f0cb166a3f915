"""Finds programs on PATH that a test needs. Without one the test is skipped, or fails in CI."""

from __future__ import annotations

import os
import shutil

import pytest


def required(program: str, hint: str) -> str:
    """The path of a program; `hint` says how to get it."""
    found = shutil.which(program)
    if found:
        return found
    if os.environ.get("CI") == "true":
        pytest.fail(f"{program} is not installed ({hint}); with CI=true every program must be there", pytrace=False)
    pytest.skip(f"{program} is not installed ({hint})")

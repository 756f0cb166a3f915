"""All promises at once: random faults under load. `make storm` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.storm.storm import storm

pytestmark = [pytest.mark.faults, pytest.mark.mysql]


def test_no_promise_is_broken_in_half_a_minute_of_random_faults(tmp_path: Path) -> None:
    assert storm(tmp_path, seed=2805, seconds=35, rate=6) == []

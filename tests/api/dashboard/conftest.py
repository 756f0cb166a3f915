"""Installations behind a login, which all modules share. `browser.browse_as` and `browser.log_in` look at them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sytq.ledger.models import MODELS
from tests.api.dashboard.browser import Browser, browse_as
from tests.installation import BUILT_IN, ENGINES, TRIALS, Installation

#: Settings with the built-in types, and the user `admin` beside keys.
GUARDED: dict[str, str | None] = {**BUILT_IN, "SYTQ_AUTH__ENABLED": "true", "SYTQ_AUTH__USERS__ADMIN": "pa55"}


@pytest.fixture(params=ENGINES)
def guarded(request: pytest.FixtureRequest, start_shared: Callable[..., Installation]) -> Installation:
    """The API with auth and no worker, for each engine in turn."""
    mysql = request.getfixturevalue("mysql_server") if request.param == "mysql" else None
    made = start_shared(f"guarded-{request.param}", mysql, **GUARDED)
    made.runtime.database.bind(MODELS)  # the last installation that was made has them
    return made


@pytest.fixture
def staffed(start_shared: Callable[..., Installation], tmp_path: Path) -> Installation:
    """The API with auth and a worker, with the types of tests/trial_plugins and ./plugins, and a schedule in Berlin."""
    nightly = {"type": "plain", "cron": "0 3 * * *", "timezone": "Europe/Berlin"}
    payload = {"journal": "/dev/null", "name": "<nightly>"}
    made = start_shared(
        "staffed",
        None,
        SYTQ_AUTH__ENABLED="true",
        SYTQ_PLUGINS__PATHS=json.dumps([str(TRIALS), str(Path(__file__).parent / "plugins")]),
        SYTQ_SCHEDULES=json.dumps({"nightly": nightly | {"payload": payload}, "cleanup": {"enabled": False}}),
        SYTQ_SCHEDULES__CLEANUP__ENABLED=None,
    )
    if not made.workers:
        made.start_worker()
    made.begin_test(tmp_path / "journal")
    return made


@pytest.fixture
def admin(staffed: Installation) -> Browser:
    return browse_as(staffed, "root", "admin")

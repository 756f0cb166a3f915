"""The system's page: the findings of `sytq doctor`, and each store's share while the other is away."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest

from tests.api.dashboard.browser import browse, log_in
from tests.installation import BUILT_IN, Installation
from tests.servers import poll


def page(installation: Installation) -> str:
    return browse(installation).get("/system").html


def checked(installation: Installation) -> str:
    """The page with the findings."""
    return poll(lambda: (html := page(installation)) and "machine of this API process" in html and html, timeout=60)


def test_checks_run_beside_the_page_and_their_findings_are_shown(running: Installation) -> None:
    since = time.perf_counter()
    page(running)
    assert time.perf_counter() - since < 5  # it waits for none of the checks
    html = checked(running)
    for check in ("redis persistence", "database", "migrations", "plugins", "workers"):
        assert f'<th scope="row">{check}</th>' in html, check
    assert re.search(r'<time datetime="[^"]+">', html)
    assert "Redis answers in" in html and ("up to date" in html or "events wait" in html)
    assert "0016_sessions" in html and "llm" in html
    assert "SYTQ" not in html and "redis://" not in html
    at = re.compile(r"machine of this API process, (<time.*?</time>)")
    assert at.findall(html) == at.findall(page(running))  # they are kept for a while


@pytest.mark.parametrize("scopes", [("read",), ("read", "operate", "submit")])
def test_only_admins_see_the_system(guarded: Installation, scopes: tuple[str, ...]) -> None:
    log_in(guarded, *scopes).get("/system", 403)


def test_broken_plugins_and_pending_migrations_are_named(make_installation: Callable[..., Installation]) -> None:
    api = make_installation(**BUILT_IN)
    folder = api.folder / "own_plugins"
    folder.mkdir()
    (folder / "broken.py").write_text("import no_such_module_<b>\n")
    api.start_api(SYTQ_PLUGINS__PATHS=f'["{folder}"]')
    html = page(api)
    assert "is quarantined: SyntaxError" in html and "<b>" not in html
    api.runtime.database.execute_sql("DELETE FROM sytq_migrations WHERE name = '0016_sessions'")
    assert "The database lacks 0016_sessions" in page(api)

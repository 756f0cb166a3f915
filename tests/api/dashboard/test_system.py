"""The system's page: the findings of `sytq doctor`, and each store's share while the other is away."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest

from tests.api.dashboard.conftest import Guarded
from tests.installation import BUILT_IN, Installation
from tests.servers import RedisServer, poll

BROWSER = {"accept": "text/html"}


def page(installation: Installation) -> str:
    reply = installation.request("GET", "/dashboard/system", headers=BROWSER)
    assert reply.status == 200, reply
    return reply.body.decode()


def test_checks_run_beside_the_page_and_their_findings_are_shown(running: Installation) -> None:
    since = time.perf_counter()
    page(running)
    assert time.perf_counter() - since < 5  # it waits for none of the checks
    html = poll(lambda: (html := page(running)) and "machine of this API process" in html and html, timeout=60)
    for check in ("redis persistence", "database", "migrations", "plugins", "workers"):
        assert f'<th scope="row">{check}</th>' in html, check
    assert re.search(r'<time datetime="[^"]+">', html)
    assert "Redis answers in" in html and ("up to date" in html or "events wait" in html)
    assert "0016_sessions" in html and "llm" in html
    assert "SYTQ" not in html and "redis://" not in html


def test_findings_are_kept_for_a_while(running: Installation) -> None:
    html = poll(lambda: (html := page(running)) and "machine of this API process" in html and html, timeout=60)
    [at] = re.findall(r"machine of this API process, (<time.*?</time>)", html)
    assert [re.findall(r"machine of this API process, (<time.*?</time>)", page(running)) for _ in range(3)] == [
        [at]
    ] * 3


def test_the_checks_count_nothing_among_the_apis_metrics(running: Installation) -> None:
    poll(lambda: "machine of this API process" in page(running), timeout=60)
    assert running.request("GET", "/metrics").status == 200


def test_without_redis_the_page_has_what_the_database_says(
    make_installation: Callable[..., Installation], own_redis: RedisServer
) -> None:
    api = make_installation(redis_url=own_redis.url, **BUILT_IN)
    api.start_api()
    own_redis.kill()
    html = poll(lambda: (html := page(api)) and "Redis does not answer" in html and html, timeout=60)
    assert "0016_sessions" in html
    html = poll(lambda: (html := page(api)) and "machine of this API process" in html and html, timeout=60)
    assert '<span class="state bad">fail</span></td><th scope="row">redis</th>' in html


@pytest.mark.parametrize("scopes", [("read",), ("read", "operate", "submit")])
def test_only_admins_see_the_system(guarded: Guarded, scopes: tuple[str, ...]) -> None:
    assert guarded.logged_in(*scopes).open("/dashboard/system").status == 403


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

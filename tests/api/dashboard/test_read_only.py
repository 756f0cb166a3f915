"""`dashboard.read_only` and `dashboard.enabled`, and the rights of those who log in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sytq.api.dashboard.routes import PAGES
from tests.api.dashboard.conftest import Guarded, settings
from tests.api.dashboard.visitor import form_to, forms
from tests.servers import RedisServer

#: What everyone may do, also where nothing may be changed.
OWN = {"/login", "/logout"}
ACTIONS = sorted(path for path in PAGES if PAGES[path].act is not PAGES[""].act and path not in OWN)


@pytest.fixture(scope="module")
def read_only(folder: Path, redis_server: RedisServer) -> Iterator[Guarded]:
    own = folder / "read_only"
    own.mkdir()
    given = settings(SYTQ_DASHBOARD__READ_ONLY="true")
    api = Guarded(own, f"sqlite:///{own / 'sytq.db'}", redis_server.url, **given)
    api.start_api()
    yield api
    api.close()


def filled(path: str) -> str:
    return "/dashboard" + re.sub(r"\{\w+\}", "webhook", path)


def test_a_read_only_dashboard_changes_nothing_for_an_admin(read_only: Guarded) -> None:
    browser = read_only.logged_in()
    csrf = form_to(browser.open("/dashboard"), "/logout").fields["csrf"]
    assert len(ACTIONS) > 5
    for path in ACTIONS:
        reply = browser.request("POST", filled(path), {"csrf": csrf})
        assert reply.status == 403 and b"read-only" in reply.body, path
    browser.submit(form_to(browser.open("/dashboard"), "/logout"))
    assert browser.path == "/dashboard/login"


def test_a_read_only_dashboard_changes_nothing_by_another_spelling(read_only: Guarded) -> None:
    browser = read_only.browser(Authorization="Basic YWRtaW46cGE1NQ==", Cookie="sytq_csrf=a")
    for path in ("//dashboard/types/webhook/pause", "http://x//dashboard/types/webhook/pause"):
        reply = browser.request("POST", path, {"csrf": "a", "why": "x"})
        assert reply.status == 403 and b"read-only" in reply.body, path


@pytest.mark.parametrize("path", sorted(path for path in PAGES if "{" not in path and path not in OWN))
def test_a_read_only_dashboard_has_no_button(read_only: Guarded, path: str) -> None:
    reply = read_only.logged_in().open(filled(path))
    if reply.status == 200:
        posting = {form.action for form in forms(reply) if form.method == "post"}
        assert posting <= {"/dashboard/logout"}, path


def test_the_api_is_not_concerned_by_a_read_only_dashboard(read_only: Guarded) -> None:
    _, key = read_only.key("shop", "submit")
    body = {"type": "webhook", "payload": {"url": "http://example.com/"}}
    reply = read_only.request("POST", "/v2/tasks", body, {"Authorization": f"Bearer {key}"})
    assert reply.status == 202


@pytest.mark.parametrize("path", [path for path in ACTIONS if PAGES[path].scopes["POST"] != "read"])
def test_a_viewer_changes_nothing_by_a_hand_made_request(guarded: Guarded, path: str) -> None:
    browser = guarded.logged_in("read")
    csrf = form_to(browser.open("/dashboard"), "/logout").fields["csrf"]
    reply = browser.request("POST", filled(path), {"csrf": csrf})
    assert reply.status == 403, reply


def test_a_dashboard_that_is_not_enabled_does_not_exist(make_installation: object) -> None:
    api: Guarded = make_installation(**settings(SYTQ_DASHBOARD__ENABLED="false"))  # type: ignore[operator]
    api.start_api()
    basic = {"Authorization": "Basic YWRtaW46cGE1NQ==", "Accept": "text/html"}
    for path in ("/", "/dashboard", "/dashboard/login", "/dashboard/static/app.js"):
        assert api.request("GET", path, headers=basic).status == 404
    for path in ("/", "/dashboard", "/dashboard/tasks"):
        assert api.request("GET", path, headers={"Accept": "text/html"}).status == 401

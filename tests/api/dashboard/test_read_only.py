"""`dashboard.read_only` and `dashboard.enabled`, and the rights of those who log in."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from sytq.api.dashboard.routes import PAGES
from tests.api.dashboard.browser import browse, log_in, new_key
from tests.api.dashboard.conftest import GUARDED
from tests.installation import Installation

#: What everyone may do, also where nothing may be changed.
OWN = {"/login", "/logout"}
ACTIONS = sorted(path for path in PAGES if PAGES[path].act is not PAGES[""].act and path not in OWN)


@pytest.fixture
def read_only(start_shared: Callable[..., Installation]) -> Installation:
    return start_shared("read-only", None, **GUARDED, SYTQ_DASHBOARD__READ_ONLY="true")


def filled(path: str) -> str:
    return re.sub(r"\{\w+\}", "webhook", path)


def test_a_read_only_dashboard_changes_nothing_for_an_admin(read_only: Installation) -> None:
    browser = log_in(read_only)
    assert len(ACTIONS) > 5
    for path in ACTIONS:
        assert "read-only" in browser.post(filled(path), 403).text, path
    assert browser.submit(browser.get().form("/logout")).path == "/dashboard/login"


def test_a_read_only_dashboard_changes_nothing_by_another_spelling(read_only: Installation) -> None:
    browser = browse(read_only, Authorization="Basic YWRtaW46cGE1NQ==", Cookie="sytq_csrf=a")
    for path in ("//dashboard/types/webhook/pause", "http://x//dashboard/types/webhook/pause"):
        reply = browser.request("POST", path, {"csrf": "a", "why": "x"})
        assert reply.status == 403 and b"read-only" in reply.body, path


@pytest.mark.parametrize("path", sorted(path for path in PAGES if "{" not in path and path not in OWN))
def test_a_read_only_dashboard_has_no_button(read_only: Installation, path: str) -> None:
    reply = log_in(read_only).open(f"/dashboard{path}")
    if reply.status == 200:
        posting = {form.action for form in reply.forms if form.method == "post"}
        assert posting <= {"/dashboard/logout"}, path


def test_the_api_is_not_concerned_by_a_read_only_dashboard(read_only: Installation) -> None:
    _, key = new_key(read_only, "shop", "submit")
    body = {"type": "webhook", "payload": {"url": "http://example.com/"}}
    reply = read_only.request("POST", "/v2/tasks", body, {"Authorization": f"Bearer {key}"})
    assert reply.status == 202


@pytest.mark.parametrize("path", [path for path in ACTIONS if PAGES[path].scopes["POST"] != "read"])
def test_a_viewer_changes_nothing_by_a_hand_made_request(guarded: Installation, path: str) -> None:
    log_in(guarded, "read").post(filled(path), 403)


def test_a_dashboard_that_is_not_enabled_does_not_exist(make_installation: Callable[..., Installation]) -> None:
    api = make_installation(**GUARDED, SYTQ_DASHBOARD__ENABLED="false")
    api.start_api()
    basic = {"Authorization": "Basic YWRtaW46cGE1NQ==", "Accept": "text/html"}
    for path in ("/", "/dashboard", "/dashboard/login", "/dashboard/static/app.js"):
        assert api.request("GET", path, headers=basic).status == 404
    for path in ("/", "/dashboard", "/dashboard/tasks"):
        assert api.request("GET", path, headers={"Accept": "text/html"}).status == 401

"""Forms of other sites change nothing: each needs the session's token and our origin."""

from __future__ import annotations

import pytest

from tests.api.dashboard.browser import Browser, browse, log_in
from tests.installation import Installation


def sessions_end(browser: Browser, **sent: str) -> int:
    fields = {"csrf": sent.pop("csrf")} if "csrf" in sent else {}
    return browser.request("POST", "/dashboard/logout", fields, **sent).status


def test_a_form_without_the_sessions_token_is_refused(guarded: Installation) -> None:
    browser, other = log_in(guarded), log_in(guarded)
    token = browser.csrf
    for wrong in ("", token[:-1], token.upper(), other.csrf, browser.cookies["sytq_session"][0], "ü"):
        assert sessions_end(browser, csrf=wrong) == 403
    assert sessions_end(browser) == 403
    assert sessions_end(browser, csrf=token) == 303


def test_a_neighbours_cookie_is_no_token_of_a_session(guarded: Installation) -> None:
    browser = log_in(guarded)
    browser.cookies["sytq_csrf"] = ("planted", "/dashboard")
    assert sessions_end(browser, csrf="planted") == 403


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://127.0.0.1:1", "http://sub.127.0.0.1", "https://127.0.0.1.evil.example", ""],
)
def test_another_origin_is_refused_even_with_the_token(guarded: Installation, origin: str) -> None:
    browser = log_in(guarded)
    assert sessions_end(browser, csrf=browser.csrf, Origin=origin) == 403


def test_a_login_needs_the_forms_token_and_origin(guarded: Installation) -> None:
    """Else another site logs its visitor in as somebody else."""
    browser = browse(guarded)
    [form] = browser.get("/login").forms
    fields = {"user": "admin", "secret": "pa55"}
    assert browser.request("POST", form.action, fields).status == 403
    assert browser.request("POST", form.action, fields | {"csrf": "x"}).status == 403
    assert browser.request("POST", form.action, form.fields | fields, Origin="http://evil.example").status == 403
    assert browser.request("POST", form.action, form.fields | fields, Cookie="sytq_csrf=").status == 403
    assert browser.request("POST", form.action, form.fields | fields).status == 303


def test_a_get_logs_nobody_out(guarded: Installation) -> None:
    browser = log_in(guarded)
    for method in ("GET", "HEAD", "PUT", "DELETE"):
        browser.request(method, "/dashboard/logout")
    assert browser.request("GET", "/dashboard/sessions").status == 200


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x", "text/plain"])
def test_only_forms_are_read_as_forms(guarded: Installation, kind: str) -> None:
    browser = log_in(guarded)
    assert sessions_end(browser, csrf=browser.csrf, Content_Type=kind) == 415

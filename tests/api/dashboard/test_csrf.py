"""Forms of other sites change nothing: each needs the session's token and our origin."""

from __future__ import annotations

import pytest

from tests.api.dashboard.conftest import Guarded
from tests.api.dashboard.visitor import Browser, forms


def logout_form(browser: Browser) -> str:
    return forms(browser.open("/dashboard/sessions"))[0].fields["csrf"]


def sessions_end(browser: Browser, **sent: str) -> int:
    fields = {"csrf": sent.pop("csrf")} if "csrf" in sent else {}
    return browser.request("POST", "/dashboard/logout", fields, **sent).status


def test_a_form_without_the_sessions_token_is_refused(guarded: Guarded) -> None:
    browser, other = guarded.logged_in(), guarded.logged_in()
    token = logout_form(browser)
    for wrong in ("", token[:-1], token.upper(), logout_form(other), browser.cookies["sytq_session"][0], "ü"):
        assert sessions_end(browser, csrf=wrong) == 403
    assert sessions_end(browser) == 403
    assert sessions_end(browser, csrf=token) == 303


def test_a_neighbours_cookie_is_no_token_of_a_session(guarded: Guarded) -> None:
    browser = guarded.logged_in()
    browser.cookies["sytq_csrf"] = ("planted", "/dashboard")
    assert sessions_end(browser, csrf="planted") == 403


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://127.0.0.1:1", "http://sub.127.0.0.1", "https://127.0.0.1.evil.example", ""],
)
def test_another_origin_is_refused_even_with_the_token(guarded: Guarded, origin: str) -> None:
    browser = guarded.logged_in()
    assert sessions_end(browser, csrf=logout_form(browser), Origin=origin) == 403


def test_a_login_needs_the_forms_token_and_origin(guarded: Guarded) -> None:
    """Else another site logs its visitor in as somebody else."""
    browser = guarded.browser()
    [form] = forms(browser.open("/dashboard/login"))
    fields = {"user": "admin", "secret": "pa55"}
    assert browser.request("POST", form.action, fields).status == 403
    assert browser.request("POST", form.action, fields | {"csrf": "x"}).status == 403
    assert browser.request("POST", form.action, form.fields | fields, Origin="http://evil.example").status == 403
    assert browser.request("POST", form.action, form.fields | fields, Cookie="sytq_csrf=").status == 403
    assert browser.request("POST", form.action, form.fields | fields).status == 303


def test_a_get_logs_nobody_out(guarded: Guarded) -> None:
    browser = guarded.logged_in()
    for method in ("GET", "HEAD", "PUT", "DELETE"):
        browser.request(method, "/dashboard/logout")
    assert browser.request("GET", "/dashboard/sessions").status == 200


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data; boundary=x", "text/plain"])
def test_only_forms_are_read_as_forms(guarded: Guarded, kind: str) -> None:
    browser = guarded.logged_in()
    assert sessions_end(browser, csrf=logout_form(browser), Content_Type=kind) == 415

"""The login form: the users and keys of the API, for the dashboard's paths alone."""

from __future__ import annotations

import json

import pytest

from tests.api.dashboard.browser import Browser, browse, log_in, new_key
from tests.installation import Installation


def test_a_user_or_a_key_logs_in_and_comes_back_to_the_wanted_page(guarded: Installation) -> None:
    for user, secret in (("admin", "pa55"), ("", new_key(guarded)[1]), ("", f" {new_key(guarded)[1]}\n")):
        browser = browse(guarded)
        page = browser.get("/sessions")
        assert page.path == "/dashboard/login?next=%2Fsessions" and "<h1>Log in</h1>" in page.html
        page = browser.log_in(user, secret, "/dashboard/sessions")
        assert (page.status, page.path) == (200, "/dashboard/sessions")
        assert "Log out" in page.text


@pytest.mark.parametrize(
    ("user", "secret", "status"),
    [
        ("admin", "gu3ss", 401),
        ("admin", "", 400),
        ("admin", "pa55 ", 401),
        ("nobody", "pa55", 401),
        ("", "pa55", 401),
        ("", "sytq_" + "0" * 12 + "_" + "0" * 64, 401),
        ("admin", "sytq_" + "0" * 12 + "_" + "0" * 64, 401),
        ("admin\x00", "pa55", 401),
        ("ad:min", "pa55", 401),
        ("'; --", "\U0001f600" * 1000, 401),
    ],
)
def test_wrong_credentials_are_refused_and_neither_shown_nor_logged(
    guarded: Installation, user: str, secret: str, status: int
) -> None:
    browser = browse(guarded)
    [form] = browser.get("/login").forms
    reply = browser.request("POST", form.action, form.fields | {"user": user, "secret": secret})
    assert reply.status == status
    assert "Basic" not in reply.headers.get("www-authenticate", "")  # the browser would ask itself
    assert "sytq_session" not in browser.cookies
    assert not secret or secret not in reply.html
    assert b'role="alert"' in reply.body or b'id="error-secret"' in reply.body
    assert not secret or secret not in guarded.gunicorn.text()


def test_a_failed_login_is_logged_with_its_address(guarded: Installation) -> None:
    browse(guarded).log_in("admin", "guess")
    [*_, line] = [json.loads(line) for line in guarded.gunicorn.text().splitlines() if "login failed" in line]
    assert line["address"] == "127.0.0.1"


def test_a_key_that_may_not_read_is_told_so(guarded: Installation) -> None:
    browser = browse(guarded)
    reply = browser.log_in("", new_key(guarded, "till", "submit")[1])
    assert reply.status == 403 and b"scope &#39;read&#39;" in reply.body
    assert "sytq_session" not in browser.cookies


def test_the_cookie_is_for_the_dashboard_alone(guarded: Installation) -> None:
    browser = browse(guarded)
    browser.log_in("admin", "pa55")
    [form] = browse(guarded).get("/login").forms
    value, path = browser.cookies["sytq_session"]
    assert path == "/dashboard"
    cookie = f"sytq_session={value}"
    for method, api_path in (("GET", "/v2/tasks"), ("POST", "/v2/tasks"), ("GET", "/api/tasks"), ("GET", "/docs")):
        assert guarded.request(method, api_path, headers={"Cookie": cookie}).status == 401, api_path
    for header in (f"Session {value}", f"Bearer {value}", f"sytq_session {value}", f"Basic {value}"):
        assert guarded.request("GET", "/v2/tasks", headers={"Authorization": header}).status == 401
    assert guarded.request("GET", "/dashboard", headers={"Cookie": cookie}).status == 200
    assert guarded.request("GET", "/dashboardx", headers={"Cookie": cookie}).status == 401
    assert guarded.request("GET", "/dashboard/../v2/tasks", headers={"Cookie": cookie}).status in (401, 404)
    assert form.action == "/dashboard/login"


def test_an_authorization_header_still_opens_pages(guarded: Installation) -> None:
    _, key = new_key(guarded)
    assert guarded.request("GET", "/dashboard", headers={"Authorization": f"Bearer {key}"}).status == 200
    assert guarded.request("GET", "/dashboard", headers={"Authorization": "Bearer x"}).status == 401


def test_a_poll_without_a_session_is_401_without_a_browsers_dialog(guarded: Installation) -> None:
    reply = browse(guarded).request("GET", "/dashboard", HX_Request="true")
    assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")


def test_a_form_without_a_session_leads_to_the_login(guarded: Installation) -> None:
    reply = browse(guarded).request("POST", "/dashboard/logout", {})
    assert (reply.status, reply.headers["location"]) == (303, "/dashboard/login")


@pytest.mark.parametrize(
    "wanted",
    [
        "//evil.example", "/\\evil.example", "\\\\evil.example", "https://evil.example", "/%5cevil.example",
        ".evil.example", "@evil.example", "/../v2/tasks", "/./x", "/tasks\r\nSet-Cookie: a=b", "?a\r\nSet-Cookie: a=b",
        "/tasks?x=\r\nX: y", "javascript:alert(1)", "/tasks?q=" + "x" * 3000, "\t/x",
    ],
)  # fmt: skip
def test_after_a_login_no_link_leads_elsewhere(guarded: Installation, wanted: str) -> None:
    browser = browse(guarded)
    [form] = browser.get("/login").forms
    reply = browser.request("POST", form.action, form.fields | {"user": "admin", "secret": "pa55", "next": wanted})
    assert reply.status == 303
    assert reply.headers["location"] in ("/dashboard", "/dashboard/%255cevil.example")
    assert "a" not in browser.cookies and "x" not in reply.headers


@pytest.mark.parametrize(
    "wanted", ["/tasks?q=state%3Adead%20age%3A%3C1h&after=x%0d%0a", "/queues/a%20b/\u00fc", "?x=1"]
)
def test_after_a_login_the_wanted_page_is_shown(guarded: Installation, wanted: str) -> None:
    browser = browse(guarded)
    path = "/dashboard" + wanted.replace("\u00fc", "%C3%BC")
    [form] = browser.open(path).forms
    reply = browser.request("POST", form.action, form.fields | {"user": "admin", "secret": "pa55"})
    assert reply.headers["location"] == path


def test_a_login_rotates_the_token_and_ends_the_session_before(guarded: Installation) -> None:
    browser = log_in(guarded)
    planted = browser.cookies["sytq_session"][0]
    [form] = [form for form in browser.get("/login").forms if form.action.endswith("/login")]
    browser.submit(form, user="admin", secret="pa55")
    assert browser.cookies["sytq_session"][0] != planted
    reply = browse(guarded).request("GET", "/dashboard", Cookie=f"sytq_session={planted}")
    assert reply.status == 303


def test_a_made_up_or_doubled_session_cookie_is_no_session(guarded: Installation) -> None:
    mine, theirs = (log_in(guarded).cookies["sytq_session"][0] for _ in range(2))
    for cookie in ("sytq_session=", "sytq_session=chosen", f"sytq_session={theirs}; sytq_session={mine}"):
        reply = browse(guarded).request("GET", "/dashboard", Cookie=cookie)
        assert reply.status == 303, cookie


def test_pages_and_redirects_are_kept_by_no_cache(guarded: Installation) -> None:
    browser = browse(guarded)
    assert browser.request("GET", "/dashboard").headers["cache-control"] == "no-store"
    assert browser.request("GET", "/dashboard/login").headers["cache-control"] == "no-store"
    browser = log_in(guarded)
    for path in ("/dashboard", "/dashboard/sessions", "/dashboard/nonsense"):
        reply = browser.request("GET", path)
        assert reply.headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in reply.headers["content-security-policy"]


def test_json_clients_get_what_they_got_before(guarded: Installation) -> None:
    reply = guarded.request("GET", "/v2/tasks")
    assert reply.status == 401 and reply.headers["www-authenticate"].startswith("Basic")
    assert guarded.request("GET", "/").status == 401
    _, key = new_key(guarded)
    assert guarded.request("GET", "/", headers={"Authorization": f"Bearer {key}"}).json == {"error": "no such endpoint"}


def test_a_browser_at_the_root_is_led_to_the_login(guarded: Installation) -> None:
    assert browse(guarded).open("/").path == "/dashboard/login"


def test_form_of_log_out_ends_the_session(guarded: Installation) -> None:
    browser = log_in(guarded)
    token = browser.cookies["sytq_session"][0]
    page = browser.submit(browser.get().form("/logout"))
    assert "You are logged out." in page.html and page.path == "/dashboard/login"
    assert "sytq_session" not in browser.cookies
    again = Browser(browser.origin)
    again.cookies["sytq_session"] = token, "/dashboard"
    assert again.request("GET", "/dashboard").status == 303

"""Behind a proxy: below a prefix, with the client, scheme and host that a trusted proxy says, and no other."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.api.dashboard.browser import Browser, browse, new_key
from tests.api.dashboard.conftest import GUARDED
from tests.api.dashboard.front_proxy import SOURCE, front_proxy
from tests.installation import BUILT_IN, Installation

HOST = "ops.example.org"
ORIGIN = f"https://{HOST}"


TRUSTED = {"SYTQ_API__TRUSTED_PROXIES": f'["{SOURCE}/32"]'}


@pytest.fixture
def behind(start_shared: Callable[..., Installation]) -> Installation:
    """Trusts the proxy, which says the prefix."""
    return start_shared("behind", None, **GUARDED, **TRUSTED)


@pytest.fixture
def below(start_shared: Callable[..., Installation]) -> Installation:
    """Has the prefix configured."""
    return start_shared("below", None, **GUARDED, **TRUSTED, SYTQ_DASHBOARD__BASE_PATH="/ops/sytq")


def journey(port: int, prefix: str) -> None:
    """Log in, look at pages, log out, as a person behind the proxy; every URL on the way is below the prefix."""
    browser = Browser(ORIGIN, ("127.0.0.1", port))
    assert browser.open(f"{prefix}/").path == f"{prefix}/dashboard/login"
    page = browser.log_in("admin", "pa55", f"{prefix}/dashboard/sessions?")
    assert (page.status, page.path) == (200, f"{prefix}/dashboard/sessions")
    urls = re.findall(r'(?:href|src|action|data-hx-get)="([^"#]*)"', page.html)
    assert len(urls) > 8
    for url in urls:
        assert url.startswith(f"{prefix}/dashboard"), url
    for url in urls:
        if "/static/" in url:
            assert browser.request("GET", url).status == 200
    poll = browser.request("GET", f"{prefix}/dashboard/sessions", HX_Request="true")
    assert poll.status == 200
    assert browser.request("GET", f"{prefix}/dashboard/nonsense").status == 404
    assert browser.submit(page.forms[0]).path == f"{prefix}/dashboard/login"


def test_below_a_prefix_that_a_trusted_proxy_removes_and_names(behind: Installation) -> None:
    said = {"X_Forwarded_Proto": "https", "X_Forwarded_Host": HOST, "X_Forwarded_Prefix": "/ops/sytq"}
    with front_proxy(behind.port, "/ops/sytq", strips=True, **said) as port:
        journey(port, "/ops/sytq")


def test_below_a_prefix_that_a_trusted_proxy_keeps_and_names(behind: Installation) -> None:
    said = {"X_Forwarded_Proto": "https", "X_Forwarded_Host": HOST, "X_Forwarded_Prefix": "/ops/sytq/"}
    with front_proxy(behind.port, "/ops/sytq", strips=False, **said) as port:
        journey(port, "/ops/sytq")


@pytest.mark.parametrize("strips", [True, False])
def test_below_a_configured_prefix_whatever_the_proxy_does(below: Installation, strips: bool) -> None:
    with front_proxy(below.port, "/ops/sytq", strips=strips, Host=HOST, X_Forwarded_Proto="https") as port:
        journey(port, "/ops/sytq")
        key = new_key(below, "shop", "admin")[1]
        browser = Browser(ORIGIN, ("127.0.0.1", port), Authorization=f"Bearer {key}", Accept="*/*")
        assert browser.request("GET", "/ops/sytq/v2/queues").status == 200  # the API is below it, too


def test_at_the_root_behind_a_trusted_proxy(behind: Installation) -> None:
    with front_proxy(behind.port, "", strips=True, X_Forwarded_Proto="https", X_Forwarded_Host=HOST) as port:
        journey(port, "")


@pytest.mark.parametrize(
    ("said", "start", "path", "secure"),
    [
        ({"X_Forwarded_Proto": "https"}, "__Host-sytq_session=", "/", True),
        ({"X_Forwarded_Proto": "https", "X_Forwarded_Prefix": "/x"}, "__Secure-sytq_session=", "/x/dashboard", True),
        ({"X_Forwarded_Proto": "http"}, "sytq_session=", "/dashboard", False),
        ({}, "sytq_session=", "/dashboard", False),
    ],
)
def test_the_cookie_is_secure_over_https_and_bound_to_the_host(
    behind: Installation, said: dict[str, str], start: str, path: str, secure: bool
) -> None:
    prefix = said.get("X_Forwarded_Prefix", "")
    with front_proxy(behind.port, prefix, strips=True, X_Forwarded_Host=HOST, **said) as port:
        browser = Browser(f"{'https' if secure else 'http'}://{HOST}", ("127.0.0.1", port))
        [form] = browser.open(f"{prefix}/dashboard/login").forms
        browser.request("POST", form.action, form.fields | {"user": "admin", "secret": "pa55"})
    [text] = [text for text in browser.set_cookies if "sytq_session" in text]
    assert text.startswith(start)
    parts = {part.strip() for part in text.split(";")[1:]}
    assert parts == {f"Path={path}", "HttpOnly", "SameSite=Lax"} | ({"Secure"} if secure else set())


def test_an_untrusted_peers_fields_change_nothing(behind: Installation) -> None:
    said = {"X_Forwarded_Proto": "https", "X_Forwarded_Prefix": "//evil", "X_Forwarded_Host": "evil.example"}
    browser = browse(behind, X_Forwarded_For="203.0.113.9", **said)
    reply = browser.log_in("admin", "pa55", "/dashboard/sessions")
    assert (reply.status, reply.path) == (200, "/dashboard/sessions")
    assert "evil" not in reply.html and "sytq_session" in browser.cookies
    assert b"203.0.113.9" not in reply.body
    [form, *_] = reply.forms
    assert browser.request("POST", form.action, form.fields, Origin="https://evil.example").status == 403


def test_a_clients_own_fields_do_not_pass_a_trusted_proxy(behind: Installation) -> None:
    """The proxy appends to X-Forwarded-For; what stood there before is the client's invention."""
    with front_proxy(behind.port, "", strips=True, X_Forwarded_Proto="https", X_Forwarded_Host=HOST) as port:
        browser = Browser(ORIGIN, ("127.0.0.1", port), X_Forwarded_For="127.0.0.1")
        reply = browser.log_in("admin", "pa55", "/dashboard/sessions")
        assert b"203.0.113.7" in reply.body  # of this session
        assert browser.request("GET", "/dashboard", Origin="https://other.example").status == 403


def test_guesses_are_counted_for_the_client_behind_the_proxy(behind: Installation) -> None:
    wrong = {"Authorization": "Bearer sytq_" + "1" * 12 + "_" + "0" * 64}
    with front_proxy(behind.port, "", strips=True) as port:
        browser = Browser(f"http://127.0.0.1:{port}")
        replies = [browser.request("GET", "/dashboard", **wrong) for _ in range(60)]
        assert {reply.status for reply in replies} == {401, 429}
        [form] = browser.open("/dashboard/login").forms
        reply = browser.request("POST", form.action, form.fields | {"user": "admin", "secret": "guess"})
        assert reply.status == 429 and int(reply.headers["retry-after"]) <= 7
        assert b"too many failed logins" in reply.body
        # Made-up sessions are guesses, too.
        assert browser.request("GET", "/dashboard", Cookie="sytq_session=" + "A" * 43).status == 429
    assert browse(behind).log_in("admin", "pa55").status == 200  # another client is not concerned


def test_without_auth_a_proxys_clients_are_not_this_machine(make_installation: Callable[..., Installation]) -> None:
    api = make_installation(**BUILT_IN, **TRUSTED)
    api.start_api()
    browser = browse(api)
    assert browser.request("GET", "/dashboard").status == 200
    with front_proxy(api.port, "", strips=True) as port:  # trusted: it says who the client is
        reply = Browser(f"http://127.0.0.1:{port}").request("GET", "/dashboard")
        assert reply.status == 403 and b"auth.enabled: true" in reply.body
    # From a proxy on this machine that is not trusted, too: the field can only take rights away.
    for said in ("203.0.113.9", "127.0.0.1, 203.0.113.9", "unknown"):
        for path in ("/dashboard", "//dashboard", "///dashboard/tasks/"):
            assert browser.request("GET", path, X_Forwarded_For=said).status == 403
        assert (
            browser.request("GET", "/v2/tasks", X_Forwarded_For=said).status == 200
        )  # a proxy may ask for credentials
    assert browser.request("GET", "/dashboard", X_Forwarded_For="127.0.0.1").status == 200
    assert browser.request("GET", "/dashboard", Host="evil.example").status == 403  # DNS rebinding
    assert browser.request("GET", "/dashboard", Host="evil.example", X_Forwarded_Host="localhost").status == 403

"""Behind a proxy: below a prefix, with the client, scheme and host that a trusted proxy says, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.dashboard.conftest import Guarded, settings
from tests.api.dashboard.front_proxy import SOURCE, front_proxy
from tests.api.dashboard.visitor import Browser, forms
from tests.installation import BUILT_IN, Installation
from tests.servers import RedisServer

HOST = "ops.example.org"
ORIGIN = f"https://{HOST}"


def started(folder: Path, redis_server: RedisServer, name: str, **more: str) -> Guarded:
    own = folder / name
    own.mkdir()
    trusted = {"SYTQ_API__TRUSTED_PROXIES": f'["{SOURCE}/32"]'}
    api = Guarded(own, f"sqlite:///{own / 'sytq.db'}", redis_server.url, **settings(**trusted, **more))
    api.start_api()
    return api


@pytest.fixture(scope="module")
def behind(folder: Path, redis_server: RedisServer) -> Iterator[Guarded]:
    """Trusts the proxy, which says the prefix."""
    api = started(folder, redis_server, "behind")
    yield api
    api.close()


@pytest.fixture(scope="module")
def below(folder: Path, redis_server: RedisServer) -> Iterator[Guarded]:
    """Has the prefix configured."""
    api = started(folder, redis_server, "below", SYTQ_DASHBOARD__BASE_PATH="/ops/sytq")
    yield api
    api.close()


def journey(port: int, prefix: str) -> Browser:
    """Log in, look at pages, log out, as a person behind the proxy; every URL on the way is below the prefix."""
    browser = Browser(ORIGIN, ("127.0.0.1", port))
    reply = browser.open(f"{prefix}/")
    assert browser.path == f"{prefix}/dashboard/login", browser.path
    reply = browser.log_in("admin", "pa55", f"{prefix}/dashboard/sessions?")
    assert (reply.status, browser.path) == (200, f"{prefix}/dashboard/sessions")
    html = reply.body.decode()
    urls = re.findall(r'(?:href|src|action|data-hx-get)="([^"#]*)"', html)
    assert len(urls) > 8
    for url in urls:
        assert url.startswith(f"{prefix}/dashboard"), url
    for url in urls:
        if "/static/" in url:
            assert browser.request("GET", url).status == 200
    poll = browser.request("GET", f"{prefix}/dashboard/sessions", HX_Request="true")
    assert poll.status == 200
    assert browser.request("GET", f"{prefix}/dashboard/nonsense").status == 404
    browser.submit(forms(reply)[0])
    assert browser.path == f"{prefix}/dashboard/login"
    return browser


def test_below_a_prefix_that_a_trusted_proxy_removes_and_names(behind: Guarded) -> None:
    said = {"X_Forwarded_Proto": "https", "X_Forwarded_Host": HOST, "X_Forwarded_Prefix": "/ops/sytq"}
    with front_proxy(behind.port, "/ops/sytq", strips=True, **said) as port:
        journey(port, "/ops/sytq")


def test_below_a_prefix_that_a_trusted_proxy_keeps_and_names(behind: Guarded) -> None:
    said = {"X_Forwarded_Proto": "https", "X_Forwarded_Host": HOST, "X_Forwarded_Prefix": "/ops/sytq/"}
    with front_proxy(behind.port, "/ops/sytq", strips=False, **said) as port:
        journey(port, "/ops/sytq")


@pytest.mark.parametrize("strips", [True, False])
def test_below_a_configured_prefix_whatever_the_proxy_does(below: Guarded, strips: bool) -> None:
    with front_proxy(below.port, "/ops/sytq", strips=strips, Host=HOST, X_Forwarded_Proto="https") as port:
        journey(port, "/ops/sytq")
        _, key = below.key("shop", "admin")
        browser = Browser(ORIGIN, ("127.0.0.1", port), Authorization=f"Bearer {key}", Accept="*/*")
        assert browser.request("GET", "/ops/sytq/v2/queues").status == 200  # the API is below it, too


def test_at_the_root_behind_a_trusted_proxy(behind: Guarded) -> None:
    with front_proxy(behind.port, "", strips=True, X_Forwarded_Proto="https", X_Forwarded_Host=HOST) as port:
        journey(port, "")


def session_cookie(browser: Browser) -> str:
    """The Set-Cookie of a login."""
    [form] = forms(browser.open(f"{browser.prefix}/dashboard/login"))
    browser.request("POST", form.action, form.fields | {"user": "admin", "secret": "pa55"})
    [text] = [text for text in browser.set_cookies if "sytq_session" in text]
    return text


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
    behind: Guarded, said: dict[str, str], start: str, path: str, secure: bool
) -> None:
    prefix = said.get("X_Forwarded_Prefix", "")
    with front_proxy(behind.port, prefix, strips=True, X_Forwarded_Host=HOST, **said) as port:
        browser = Browser(f"{'https' if secure else 'http'}://{HOST}", ("127.0.0.1", port), prefix=prefix)
        text = session_cookie(browser)
    assert text.startswith(start)
    parts = {part.strip() for part in text.split(";")[1:]}
    assert parts == {f"Path={path}", "HttpOnly", "SameSite=Lax"} | ({"Secure"} if secure else set())


def test_an_untrusted_peers_fields_change_nothing(behind: Guarded) -> None:
    said = {"X_Forwarded_Proto": "https", "X_Forwarded_Prefix": "//evil", "X_Forwarded_Host": "evil.example"}
    browser = behind.browser(**{"X-Forwarded-For": "203.0.113.9", **{n.replace("_", "-"): v for n, v in said.items()}})
    reply = browser.log_in("admin", "pa55", "/dashboard/sessions")
    assert (reply.status, browser.path) == (200, "/dashboard/sessions")
    assert "evil" not in reply.body.decode() and "sytq_session" in browser.cookies
    assert b"203.0.113.9" not in reply.body
    [form, *_] = forms(reply)
    assert browser.request("POST", form.action, form.fields, Origin="https://evil.example").status == 403


def test_a_clients_own_fields_do_not_pass_a_trusted_proxy(behind: Guarded) -> None:
    """The proxy appends to X-Forwarded-For; what stood there before is the client's invention."""
    with front_proxy(behind.port, "", strips=True, X_Forwarded_Proto="https", X_Forwarded_Host=HOST) as port:
        browser = Browser(ORIGIN, ("127.0.0.1", port), **{"X-Forwarded-For": "127.0.0.1"})
        reply = browser.log_in("admin", "pa55", "/dashboard/sessions")
        assert b"203.0.113.7" in reply.body  # of this session
        assert browser.request("GET", "/dashboard", Origin="https://other.example").status == 403


def test_guesses_are_counted_for_the_client_behind_the_proxy(behind: Guarded) -> None:
    wrong = {"Authorization": "Bearer sytq_" + "1" * 12 + "_" + "0" * 64}
    with front_proxy(behind.port, "", strips=True) as port:
        browser = Browser(f"http://127.0.0.1:{port}")
        replies = [browser.request("GET", "/dashboard", **wrong) for _ in range(60)]
        assert {reply.status for reply in replies} == {401, 429}
        [form] = forms(browser.open("/dashboard/login"))
        reply = browser.request("POST", form.action, form.fields | {"user": "admin", "secret": "guess"})
        assert reply.status == 429 and int(reply.headers["retry-after"]) <= 7
        assert b"too many failed logins" in reply.body
        # Made-up sessions are guesses, too.
        assert browser.request("GET", "/dashboard", Cookie="sytq_session=" + "A" * 43).status == 429
    assert behind.browser().log_in("admin", "pa55").status == 200  # another client is not concerned


def test_without_auth_a_proxys_clients_are_not_this_machine(make_installation: object) -> None:
    api: Installation = make_installation(  # type: ignore[operator]
        **BUILT_IN, SYTQ_API__TRUSTED_PROXIES=f'["{SOURCE}/32"]'
    )
    api.start_api()
    browser = Browser(f"http://127.0.0.1:{api.port}")
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

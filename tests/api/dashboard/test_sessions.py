"""Sessions of the dashboard: when they end, who may end them, and what they may do."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from sytq.ledger.api_keys import ApiKeys
from sytq.ledger.models import ApiKey, AuditEntry, Session
from tests.api.dashboard.browser import Browser, browse, log_in, new_key
from tests.api.dashboard.conftest import GUARDED
from tests.installation import Installation
from tests.proxy import Proxy
from tests.servers import MySQLServer, poll


def ended(browser: Browser) -> bool:
    return browser.request("GET", "/dashboard/sessions").status == 303


def test_a_session_ends_when_its_key_is_revoked(guarded: Installation) -> None:
    browser = browse(guarded)
    key_id, key = new_key(guarded)
    assert browser.log_in("", key).status == 200
    ApiKeys(guarded.runtime.database).revoke(key_id, by="test")
    poll(lambda: ended(browser), timeout=15)
    [clear] = [text for text in browser.set_cookies if text.startswith("sytq_session=")]
    assert "1970" in clear


def test_scopes_are_those_that_the_key_has_now(guarded: Installation) -> None:
    browser = browse(guarded)
    key_id, key = new_key(guarded, "shop", "admin")
    assert browser.log_in("", key, "/dashboard").status == 200
    assert b'href="/dashboard/audit"' in browser.get().body
    ApiKey.update(scopes="read").where(ApiKey.id == key_id).execute()
    poll(lambda: b'href="/dashboard/audit"' not in browser.get().body, timeout=15)


def test_use_is_noted_and_an_idle_session_ends(guarded: Installation) -> None:
    browser = log_in(guarded, "read", owner="idle")
    row = Session.select().order_by(Session.created_at.desc()).get()
    assert (row.address, row.user_name) == ("127.0.0.1", None)
    Session.update(used_at=row.created_at.replace(year=2020)).where(Session.id == row.id).execute()
    poll(lambda: ended(browser), timeout=15)


def test_streams_end_with_their_session_and_key(guarded: Installation) -> None:
    browser, (key_id, key) = log_in(guarded, "submit", "read", owner="fay"), new_key(guarded, "fay")
    bearer = {"Authorization": f"Bearer {key}"}
    task = guarded.request("POST", "/v2/tasks", {"type": "default", "delay": "1h"}, bearer).json["id"]
    cookies = {"Cookie": "; ".join(f"{name}={value}" for name, (value, _) in browser.cookies.items())}
    streams = [("session", f"/dashboard/tasks/{task}/events", cookies), ("key", f"/v2/tasks/{task}/events", bearer)]
    ends: dict[str, float] = {}

    def follow(of: str, path: str, headers: dict[str, str]) -> None:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", guarded.port, timeout=60)) as connection:
            connection.request("GET", path, headers=headers)
            reply = connection.getresponse()
            while line := reply.readline():
                if line.startswith(b"event: "):
                    opened.release()
            ends[of] = time.monotonic()

    opened = threading.Semaphore(0)
    with ThreadPoolExecutor() as pool:
        for stream in streams:
            pool.submit(follow, *stream)
        assert all(opened.acquire(timeout=10) for _ in streams)
        since = time.monotonic()
        Session.delete().where(Session.key_id.is_null(False)).execute()
        ApiKeys(guarded.runtime.database).revoke(key_id, by="test")
    assert ends.keys() == {"session", "key"} and max(ends.values()) - since < 20


def test_a_person_sees_and_ends_own_sessions_alone(guarded: Installation) -> None:
    _, key = new_key(guarded, "anna", "read")
    mine, also_mine, theirs = browse(guarded), browse(guarded), log_in(guarded, "read", owner="ben")
    for browser in (mine, also_mine):
        browser.log_in("", key)
    page = mine.get("/sessions")
    assert page.body.count(b"key of anna") >= 2 and b"key of ben" not in page.body
    [end] = [form for form in page.forms if form.action.endswith("/revoke")]
    assert "there is no session" in theirs.post(end.action.removeprefix("/dashboard"), 400).text
    assert not ended(also_mine)
    reply = mine.submit(end)
    assert reply.status == 200 and b"has ended" in reply.body
    assert ended(also_mine) and not ended(mine) and not ended(theirs)
    entry = AuditEntry.select().order_by(AuditEntry.id.desc()).get()
    assert (entry.what, entry.who.startswith("key of anna (")) == ("session.revoke", True)


def test_log_out_everywhere_ends_all_sessions_of_a_person(guarded: Installation) -> None:
    _, key = new_key(guarded, "carl", "read")
    browsers = [browse(guarded) for _ in range(3)]
    for browser in browsers:
        browser.log_in("", key)
    others = log_in(guarded, "read", owner="dora")
    page = browsers[0].get("/sessions")
    [everywhere] = [form for form in page.forms if "everywhere" in form.fields]
    browsers[0].submit(everywhere)
    assert [ended(browser) for browser in (*browsers, others)] == [True, True, True, False]


def test_an_admin_sees_and_ends_everybodys_sessions(guarded: Installation) -> None:
    viewer, admin = log_in(guarded, "read", owner="eve"), log_in(guarded)
    page = admin.get("/sessions")
    assert b"key of eve" in page.body and b"admin" in page.body
    row = Session.select().order_by(Session.created_at.desc()).where(Session.key_id.is_null(False)).get()
    admin.submit(page.form(f"/sessions/{row.id[:12]}/revoke"))
    assert ended(viewer)


def test_a_viewer_gets_no_admins_page_and_no_button(guarded: Installation) -> None:
    viewer = log_in(guarded, "read")
    page = viewer.get()
    assert {form.action for form in page.forms if form.method == "post"} <= {"/dashboard/logout"}
    for path in ("/keys", "/audit", "/system"):
        viewer.get(path, 403)
        viewer.post(path, 403)


@pytest.mark.mysql
def test_a_session_outlives_an_outage_of_the_database(
    make_installation: Callable[..., Installation], own_mysql: MySQLServer
) -> None:
    """While the database is away: 503 for who was not seen lately, the page for who was, a logout for nobody."""
    with_proxy = Proxy(own_mysql.port)
    try:
        url = own_mysql.create_database("outage").replace(f":{own_mysql.port}", f":{with_proxy.port}")
        api = make_installation(url, **GUARDED)
        api.start_api()
        seen, unseen = (browse(api) for _ in range(2))
        assert [browser.log_in("admin", "pa55").status for browser in (seen, unseen)] == [200, 200]
        unseen.cookies["sytq_session"] = (unseen.cookies["sytq_session"][0], "/dashboard")
        fresh = browse(api)
        fresh.cookies["sytq_session"] = ("A" * 43, "/dashboard")
        with_proxy.cut()
        reply = fresh.request("GET", "/dashboard")
        assert reply.status == 503 and b"the database does not answer" in reply.body
        assert not fresh.set_cookies or "sytq_session" not in str(fresh.set_cookies)
        assert int(reply.headers["retry-after"]) > 0
        since = time.monotonic()
        while time.monotonic() - since < 7:  # past the cache of 5 s
            assert seen.request("GET", "/dashboard").status == 200
            time.sleep(0.2)
        assert browse(api).log_in("admin", "pa55").status == 503
        with_proxy.heal()
        poll(lambda: not ended(unseen), timeout=30)
        assert not ended(seen)
    finally:
        with_proxy.close()

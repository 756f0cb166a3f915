"""The page of keys: a secret is seen once, and every change is in the audit log."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from sytq.ledger.models import ApiKey, AuditEntry, Session
from tests.api.dashboard.browser import Browser, Page, browse, log_in, new_key
from tests.api.dashboard.conftest import GUARDED
from tests.installation import Installation
from tests.proxy import Proxy
from tests.servers import MySQLServer, poll

TEXT = re.compile(r"sytq_[0-9a-f]{12}_[0-9a-f]{64}")


def create(browser: Browser, **fields: str) -> Page:
    form = browser.get("/keys").form("/keys")
    return browser.submit(form, **fields)


def status_with(guarded: Installation, key: str) -> int:
    return guarded.request("GET", "/v2/tasks", headers={"Authorization": f"Bearer {key}"}).status


def test_a_created_key_is_shown_once_and_works(guarded: Installation) -> None:
    browser = log_in(guarded)
    reply = create(browser, name="till <7>", owner="shop-1", scope="read", rate="100/min", daily="50", expires="720h")
    assert reply.status == 200 and reply.headers["cache-control"] == "no-store"
    html = reply.html
    [key] = TEXT.findall(html)
    assert "till &lt;7&gt;" in html and "data-poll" not in html  # a poll would take the secret away
    assert status_with(guarded, key) == 200
    row = ApiKey.get_by_id(key.split("_")[1])
    assert (row.owner, row.scopes, row.rate_calls, row.rate_seconds, row.daily_tasks) == ("shop-1", "read", 100, 60, 50)
    again = browser.get("/keys").html
    assert row.id in again and not TEXT.search(again) and key not in guarded.gunicorn.text()
    entry = AuditEntry.select().where(AuditEntry.about == row.id).get()
    assert (entry.who, entry.what) == ("admin", "key.create")
    assert key not in str(list(AuditEntry.select().where(AuditEntry.about == row.id).dicts()))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"name": " "}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"owner": "two words"}, "owner"),
        ({"scope": "root"}, "scope"),
        ({"rate": "many"}, "rate"),
        ({"daily": "0"}, "daily"),
        ({"daily": "1e9"}, "daily"),
        ({"daily": "9" * 400}, "daily"),
        ({"expires": "soon"}, "expires"),
        ({"expires": "2001-01-01"}, "expires"),
        ({"expires": "9" * 30 + "h"}, "expires"),
    ],
)
def test_a_wrong_field_is_named_and_no_key_made(guarded: Installation, fields: dict[str, str], named: str) -> None:
    before = ApiKey.select().count()
    reply = create(log_in(guarded), **({"name": "fine"} | fields))
    html = reply.html
    assert reply.status == 400 and f'id="error-{named}"' in html
    assert "data-poll" not in html  # what was filled in stays
    assert ApiKey.select().count() == before


def test_a_key_without_scopes_is_refused(guarded: Installation) -> None:
    browser = log_in(guarded)
    form = browser.get("/keys").form("/keys")
    del form.fields["scope"]
    reply = browser.submit(form, name="x")
    assert reply.status == 400 and b'id="error-scope"' in reply.body


def test_a_rotated_key_has_two_secrets_for_its_grace(guarded: Installation) -> None:
    browser = log_in(guarded)
    key_id, first = new_key(guarded, "rotating", "read")
    form = browser.get("/keys").form(f"/keys/{key_id}/rotate")
    assert form.fields["grace"] == "24h"
    for wrong in ("", "soon", "10000h", "-1s"):
        reply = browser.submit(form, grace=wrong)
        assert reply.status == 400 and b"grace" in reply.body
    [second] = TEXT.findall(browser.submit(form).html)
    assert [status_with(guarded, key) for key in (first, second)] == [200, 200]
    for unknown in ("000000000000", "%E2%82%AC", "%25"):
        browser.post(f"/keys/{unknown}/rotate", 400, grace="24h")


def test_a_revoked_key_is_refused_with_its_sessions(guarded: Installation) -> None:
    admin = log_in(guarded)
    key_id, key = new_key(guarded, "leaving", "read")
    theirs = browse(guarded)
    theirs.log_in("", key)
    form = admin.get("/keys").form(f"/keys/{key_id}/revoke")
    reply = admin.submit(form)
    assert f"The key {key_id} is revoked." in reply.html
    assert theirs.request("GET", "/dashboard").status == 303
    poll(lambda: status_with(guarded, key) == 401, interval=0.5)
    assert "was revoked before" in admin.submit(form).html
    assert Session.select().where(Session.key_id == key_id).count() == 1  # a row of a dead key opens nothing


def test_only_admins_have_keys(guarded: Installation) -> None:
    operator = log_in(guarded, "read", "submit", "operate")
    operator.get("/keys", 403)
    before = ApiKey.select().count()
    operator.post("/keys", 403, name="mine", scope="admin")
    key_id, _ = new_key(guarded, "victim")
    for action in ("rotate", "revoke"):
        operator.post(f"/keys/{key_id}/{action}", 403, grace="1s")
    assert ApiKey.select().count() == before + 1 and ApiKey.get_by_id(key_id).revoked_at is None


@pytest.mark.mysql
def test_a_secret_is_shown_by_a_slow_store_and_one_that_breaks(
    make_installation: Callable[..., Installation], own_mysql: MySQLServer
) -> None:
    proxy = Proxy(own_mysql.port)
    url = own_mysql.create_database("keys").replace(f":{own_mysql.port}", f":{proxy.port}")
    try:
        api = make_installation(url, **GUARDED)
        api.start_api()
        admin = log_in(api)
        form = admin.get("/keys").form("/keys")
        with ThreadPoolExecutor(1) as pool:
            own_mysql.pause()
            try:
                slow = pool.submit(admin.submit, form, name="slow")
                assert not wait([slow], timeout=6).done, "a page waits for 5.5 s, a write for its end"
            finally:
                own_mysql.resume()
            [key] = TEXT.findall(slow.result().html)
        assert (slow.result().status, status_with(api, key)) == (200, 200)
        poll(lambda: ApiKey.get().last_used_at, message="the use is written, in a transaction of its own")
        lost = proxy.lose_replies(b"\x03COMMIT")
        page = admin.submit(form, name="doubtful")
        [first] = TEXT.findall(page.html)
        key_id = first.split("_")[1]
        assert lost.done and page.status == 503 and f"not confirmed the key {key_id}" in page.html
        rotate = admin.get("/keys").form(f"/keys/{key_id}/rotate")
        proxy.lose_replies(b"\x03COMMIT")
        [second] = TEXT.findall(admin.submit(rotate).html)
        assert [status_with(api, each) for each in (first, second)] == [200, 200]
        proxy.lose_replies(b"INSERT INTO `sytq_api_keys`")
        page = admin.submit(form, name="unmade")
        assert (page.status, TEXT.findall(page.html)) == (503, [])
        assert "look before you repeat it" in page.html
        assert [row.name for row in ApiKey.select().order_by(ApiKey.created_at)] == ["slow", "doubtful"]
    finally:
        proxy.close()

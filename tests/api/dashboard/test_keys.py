"""The page of keys: a secret is seen once, and every change is in the audit log."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from sytq.ledger.models import ApiKey, AuditEntry, Session
from tests.api.dashboard.conftest import Guarded, settings
from tests.api.dashboard.visitor import Browser, form_to
from tests.installation import Reply
from tests.proxy import Proxy
from tests.servers import MySQLServer, RedisServer, poll

TEXT = re.compile(r"sytq_[0-9a-f]{12}_[0-9a-f]{64}")


def create(browser: Browser, **fields: str) -> Reply:
    form = form_to(browser.open("/dashboard/keys"), "/keys")
    return browser.request("POST", form.action, form.fields | fields)


def status_with(guarded: Guarded, key: str) -> int:
    return guarded.request("GET", "/v2/tasks", headers={"Authorization": f"Bearer {key}"}).status


def test_a_created_key_is_shown_once_and_works(guarded: Guarded) -> None:
    browser = guarded.logged_in()
    reply = create(browser, name="till <7>", owner="shop-1", scope="read", rate="100/min", daily="50", expires="720h")
    assert reply.status == 200 and reply.headers["cache-control"] == "no-store"
    html = reply.body.decode()
    [key] = TEXT.findall(html)
    assert "till &lt;7&gt;" in html and "data-poll" not in html  # a poll would take the secret away
    assert status_with(guarded, key) == 200
    row = ApiKey.get_by_id(key.split("_")[1])
    assert (row.owner, row.scopes, row.rate_calls, row.rate_seconds, row.daily_tasks) == ("shop-1", "read", 100, 60, 50)
    again = browser.open("/dashboard/keys").body.decode()
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
def test_a_wrong_field_is_named_and_no_key_made(guarded: Guarded, fields: dict[str, str], named: str) -> None:
    before = ApiKey.select().count()
    reply = create(guarded.logged_in(), **({"name": "fine"} | fields))
    html = reply.body.decode()
    assert reply.status == 400 and f'id="error-{named}"' in html
    assert "data-poll" not in html  # what was filled in stays
    assert ApiKey.select().count() == before


def test_a_key_without_scopes_is_refused(guarded: Guarded) -> None:
    browser = guarded.logged_in()
    form = form_to(browser.open("/dashboard/keys"), "/keys")
    del form.fields["scope"]
    reply = browser.request("POST", form.action, form.fields | {"name": "x"})
    assert reply.status == 400 and b'id="error-scope"' in reply.body


def test_a_rotated_key_has_two_secrets_for_its_grace(guarded: Guarded) -> None:
    browser = guarded.logged_in()
    key_id, first = guarded.key("rotating", "read")
    form = form_to(browser.open("/dashboard/keys"), f"/keys/{key_id}/rotate")
    assert form.fields["grace"] == "24h"
    for wrong in ("", "soon", "10000h", "-1s"):
        reply = browser.request("POST", form.action, form.fields | {"grace": wrong})
        assert reply.status == 400 and b"grace" in reply.body
    [second] = TEXT.findall(browser.request("POST", form.action, form.fields).body.decode())
    assert [status_with(guarded, key) for key in (first, second)] == [200, 200]
    for unknown in ("000000000000", "%E2%82%AC", "%25"):
        assert browser.request("POST", f"/dashboard/keys/{unknown}/rotate", form.fields).status == 400


def test_a_revoked_key_is_refused_with_its_sessions(guarded: Guarded) -> None:
    admin = guarded.logged_in()
    key_id, key = guarded.key("leaving", "read")
    theirs = guarded.browser()
    theirs.log_in("", key)
    form = form_to(admin.open("/dashboard/keys"), f"/keys/{key_id}/revoke")
    reply = admin.submit(form)
    assert f"The key {key_id} is revoked." in reply.body.decode()
    assert theirs.request("GET", "/dashboard").status == 303
    poll(lambda: status_with(guarded, key) == 401, interval=0.5)
    assert "was revoked before" in admin.submit(form).body.decode()
    assert Session.select().where(Session.key_id == key_id).count() == 1  # a row of a dead key opens nothing


def test_only_admins_have_keys(guarded: Guarded) -> None:
    operator = guarded.logged_in("read", "submit", "operate")
    assert operator.open("/dashboard/keys").status == 403
    csrf = form_to(operator.open("/dashboard"), "/logout").fields["csrf"]
    before = ApiKey.select().count()
    fields = {"csrf": csrf, "name": "mine", "scope": "admin"}
    assert operator.request("POST", "/dashboard/keys", fields).status == 403
    key_id, _ = guarded.key("victim")
    for action in ("rotate", "revoke"):
        assert operator.request("POST", f"/dashboard/keys/{key_id}/{action}", fields | {"grace": "1s"}).status == 403
    assert ApiKey.select().count() == before + 1 and ApiKey.get_by_id(key_id).revoked_at is None


@pytest.mark.mysql
def test_a_secret_is_shown_by_a_slow_store_and_one_that_breaks(
    tmp_path: Path, own_mysql: MySQLServer, redis_server: RedisServer
) -> None:
    proxy = Proxy(own_mysql.port)
    url = own_mysql.create_database("keys").replace(f":{own_mysql.port}", f":{proxy.port}")
    api = Guarded(tmp_path, url, redis_server.url, **settings())
    try:
        api.start_api()
        admin = api.logged_in()
        form = form_to(admin.open("/dashboard/keys"), "/keys")
        with ThreadPoolExecutor(1) as pool:
            own_mysql.pause()
            try:
                slow = pool.submit(admin.request, "POST", form.action, form.fields | {"name": "slow"})
                assert not wait([slow], timeout=6).done, "a page waits for 5.5 s, a write for its end"
            finally:
                own_mysql.resume()
            [key] = TEXT.findall(slow.result().body.decode())
        assert (slow.result().status, status_with(api, key)) == (200, 200)
        poll(lambda: ApiKey.get().last_used_at, message="the use is written, in a transaction of its own")
        lost = proxy.lose_replies(b"\x03COMMIT")
        reply = admin.request("POST", form.action, form.fields | {"name": "doubtful"})
        [first] = TEXT.findall(reply.body.decode())
        key_id = first.split("_")[1]
        assert lost.done and reply.status == 503 and f"not confirmed the key {key_id}" in reply.body.decode()
        rotate = form_to(admin.open("/dashboard/keys"), f"/keys/{key_id}/rotate")
        proxy.lose_replies(b"\x03COMMIT")
        [second] = TEXT.findall(admin.request("POST", rotate.action, rotate.fields).body.decode())
        assert [status_with(api, each) for each in (first, second)] == [200, 200]
        proxy.lose_replies(b"INSERT INTO `sytq_api_keys`")
        reply = admin.request("POST", form.action, form.fields | {"name": "unmade"})
        assert (reply.status, TEXT.findall(reply.body.decode())) == (503, [])
        assert "look before you repeat it" in reply.body.decode()
        assert [row.name for row in ApiKey.select().order_by(ApiKey.created_at)] == ["slow", "doubtful"]
    finally:
        api.close()
        proxy.close()

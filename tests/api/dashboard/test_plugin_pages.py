"""Pages that a plugin brings: its blocks as HTML, its parameters and actions; a broken one harms nothing else."""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import unquote, urlencode

import pytest

from sytq.ledger.api_keys import ApiKeys, Grant
from sytq.ledger.audit import Audit
from tests.installation import Installation, Reply
from tests.servers import RedisServer

BROWSER = {"accept": "text/html"}

SHOP = """
import datetime as dt
import threading
import time
from decimal import Decimal

from sytq import DashboardPage, Plugin
from sytq.blocks import *
from sytq.errors import InvalidInput

EVIL = '<script>alert(1)</script>'
TIMES = [dt.datetime(2026, 7, 1, hour) for hour in range(3)]


def everything(ctx):
    cells = [
        EVIL, 1234567, 0.5, True, None, dt.datetime(2026, 7, 1, 8), Money(Decimal("0.0042"), "USD"),
        Money(12, "EUR"), Duration(90), Size(2048), State("dead"), Link("a task", "/tasks", {"q": "type:a b"}),
        Link("away", "https://example.com/?a=1&b=2"), Link("bad", "javascript:alert(1)"),
        Link("bad too", "https://user:pw@example.com/"), float("nan"), "password=hunter2",
    ]
    return [
        Fields({"name": EVIL, "api_key": "abc", "none": None, "rtl": "\\u202e\\u05d0\\u05d1"}),
        Table("Cells", [str(n) for n in range(len(cells))], [cells]),
        Table("Nothing", ["a"], [], empty="There is nothing."),
        Table("Many", ["n"], [[n] for n in range(1000)]),
        Text(EVIL), Code(EVIL + "\\n  two", "js"), Markdown("# Title\\n\\n" + EVIL + " **bold** password=hunter3"),
        Json({"a": [EVIL, {"token": "t0ken"}], "deep": deep(5000)}), Json(["x" * 300_000]), Json(list(range(5000))),
        Chart("Sales", TIMES, {"tea": [1, None, 3]}, "EUR"),
        Links("Periods", [Link("day", "/x/shop/everything", {"days": "1"}, current=True)]),
        Text(f"days={ctx.parameters.get('days')} owner={ctx.owner} caller={ctx.caller}"),
    ]


def deep(levels):
    value = "bottom"
    for _ in range(levels):
        value = [value]
    return value


def shelves(ctx):
    action = "/x/shop/shelves/order"
    return [
        Table("Shelves", ["item", ""], [
            ("tea", Action("Order", action, {"item": "tea"}, [Input("count", "How many", "1")])),
            ("salt", Action("Order", action, {"item": "salt"}, [Input("count", "How many", "1")])),
        ]),
        Action("Throw", action, {"item": "all", "count": "none"}, confirm="Sure?"),
    ]


def order(ctx, values):
    if not values["count"].isdecimal():
        raise InvalidInput("count", "not a number")
    return f"{values['count']} {values['item']} for {ctx.caller}"


def fails(ctx):
    raise KeyError(EVIL)


def hangs(ctx):
    time.sleep(4)


def wrong(ctx):
    return {"text": "no blocks"}


def wrong_action(ctx):
    return [Action("Out", "/tasks/1/retry")]


plugin = Plugin("shop", pages={
    "everything": DashboardPage("Everything", everything, parameters=("days",)),
    "shelves": DashboardPage("Shelves", shelves, actions={"order": order}),
    "admins": DashboardPage("Admins", lambda ctx: [Text("for admins")], scope="admin", actions={"order": order}),
    "hosts": DashboardPage(
        "Hosts", lambda ctx: [Action("Order", "/x/shop/hosts/order")], actions={"order": order}, action_scope="admin"
    ),
    "fails": DashboardPage("Fails", fails), "hangs": DashboardPage("Hangs", hangs),
    "wrong": DashboardPage("Wrong", wrong), "wrong-action": DashboardPage("Wrong action", wrong_action),
})
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("shop")
    (folder / "plugins").mkdir()
    (folder / "plugins" / "shop.py").write_text(SHOP)
    made = Installation(
        folder,
        f"sqlite:///{folder / 'sytq.db'}",
        redis_server.url,
        SYTQ_PLUGINS__PATHS=json.dumps([str(folder / "plugins")]),
        SYTQ_AUTH__ENABLED="true",
        SYTQ_REDIS__PREFIX="shop",
    )
    try:
        made.start_api()
        yield made
    finally:
        made.close()


@functools.cache
def key(shop: Installation, *scopes: str) -> dict[str, str]:
    """The headers of a caller with these scopes, whose tasks are those of `till`."""
    _, text = ApiKeys(shop.runtime.database).create("of the test", "till", Grant(scopes=frozenset(scopes)), by="test")
    return BROWSER | {"authorization": f"Bearer {text}"}


def page(shop: Installation, name: str, *scopes: str) -> str:
    reply = shop.request("GET", f"/dashboard/x/shop/{name}", headers=key(shop, *(scopes or ("read",))))
    assert reply.status == 200, reply
    return reply.body.decode()


def press(shop: Installation, action: str, *scopes: str, **values: str) -> Reply:
    """Send the form of an action, with the page's token."""
    headers = key(shop, *scopes)
    shown = shop.request("GET", "/dashboard/x/shop/shelves", headers=headers)
    cookie = shown.headers["set-cookie"].partition(";")[0]
    sent = {"cookie": cookie, "content-type": "application/x-www-form-urlencoded"}
    body = urlencode({"csrf": cookie.partition("=")[2], **values})
    return shop.request("POST", f"/dashboard/x/shop/{action}", body.encode(), headers | sent)


def test_every_block_is_shown_and_none_becomes_markup(shop: Installation) -> None:
    html = page(shop, "everything")
    assert "<script>alert" not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 6
    for shown in ("1,234,567", "$0.0042", "12.00 EUR", "1 min 30 s", "2.0 KiB", "<strong", "There is nothing.", "tea"):
        assert shown in html, shown
    assert '<a href="/dashboard/tasks?q=type%3Aa+b">a task</a>' in html
    assert 'href="https://example.com/?a=1&amp;b=2"' in html
    assert "javascript:" not in html
    assert "user:pw" not in html


def test_secrets_by_name_or_form_are_masked(shop: Installation) -> None:
    html = page(shop, "everything")
    for secret in ("hunter2", "hunter3", "t0ken", ">abc<"):
        assert secret not in html
    assert html.count("***") == 4


def test_what_is_long_wide_or_deep_is_cut_and_says_so(shop: Installation) -> None:
    html = page(shop, "everything")
    assert "The first 200 of 1,000 rows are shown." in html
    assert "… 4500 more" in html
    assert "The value is longer." in html
    assert len(html) < 200_000


def test_page_takes_its_parameters_and_no_others(shop: Installation) -> None:
    assert "days=7 owner=till caller=" in page(shop, "everything?days=7")
    assert shop.request("GET", "/dashboard/x/shop/everything?weeks=1", headers=key(shop, "read")).status == 400


def test_pages_are_in_the_navigation_of_callers_who_may_read_them(shop: Installation) -> None:
    assert '<a href="/dashboard/x/shop/shelves" aria-current="page">Shelves</a>' in page(shop, "shelves")
    assert ">Admins</a>" not in page(shop, "shelves")
    assert ">Admins</a>" in page(shop, "shelves", "admin")
    assert shop.request("GET", "/dashboard/x/shop/admins", headers=key(shop, "read")).status == 403


def test_broken_page_says_that_it_failed(shop: Installation) -> None:
    assert "failed: KeyError (/x/shop/fails)" in page(shop, "fails")
    assert "failed: TypeError (/x/shop/wrong)" in page(shop, "wrong")
    assert "failed: ValueError (/x/shop/wrong-action)" in page(shop, "wrong-action")


@pytest.mark.parametrize("path", ["/x/llm/spend?days=90", "/x/llm/providers", "/x/webhook/hosts?q=example"])
def test_pages_of_built_in_plugins_are_whole(path: str, shop: Installation) -> None:
    for scopes in (("read",), ("admin",)):
        reply = shop.request("GET", f"/dashboard{path}", headers=key(shop, *scopes))
        assert reply.status == 200
        assert b"failed:" not in reply.body


def test_page_that_hangs_is_given_up_and_delays_no_other(shop: Installation) -> None:
    with ThreadPoolExecutor() as pool:
        hanging = [pool.submit(page, shop, "hangs") for _ in range(5)]
        began = time.monotonic()
        assert shop.request("GET", "/v2/tasks", headers=key(shop, "read")).status == 200
        assert time.monotonic() - began < 1.5
        for each in hanging:
            assert "failed: took longer than 2 s" in each.result()


def test_action_is_done_once_told_and_audited(shop: Installation) -> None:
    reply = press(shop, "shelves/order", "read", "operate", item="tea", count="2", password="hunter2")
    assert (reply.status, reply.headers["location"]) == (303, "/dashboard/x/shop/shelves")
    assert unquote(reply.headers["set-cookie"]).startswith("sytq_said=2 tea for")
    [entry] = Audit(shop.runtime.database).latest(1)
    assert (entry.what, entry.about) == ("POST", "/dashboard/x/shop/shelves/order")
    assert entry.detail == "item=tea count=2 password=***"


def test_refused_action_keeps_what_was_typed_beside_its_error(shop: Installation) -> None:
    reply = press(shop, "shelves/order", "read", "operate", item="salt", count="a lot")
    html = reply.body.decode()
    assert reply.status == 400
    assert "count: not a number" in html
    assert re.findall(r'name="item" value="(\w+)">|name="count" value="([^"]*)" required', html)[:4] == [
        ("tea", ""),
        ("", "1"),
        ("salt", ""),
        ("", "a lot"),
    ]
    assert html.count("<details open>") == 1


def test_viewer_has_no_button_and_no_hand_made_request_succeeds(shop: Installation) -> None:
    assert "<form" not in page(shop, "shelves", "read")
    assert page(shop, "shelves", "read", "operate").count("<form") == 3
    form = {"cookie": "sytq_csrf=a", "content-type": "application/x-www-form-urlencoded"}
    body = urlencode({"csrf": "a", "item": "tea", "count": "1"}).encode()
    path = "/dashboard/x/shop/shelves/order"
    assert shop.request("POST", path, body, key(shop, "read") | form).status == 403
    body = urlencode({"csrf": "b", "item": "tea", "count": "1"}).encode()
    assert shop.request("POST", path, body, key(shop, "read", "operate") | form).status == 403


@pytest.mark.parametrize("path", ["admins/order", "hosts/order"])
def test_actions_for_admins_are_refused_to_operators(shop: Installation, path: str) -> None:
    for count in ("1", "a lot"):  # a refused form would show its page
        reply = press(shop, path, "read", "operate", item="tea", count=count)
        assert reply.status == 403 and b"for admins" not in reply.body
    assert press(shop, path, "admin", item="tea", count="1").status == 303


def test_buttons_for_admins_are_not_shown_to_operators(shop: Installation) -> None:
    assert "<form" not in page(shop, "hosts", "read", "operate")
    assert page(shop, "hosts", "admin").count("<form") == 1


@pytest.mark.parametrize("path", ["x/llm/providers/pause", "x/llm/providers/resume", "x/webhook/hosts/test"])
def test_what_concerns_all_owners_needs_an_admin(shop: Installation, path: str) -> None:
    form = {"cookie": "sytq_csrf=a", "content-type": "application/x-www-form-urlencoded"}
    sent = b"csrf=a&host=hook.example.com:443&limiter=provider:a&reason=x&url=http://hook.example.com/"
    assert shop.request("POST", f"/dashboard/{path}", sent, key(shop, "read", "operate") | form).status == 403


def test_a_form_needs_the_scope_of_its_page(shop: Installation) -> None:
    form = {"cookie": "sytq_csrf=a", "content-type": "application/x-www-form-urlencoded"}
    reply = shop.request("POST", "/dashboard/tasks/none/retry", b"csrf=a", key(shop, "operate") | form)
    assert reply.status == 403 and b"scope &#39;read&#39;" in reply.body
    assert shop.request("GET", "/dashboard/types/webhook/new?from=none", headers=key(shop, "submit")).status == 403

"""Pages that a plugin brings: its blocks as HTML, its parameters and actions; a broken one harms nothing else."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sytq.ledger.audit import Audit
from tests.api.dashboard.browser import Browser, browse_as
from tests.installation import Installation


def till(staffed: Installation, *scopes: str) -> Browser:
    """The browser of a caller with these scopes, whose tasks are those of `till`."""
    return browse_as(staffed, "till", *(scopes or ("read",)))


def page(staffed: Installation, name: str, *scopes: str) -> str:
    return till(staffed, *scopes).get(f"/x/shop/{name}").html


def test_every_block_is_shown_and_none_becomes_markup(staffed: Installation) -> None:
    html = page(staffed, "everything")
    assert "<script>alert" not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 6
    for shown in ("1,234,567", "$0.0042", "12.00 EUR", "1 min 30 s", "2.0 KiB", "<strong", "There is nothing.", "tea"):
        assert shown in html, shown
    assert '<a href="/dashboard/tasks?q=type%3Aa+b">a task</a>' in html
    assert 'href="https://example.com/?a=1&amp;b=2"' in html
    assert "javascript:" not in html
    assert "user:pw" not in html


def test_secrets_by_name_or_form_are_masked(staffed: Installation) -> None:
    html = page(staffed, "everything")
    for secret in ("hunter2", "hunter3", "t0ken", ">abc<"):
        assert secret not in html
    assert html.count("***") == 4


def test_what_is_long_wide_or_deep_is_cut_and_says_so(staffed: Installation) -> None:
    html = page(staffed, "everything")
    assert "The first 200 of 1,000 rows are shown." in html
    assert "… 4500 more" in html
    assert "The value is longer." in html
    assert len(html) < 200_000


def test_page_takes_its_parameters_and_no_others(staffed: Installation) -> None:
    assert "days=7 owner=till caller=" in page(staffed, "everything?days=7")
    till(staffed).get("/x/shop/everything?weeks=1", 400)


def test_pages_are_in_the_navigation_of_callers_who_may_read_them(staffed: Installation) -> None:
    assert '<a href="/dashboard/x/shop/shelves" aria-current="page">Shelves</a>' in page(staffed, "shelves")
    assert ">Admins</a>" not in page(staffed, "shelves")
    assert ">Admins</a>" in page(staffed, "shelves", "admin")
    till(staffed).get("/x/shop/admins", 403)


def test_broken_page_says_that_it_failed(staffed: Installation) -> None:
    assert "failed: KeyError (/x/shop/fails)" in page(staffed, "fails")
    assert "failed: TypeError (/x/shop/wrong)" in page(staffed, "wrong")
    assert "failed: ValueError (/x/shop/wrong-action)" in page(staffed, "wrong-action")


@pytest.mark.parametrize("path", ["/x/llm/spend?days=90", "/x/llm/providers", "/x/webhook/hosts?q=example"])
def test_pages_of_built_in_plugins_are_whole(path: str, staffed: Installation) -> None:
    for scope in ("read", "admin"):
        assert "failed:" not in till(staffed, scope).get(path).html


def test_page_that_hangs_is_given_up_and_delays_no_other(staffed: Installation) -> None:
    with ThreadPoolExecutor() as pool:
        hanging = [pool.submit(page, staffed, "hangs") for _ in range(5)]
        began = time.monotonic()
        assert till(staffed).request("GET", "/v2/tasks").status == 200
        assert time.monotonic() - began < 1.5
        for each in hanging:
            assert "failed: took longer than 2 s" in each.result()


def test_action_is_done_once_told_and_audited(staffed: Installation) -> None:
    browser = till(staffed, "read", "operate")
    shown = browser.post("/x/shop/shelves/order", item="tea", count="2", password="hunter2")
    assert shown.path == "/dashboard/x/shop/shelves" and "2 tea for" in shown.html
    [entry] = Audit(staffed.runtime.database).latest(1)
    assert (entry.what, entry.about) == ("POST", "/dashboard/x/shop/shelves/order")
    assert entry.detail == "item=tea count=2 password=***"


def test_refused_action_keeps_what_was_typed_beside_its_error(staffed: Installation) -> None:
    html = till(staffed, "read", "operate").post("/x/shop/shelves/order", 400, item="salt", count="a lot").html
    assert "count: not a number" in html
    assert re.findall(r'name="item" value="(\w+)">|name="count" value="([^"]*)" required', html)[:4] == [
        ("tea", ""),
        ("", "1"),
        ("salt", ""),
        ("", "a lot"),
    ]
    assert html.count("<details open>") == 1


def test_viewer_has_no_button_and_no_hand_made_request_succeeds(staffed: Installation) -> None:
    viewer, operator = till(staffed), till(staffed, "read", "operate")
    assert "<form" not in viewer.get("/x/shop/shelves").html
    assert operator.get("/x/shop/shelves").html.count("<form") == 3
    path = "/x/shop/shelves/order"
    viewer.post(path, 403, item="tea", count="1")
    operator.post(path, 403, item="tea", count="1", csrf="b")


@pytest.mark.parametrize("path", ["admins/order", "hosts/order"])
def test_actions_for_admins_are_refused_to_operators(staffed: Installation, path: str) -> None:
    for count in ("1", "a lot"):  # a refused form would show its page
        refused = till(staffed, "read", "operate").post(f"/x/shop/{path}", 403, item="tea", count=count)
        assert "for admins" not in refused.html
    till(staffed, "admin").post(f"/x/shop/{path}", item="tea", count="1")


def test_buttons_for_admins_are_not_shown_to_operators(staffed: Installation) -> None:
    assert "<form" not in page(staffed, "hosts", "read", "operate")
    assert page(staffed, "hosts", "admin").count("<form") == 1


@pytest.mark.parametrize("path", ["x/llm/providers/pause", "x/llm/providers/resume", "x/webhook/hosts/test"])
def test_what_concerns_all_owners_needs_an_admin(staffed: Installation, path: str) -> None:
    sent = {"host": "hook.example.com:443", "limiter": "provider:a", "reason": "x", "url": "http://hook.example.com/"}
    till(staffed, "read", "operate").post(f"/{path}", 403, **sent)


def test_a_form_needs_the_scope_of_its_page(staffed: Installation) -> None:
    fields = {"csrf": "a"}
    refused = till(staffed, "operate").request("POST", "/dashboard/tasks/none/retry", fields, Cookie="sytq_csrf=a")
    assert refused.status == 403 and "scope 'read'" in refused.text
    till(staffed, "submit").get("/types/webhook/new?from=none", 403)

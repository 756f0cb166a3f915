"""Saved views on the page of tasks: each caller's own, and shared ones."""

from __future__ import annotations

from tests.api.dashboard.browsing import Reader
from tests.installation import Installation


def test_saved_view_is_shown_applied_and_deleted(api: Installation) -> None:
    browser = Reader(api)
    browser.get("/tasks")
    saved = browser.post("/tasks/views", name=" <b>dead</b> & ✓ ", query='state:dead error:"timed out"')
    assert saved.status == 200 and "is saved." in saved.html and "<b>" not in saved.html
    assert browser.get(saved.link("<b>dead</b> & ✓")).field("q") == 'state:dead error:"timed out"'
    (entry, *_) = api.rows("SELECT who, what, about FROM sytq_audit ORDER BY id DESC")
    assert entry == ("local", "view.save", "<b>dead</b> & ✓")
    deletion = saved.html.rpartition('action="/dashboard')[2].partition('"')[0]
    assert "The view is deleted." in browser.post(deletion).html
    assert browser.post(deletion).status == 404
    assert "✓" not in browser.get("/tasks").html


def test_invalid_view_is_explained_beside_its_field(api: Installation) -> None:
    browser = Reader(api)
    browser.get("/tasks")
    refused = browser.post("/tasks/views?q=state%3Adead", name="x" * 65, query="state:dead")
    assert refused.status == 400, (refused.text, browser.cookies)
    assert "1 to 64 visible characters" in refused.text
    assert refused.field("q") == "state:dead"
    assert browser.post("/tasks/views", name="bad", query="colour:red").status == 400


def test_form_without_its_token_saves_nothing(api: Installation) -> None:
    browser = Reader(api)
    browser.get("/tasks")
    assert browser.post("/tasks/views", name="forged", query="", csrf="other").status == 403
    assert "forged" not in browser.get("/tasks").html


def test_viewer_saves_own_views_and_shares_none(guarded: Installation) -> None:
    ours, theirs = Reader(guarded, owner="us"), Reader(guarded, owner="them")
    admin = Reader(guarded, "admin", owner="root")
    for browser in (ours, theirs, admin):
        browser.get("/tasks")
    assert ours.post("/tasks/views", name="ours", query="state:dead").status == 200
    assert ours.post("/tasks/views", name="everyone's", query="", shared="yes").status == 403
    assert admin.post("/tasks/views", name="for all", query="", shared="yes").status == 200
    shown = theirs.get("/tasks")
    assert "for all" in shown.text and "ours" not in shown.text
    deletion = ours.get("/tasks").html.rpartition('action="/dashboard')[2].partition('"')[0]
    assert deletion.endswith("/delete") and theirs.post(deletion).status == 404
    assert ours.post(deletion).status == 200

"""Saved views on the page of tasks: each caller's own, and shared ones."""

from __future__ import annotations

from tests.api.dashboard.browser import browse, browse_as
from tests.installation import Installation


def test_saved_view_is_shown_applied_and_deleted(api: Installation) -> None:
    browser = browse(api)
    saved = browser.post("/tasks/views", name=" <b>dead</b> & ✓ ", query='state:dead error:"timed out"')
    assert "is saved." in saved.html and "<b>" not in saved.html
    assert browser.open(saved.link("<b>dead</b> & ✓")).form("/tasks").fields["q"] == 'state:dead error:"timed out"'
    (entry, *_) = api.rows("SELECT who, what, about FROM sytq_audit ORDER BY id DESC")
    assert entry == ("local", "view.save", "<b>dead</b> & ✓")
    deletion = saved.form("/delete").action.removeprefix("/dashboard")
    assert "The view is deleted." in browser.post(deletion).html
    browser.post(deletion, 404)
    assert "✓" not in browser.get("/tasks").html


def test_saved_view_is_renamed_and_a_taken_name_refused(api: Installation) -> None:
    browser = browse(api)
    for name in ("before", "taken"):
        browser.post("/tasks/views", name=name, query="state:dead")
    (view_id,) = api.rows("SELECT id FROM sytq_views WHERE name = 'before'")[0]
    path = f"/tasks/views/{view_id}/rename"
    refused = browser.post(f"{path}?q=state%3Adead", 400, name="taken", view=view_id).html
    assert "there is a view &#39;taken&#39; already" in refused and 'aria-describedby="error-rename"' in refused
    renamed = browser.post(path, name=" after ", view=view_id)
    assert "The view is renamed." in renamed.html and "before" not in renamed.html
    assert browser.open(renamed.link("after")).form("/tasks").fields["q"] == "state:dead"
    browser.post("/tasks/views/nosuch/rename", 404, name="x")
    (entry, *_) = api.rows("SELECT what, about, detail FROM sytq_audit ORDER BY id DESC")
    assert entry == ("view.rename", "after", "was before")


def test_invalid_view_is_explained_beside_its_field(api: Installation) -> None:
    browser = browse(api)
    refused = browser.post("/tasks/views?q=state%3Adead", 400, name="x" * 65, query="state:dead")
    assert "1 to 64 visible characters" in refused.text
    assert refused.form("/tasks").fields["q"] == "state:dead"
    browser.post("/tasks/views", 400, name="bad", query="colour:red")


def test_form_without_its_token_saves_nothing(api: Installation) -> None:
    browser = browse(api)
    browser.post("/tasks/views", 403, name="forged", query="", csrf="other")
    assert "forged" not in browser.get("/tasks").html


def test_viewer_saves_own_views_and_shares_none(guarded: Installation) -> None:
    ours, theirs = browse_as(guarded, "us", "read"), browse_as(guarded, "them", "read")
    admin = browse_as(guarded, "root", "admin")
    ours.post("/tasks/views", name="ours", query="state:dead")
    ours.post("/tasks/views", 403, name="everyone's", query="", shared="yes")
    admin.post("/tasks/views", name="for all", query="", shared="yes")
    shown = theirs.get("/tasks")
    assert "for all" in shown.text and "ours" not in shown.text
    deletion = ours.get("/tasks").form("/delete").action.removeprefix("/dashboard")
    theirs.post(deletion, 404)
    ours.post(deletion)

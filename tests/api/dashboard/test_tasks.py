"""The list of tasks: queries and their errors, pages that stay true, completion, who sees what."""

from __future__ import annotations

import re
from urllib.parse import urlencode

import pytest

from sytq.ledger.database import transact
from sytq.ledger.models import Task
from tests.api.dashboard.browser import browse, browse_as
from tests.api.dashboard.rows import inserted
from tests.installation import Installation


def ids(html: str) -> list[str]:
    return re.findall(r'<tr id="task-([^"]+)"', html)


def test_pages_stay_true_while_tasks_come_in_and_change_state(api: Installation) -> None:
    mine = inserted(api, 120, type="paged")
    browser = browse(api)
    first = browser.get("/tasks", q="type:paged")
    assert "data-poll" in first.html
    second = browser.open(first.link("Older"))
    assert "data-poll" not in second.html
    seen = ids(first.html) + ids(second.html)
    newer = inserted(api, 30, type="paged")
    transact(api.runtime.database, Task.update(state="cancelled").where(Task.id.in_(ids(second.html)[:5])).execute)
    assert ids(browser.open(second.path).html) == ids(second.html)
    third = browser.open(second.link("Older"))
    seen += ids(third.html)
    assert sorted(seen) == sorted(mine) and "Older" not in third.text
    assert ids(browser.open(third.link("Newer")).html) == ids(second.html)
    assert set(ids(browser.open(browser.open(third.link("Newer")).link("Newer")).html)) >= set(newer)
    assert set(ids(browser.open(third.link("Newest tasks")).html)) >= set(newer)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("state:dead colour:red", "at character 12: 'colour' is not a field; valid: id, type"),
        ("state:pending", "at character 7: state: 'pending' is not a state; valid: queued, scheduled"),
        ('error:"<script>alert(1)</script>', "at character 7: error: the text has no closing quote"),
        ("x" * 2001, "longer than 2000 characters"),
    ],
)
def test_invalid_queries_are_explained_in_place(api: Installation, query: str, says: str) -> None:
    shown = browse(api).get("/tasks", q=query)
    assert says in shown.text
    assert "<script>alert" not in shown.html and 'aria-invalid="true"' in shown.html
    assert shown.form("/tasks").fields["q"] == query


@pytest.mark.parametrize("parameters", [{"cursor": "nonsense"}, {"cursor": "x", "trail": "a.b..c"}, {"q": "\u202e<b>"}])
def test_hostile_parameters_make_no_5xx_and_no_markup(api: Installation, parameters: dict[str, str]) -> None:
    shown = browse(api).get("/tasks", **parameters)
    assert "<b>" not in shown.html


def test_hostile_rows_are_shown_bounded_and_escaped(api: Installation) -> None:
    huge = "<img src=x onerror=alert(1)>" + "x" * 200_000
    metadata = '{"<b>k</b>": "\u202e<script>", "deep": ' + "[" * 50 + "]" * 50 + ', "a": 1, "b": 2}'
    (task,) = inserted(api, 1, error=huge, metadata=metadata, progress='{"done": "x", "of": []}')
    html = browse(api).get("/tasks", q=f"id:{task}").html
    assert ids(html) == [task]
    assert "<img" not in html and "<b>k" not in html and len(html) < 40_000


def test_secrets_by_name_or_form_are_masked_in_the_list(api: Installation) -> None:
    metadata = '{"api_key": "hunter2", "note": "token=hunter2", "deep": {"cookie": "hunter2"}}'
    error = "refused: password=hunter2"
    (task,) = inserted(api, 1, error=error, metadata=metadata, unique_key="token=hunter2", state="dead")
    for shown in (browse(api).get("/tasks", q=f"id:{task}"), browse(api).get(f"/tasks/{task}")):
        assert task in shown.html and "***" in shown.html and "hunter2" not in shown.html


def test_completion_offers_what_the_parser_accepts(api: Installation) -> None:
    def offered(query: str, at: int | None = None) -> list[str]:
        place = {} if at is None else {"at": str(at)}
        reply = api.request("GET", f"/dashboard/tasks/complete?{urlencode({'q': query} | place)}")
        assert reply.status == 200
        return [one["text"] for one in reply.json["suggestions"]]

    assert offered("sta")[0] == "state:"
    assert offered("state:d type:x", 7)[0] == "dead"
    assert offered("type:web") == ["webhook"]
    assert offered("queue:lu") == [] and offered("zzz") == []
    assert offered('error:"<', 999) == []


def test_viewers_see_their_own_tasks_and_no_button(guarded: Installation) -> None:
    (mine,) = inserted(guarded, 1, type="seen", owner="looker", host="ours.example")
    (other,) = inserted(guarded, 1, type="seen", owner="them", host="theirs.example")
    viewer = browse_as(guarded, "looker", "read")
    shown = viewer.get("/tasks", q="type:seen")
    assert ids(shown.html) == [mine]
    assert "Retry" not in shown.text and "checkbox" not in shown.html
    assert re.search(r"dead 1\b", shown.text), "another owner's tasks are not counted"
    assert ids(viewer.get("/tasks", q=f"id:{other}").html) == []
    admin = browse_as(guarded, "root", "admin")
    assert set(ids(admin.get("/tasks", q="type:seen").html)) == {mine, other}
    assert "theirs.example" in admin.get("/tasks/complete", q="host:the").html
    for query in ("host:", "owner:", "worker:", "metadata.", "metadata.k:"):
        assert "them" not in viewer.get("/tasks/complete", q=query).html
        assert "theirs" not in viewer.get("/tasks/complete", q=query).html

"""Types: their list, pause and resume, and the form that submits a task."""

from __future__ import annotations

import json
import re

from tests.api.dashboard.browser import Browser, browse_as
from tests.installation import Installation


def audit(api: Installation) -> tuple[str, str, str | None]:
    [(who, about, detail)] = api.rows("SELECT who, about, detail FROM sytq_audit ORDER BY id DESC LIMIT 1")
    return who, about, detail


def test_list_has_every_type_and_what_was_set_aside(admin: Browser) -> None:
    page = admin.get("/types").html
    assert 'href="/dashboard/types/order"' in page
    assert "nothing_here" in page
    assert "Submit a task" in admin.get("/types/order").html
    assert "Submit a task" not in admin.get("/types/inner").html
    admin.get("/types/nonsense", 404)
    admin.get("/types/inner/new", 404)


def test_pause_needs_a_reason_and_is_seen_audited_and_ended(staffed: Installation, admin: Browser) -> None:
    assert "say why" in admin.post("/types/order/pause", 400, why=" ").html
    page = admin.post("/types/order/pause", why="the shop <moves>").html
    assert "order is paused" in page
    assert "the shop &lt;moves&gt;" in page
    assert audit(staffed)[1:] == ("/dashboard/types/order/pause", "the shop <moves>")
    assert staffed.runtime.inspection.paused() == ["order"]
    assert "the shop &lt;moves&gt;" in admin.get("/types").html
    assert "order is resumed" in admin.post("/types/order/resume").html
    assert "order was not paused" in admin.post("/types/order/resume").html
    assert staffed.runtime.inspection.paused() == []


def test_pausing_everybodys_tasks_needs_an_admin(staffed: Installation) -> None:
    operator = browse_as(staffed, "ann", "read", "operate", "submit")
    assert "/types/order/pause" not in operator.get("/types/order").html
    operator.post("/types/order/pause", 403, why="mine")
    assert staffed.runtime.operator.pauses() == []


def test_counts_of_all_owners_are_for_admins(staffed: Installation, admin: Browser) -> None:
    assert "<b>0</b>" in admin.get("/types/count").html
    assert "<b>0</b>" not in browse_as(staffed, "ann", "read").get("/types/count").html


def test_form_without_scripts_submits_what_was_typed(staffed: Installation, admin: Browser) -> None:
    form = admin.get("/types/order/new").form("/new").fields
    for _ in range(2):
        reply = admin.post("/types/order/new", **(form | {"change": "add-row payload.items"}))
        form = reply.form("/new").fields
    form |= {
        "payload.number": "x",
        "payload.items.0.sku": "a",
        "payload.items.1.sku": "b",
        "payload.items.1.price": "-1",
    }
    reply = admin.post("/types/order/new", 400, **form)
    wrong = re.findall(r'id="([^"]+)~about">\s*<strong class="error">', reply.html)
    assert wrong == ["payload.number", "payload.items.0.price", "payload.items.1.price"]
    form = reply.form("/new").fields
    form |= {"payload.number": "7", "payload.items.0.price": "1.5", "payload.items.1.price": "2"}
    form |= {"task.priority": '"high"', "task.delay": "1h", "task.unique_key": "k1", "task.metadata": '{"a": 1}'}
    reply = admin.post("/types/order/new", **form)
    task_id = reply.path.rpartition("/")[2]
    row = staffed.row(task_id)
    assert json.loads(row.payload) == {"number": 7, "items": [{"sku": "a", "price": 1.5}, {"sku": "b", "price": 2.0}]}
    assert (row.type, row.priority, row.state, row.owner) == ("order", "high", "scheduled", "root")
    assert json.loads(row.metadata) == {"a": 1}
    # The same form again is the same task; another one with its unique key is answered with it.
    assert admin.post("/types/order/new", **form).path == f"/dashboard/tasks/{task_id}"
    changed = admin.post("/types/order/new", 422, **(form | {"payload.number": "8"})).form("/new").fields
    other = admin.post("/types/order/new", **changed)
    assert other.path == f"/dashboard/tasks/{task_id}"
    assert staffed.rows("SELECT COUNT(*) FROM sytq_tasks WHERE type = 'order'") == [(1,)]


def test_wrong_options_are_named_at_their_fields(admin: Browser) -> None:
    form = admin.get("/types/order/new").form("/new").fields
    form = admin.post("/types/order/new", **(form | {"change": "add task.callback"})).form("/new").fields
    form |= {"payload.number": "1", "task.callback.url": "http://127.0.0.1/"}
    page = admin.post("/types/order/new", 400, **form).html
    assert re.search(r'id="task.callback.url~about">\s*<strong class="error">', page)
    page = admin.post("/types/order/new", 400, **(form | {"task.delay": "1h", "task.run_at": "x"})).html
    assert re.search(r'id="task.run_at~about">\s*<strong class="error">', page)
    page = admin.post("/types/order/new", 400, **(form | {"task.metadata": "{"})).html
    assert re.search(r'id="task.metadata~about">\s*<strong class="error">', page)


def test_payload_is_edited_as_json_and_back(staffed: Installation, admin: Browser) -> None:
    form = admin.get("/types/order/new").form("/new").fields | {"payload.number": "3", "change": "as-json"}
    form = admin.post("/types/order/new", **form).form("/new").fields
    assert json.loads(form["payload"]) == {"number": 3}
    form |= {"payload": '{"number": 4, "items": [{"sku": "z", "price": 9}]}', "change": "as-fields"}
    form = admin.post("/types/order/new", **form).form("/new").fields
    assert (form["payload.number"], form["payload.items.0.sku"]) == ("4", "z")
    form = admin.get("/types/default/new").form("/new").fields | {"payload": '{"any": ["thing", 1.50]}'}
    reply = admin.post("/types/default/new", **form)
    assert staffed.row(reply.path.rpartition("/")[2]).payload == '{"any":["thing",1.5]}'


def test_form_of_an_earlier_task_has_its_payload(staffed: Installation, admin: Browser) -> None:
    ann = browse_as(staffed, "ann", "read", "submit")
    form = ann.get("/types/count/new").form("/new").fields | {"payload.number": "5", "payload.note": "a\r\nb"}
    task_id = ann.post("/types/count/new", **form).path.rpartition("/")[2]
    assert json.loads(staffed.row(task_id).payload) == {"number": 5, "note": "a\nb"}
    again = ann.get(f"/types/count/new?from={task_id}").form("/new").fields
    assert (again["payload.number"], again["payload.note"]) == ("5", "a\r\nb")
    assert admin.get(f"/types/count/new?from={task_id}").form("/new").fields["payload.number"] == "5"
    browse_as(staffed, "bob", "read", "submit").get(f"/types/count/new?from={task_id}", 404)
    admin.get(f"/types/order/new?from={task_id}", 404)


def test_secrets_of_an_earlier_task_stay_hidden_and_as_they_were(staffed: Installation, admin: Browser) -> None:
    ann = browse_as(staffed, "ann", "read", "submit")
    body = {"type": "default", "payload": {"api_key": "sk-abcdefgh1234", "n": 1}, "metadata": {"password": "hunter2"}}
    task_id = staffed.request("POST", "/v2/tasks", body, ann.headers).json["id"]
    page = ann.get(f"/types/default/new?from={task_id}")
    assert "sk-abcdefgh1234" not in page.html
    assert "hunter2" not in page.html
    form = page.form("/new").fields
    form["payload"] = form["payload"].replace('"n": 1', '"n": 2')
    row = staffed.row(ann.post("/types/default/new", **form).path.rpartition("/")[2])
    assert json.loads(row.payload) == {"api_key": "sk-abcdefgh1234", "n": 2}
    assert json.loads(row.metadata) == {"password": "hunter2", "resubmitted_from": task_id}
    bob = browse_as(staffed, "bob", "read", "submit")
    bob.post("/types/default/new", 404, like=task_id, payload="{}")


def test_form_is_there_for_who_may_submit_the_type(staffed: Installation) -> None:
    browse_as(staffed, "eve", "read").get("/types/order/new", 403)
    some = browse_as(staffed, "sam", "submit", "read", types=("count",))
    some.get("/types/count/new")
    some.get("/types/order/new", 403)
    assert "Submit a task" not in some.get("/types/order").html
    form = some.get("/types/count/new").form("/new").fields | {"payload.number": "1"}
    some.post("/types/order/new", 403, **form)
    browse_as(staffed, "ann", "read", "submit").get("/types/sweep/new", 403)
    only = browse_as(staffed, "only", "submit")
    form = only.get("/types/count/new").form("/new").fields | {"payload.number": "1"}
    assert only.post("/types/count/new", **form).path == "/dashboard/types/count/new"


def test_payload_of_another_program_that_is_nested_too_deep_has_no_form(staffed: Installation, admin: Browser) -> None:
    ann = browse_as(staffed, "ann", "read", "submit")
    task_id = staffed.request("POST", "/v2/tasks", {"type": "default", "payload": {}}, ann.headers).json["id"]
    # Beyond what Python parses it is a text; how much that is differs between its versions.
    for depth, statuses in ((300, {200}), (900, {200, 409}), (100_000, {200})):
        deep = '{"a":' + "[" * depth + "]" * depth + "}"
        staffed.runtime.database.execute_sql("UPDATE sytq_tasks SET payload = ? WHERE id = ?", (deep, task_id))
        page = admin.open(f"/dashboard/types/default/new?from={task_id}")
        assert page.status in statuses, page.text[-2000:]


def test_large_payload_is_in_its_form_as_it_is(staffed: Installation, admin: Browser) -> None:
    large = "<script>" + "\u202eabc\u00e4" * 30_000
    body = {"type": "count", "payload": {"number": 1, "note": large}}
    ann = browse_as(staffed, "ann", "read", "submit")
    task_id = staffed.request("POST", "/v2/tasks", body, ann.headers).json["id"]
    page = admin.get(f"/types/count/new?from={task_id}")
    assert page.form("/new").fields["payload.note"] == large
    assert "<script>" + "\u202e" not in page.html

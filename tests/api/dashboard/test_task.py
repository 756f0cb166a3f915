"""The page of one task: what happened, what happens now, and what may be done about it."""

from __future__ import annotations

import datetime as dt
import html
import json
import re
from typing import Any

import pytest

from sytq.api.dashboard.resubmission import unmasked
from sytq.errors import InvalidInput
from sytq.ledger.database import transact
from sytq.ledger.models import Attempt, Task
from sytq.ledger.values import parsed
from tests.api.dashboard.browser import browse, browse_as, log_in
from tests.installation import Installation
from tests.servers import poll


def page(task_id: str, more: str = "") -> str:
    return f"/dashboard/tasks/{task_id}{more}"


def accepted(installation: Installation, type_name: str, payload: Any, **fields: Any) -> str:
    reply = installation.post("/v2/tasks", {"type": type_name, "payload": payload, **fields})
    assert reply.status == 202, reply
    return str(reply.json["id"])


def test_page_tells_waiting_from_running_and_shows_all_of_a_task(running: Installation) -> None:
    task = running.post_task("stepwise", "a", metadata={"order": 7, "api_key": "geheim"})
    running.wait_shown(task, "succeeded")
    reply = browse(running).open(page(task))
    said = reply.text
    for part in ("waiting for a worker", "running", "Steps", "two", "Payload", "Result", '"order": 7', "Attempts"):
        assert part in said
    assert "geheim" not in said
    assert b'<svg class="span running"' in reply.body


def test_page_of_an_ended_task_that_did_not_change_is_a_304(running: Installation) -> None:
    task = running.post_task("plain", "a")
    running.wait_shown(task, "succeeded")
    visitor = browse(running)
    visitor.open(page(task))
    block = visitor.request("GET", page(task), HX_Request="true")
    assert block.body.lstrip().startswith(b"<h1>")
    again = visitor.request("GET", page(task), HX_Request="true", If_None_Match=block.headers["etag"])
    assert again.status == 304


def test_error_is_explained_with_the_part_of_the_docs(running: Installation) -> None:
    task = running.post_task("hopeless", "a")
    running.wait_shown(task, "dead")
    running.rows("UPDATE sytq_tasks SET error = 'timed out after 10 s' WHERE id = " + f"'{task}'")
    said = browse(running).open(page(task)).text
    assert "took longer than the `timeout`" in said
    assert "docs/plugins.md#the-policy" in said


def test_running_task_is_followed_by_events_of_the_dashboard(running: Installation) -> None:
    task = running.post_task("stepwise", "a")
    running.wait_shown(task, "succeeded")
    path = page(task, "/events")
    reply = browse(running).request("GET", path)
    assert (reply.status, reply.headers["content-type"].partition(";")[0]) == (200, "text/event-stream")
    assert b"event: ended" in reply.body
    assert path.encode() not in browse(running).open(page(task)).body  # it has ended
    running.hold("h")
    held = running.post_task("gentle", "h")
    poll(lambda: running.get(f"/v2/tasks/{held}")["progress"], message="it reports progress")
    shown = browse(running).open(page(held))
    assert page(held, "/events").encode() in shown.body
    assert b'<progress aria-label="Progress" max="2" value="1">' in shown.body
    running.release("h")


def test_events_mask_secrets_in_the_text_of_progress(running: Installation) -> None:
    task = running.post_task("plain", "a")
    running.wait_shown(task, "succeeded")
    said = json.dumps({"done": 1, "of": 2, "text": "logged in with password=geheim"})
    Task.update(progress=said).where(Task.id == task).execute()
    reply = browse(running).request("GET", page(task, "/events"))
    assert b"geheim" not in reply.body and b"logged in with password=***" in reply.body


def test_raw_task_is_json_with_secrets_masked(running: Installation) -> None:
    task = running.post_task("plain", "a", metadata={"token": "geheim", "n": 1})
    reply = browse(running).request("GET", page(task, "/raw"))
    assert (reply.headers["content-type"].partition(";")[0], reply.json["id"]) == ("application/json", task)
    assert reply.json["metadata"] == {"token": "***", "n": 1}


def test_task_of_many_attempts_shows_the_last_and_as_json_all(running: Installation) -> None:
    task = running.post_task("plain", "many")
    running.wait_shown(task, "succeeded")
    moment = dt.datetime(2026, 1, 1)
    row = {"task_id": task, "outcome": "failed", "started_at": moment, "finished_at": moment, "error": "broken"}
    rows = [row | {"attempt": number, "token": -number} for number in range(2000)]
    for part in range(0, len(rows), 500):
        transact(running.runtime.database, Attempt.insert_many(rows[part : part + 500]).execute)
    visitor = browse(running)
    assert "The last 50 are shown." in visitor.open(page(task)).text
    for path in (page(task, "/raw"), f"/v2/tasks/{task}"):
        assert len(visitor.request("GET", path).json["attempts_made"]) >= 2000


def test_task_is_cancelled_retried_rescheduled_and_deleted_by_forms(running: Installation) -> None:
    visitor, task = browse(running), running.post_task("plain", "b", delay="1h")
    shown = visitor.open(page(task))
    refused = visitor.submit(shown.form("/reschedule"), delay="soon")
    assert refused.status == 400
    assert b'id="error-delay"' in refused.body and b'value="soon"' in refused.body
    both = visitor.submit(shown.form("/reschedule"), delay="2h", run_at="2030-01-01T00:00:00Z")
    assert "give either delay or run_at" in both.text
    moved = visitor.submit(shown.form("/reschedule"), run_at="2030-01-01T00:00:00Z")
    assert "The task is rescheduled." in moved.html
    assert running.get(f"/v2/tasks/{task}")["scheduled_at"] == "2030-01-01T00:00:00.000Z"
    assert "The task is cancelled." in visitor.submit(shown.form("/cancel"), reason="not needed").html
    running.wait_state(task, "cancelled")
    late = visitor.submit(shown.form("/cancel"))
    assert (late.status, "only an unfinished task can be cancelled" in late.text) == (409, True)
    again = visitor.open(page(task))
    assert "not needed" in again.text
    visitor.submit(again.form("/retry"))
    running.wait_shown(task, "succeeded")
    gone = visitor.submit(visitor.open(page(task)).form("/delete"))
    assert (gone.status, gone.path.partition("?")[0]) == (200, "/dashboard/tasks")
    assert visitor.open(page(task)).status == 404


def test_edited_task_is_submitted_again_with_the_secrets_of_the_first(running: Installation) -> None:
    payload = {"url": "http://93.184.215.14:1/", "headers": {"Authorization": "Bearer geheim123", "X-A": "1"}}
    task = accepted(running, "webhook", payload, delay="1h", metadata={"order": 7})
    shown = browse(running).open(page(task))
    assert b"geheim123" not in shown.body
    path = f"/types/webhook/new?from={task}"
    assert f'href="/dashboard{path}"' in html.unescape(shown.html)
    browser = browse(running)
    prefilled = browser.get(path)
    assert "geheim123" not in prefilled.html
    new = running.row(browser.submit(prefilled.form("/new")).path.rpartition("/")[2])
    assert parsed(new.payload)["headers"] == payload["headers"]
    assert parsed(new.metadata) == {"order": 7, "resubmitted_from": task}
    for one in (task, new.id):
        running.post(f"/v2/tasks/{one}/cancel")


SECRETS = [{"name": "a", "token": "x"}, {"name": "b", "token": "y"}, {"name": "c", "token": "z"}]


@pytest.mark.parametrize(
    ("edited", "expected"),
    [
        ([("b", "***"), ("a", "***"), ("c", "***")], [("b", "y"), ("a", "x"), ("c", "z")]),
        ([("b", "***"), ("c", "***")], [("b", "y"), ("c", "z")]),
        ([("a", "***"), ("B", "***"), ("c", "new")], [("a", "x"), ("B", "y"), ("c", "new")]),
        ([("B", "***"), ("c", "***")], None),
    ],
)
def test_masked_values_of_a_list_are_never_given_to_others(
    edited: list[tuple[str, str]], expected: list[tuple[str, str]] | None
) -> None:
    given, original = ({"list": [{"name": n, "token": t} for n, t in edited]}, {"list": SECRETS})
    if expected is None:
        with pytest.raises(InvalidInput, match=r"payload\.list: say what stands in place of \*\*\* in item 0"):
            unmasked(given, original, "payload")
    else:
        assert unmasked(given, original, "payload") == {"list": [{"name": n, "token": t} for n, t in expected]}


def test_masked_part_of_a_text_stays_unless_the_text_is_changed() -> None:
    original = {"url": "https://u:secret@example.org/", "n": 1}
    assert unmasked({"url": "https://u:***@example.org/", "n": 2}, original, "payload") == original | {"n": 2}
    assert unmasked({"url": "https://example.com/"}, original, "payload") == {"url": "https://example.com/"}


def test_commands_are_quoted_for_a_shell_and_hold_no_secret(running: Installation) -> None:
    name = "it's $(touch /tmp/x) `id` \N{RIGHT-TO-LEFT OVERRIDE}"
    task = running.post_task("plain", name, metadata={"password": "geheim"})
    shown = html.unescape(browse(running).open(page(task)).html)
    (command,) = re.findall(r'<pre tabindex="0" id="command-2">(.*?)</pre>', shown, re.DOTALL)
    assert command.isascii()
    assert "geheim" not in command
    assert "'\"'\"'" in command  # the quote is outside of the quoted text
    assert command.count("http://127.0.0.1") == 1


@pytest.mark.parametrize("deep", [False, True])
def test_hostile_payload_breaks_no_page(running: Installation, deep: bool) -> None:
    nested: Any = "<script>alert(1)</script>"
    for _ in range(800 if deep else 40):
        nested = [nested]
    payload = {"journal": str(running.journal), "name": "\N{RIGHT-TO-LEFT OVERRIDE}</pre><script>", "more": nested}
    task = running.post_task("plain", "x" * 200_000, delay="1h")
    running.rows("UPDATE sytq_tasks SET payload = '" + json.dumps(payload) + f"' WHERE id = '{task}'")
    reply = browse(running).open(page(task))
    assert reply.status == 200
    assert b"<script>" not in reply.body.replace(b"<script defer", b"")
    assert len(reply.body) < 150_000
    assert browse(running).request("GET", page(task, "/raw")).status in (200, 422)
    running.post(f"/v2/tasks/{task}/cancel")


def test_large_payload_is_shown_by_its_beginning(running: Installation) -> None:
    task = running.post_task("plain", "x" * 200_000, delay="1h")
    reply = browse(running).open(page(task))
    assert (reply.status, len(reply.body) < 150_000, "The value is longer." in reply.text) == (200, True, True)
    running.post(f"/v2/tasks/{task}/cancel")


def test_wait_for_a_limiter_leads_to_its_page(running: Installation) -> None:
    limiters = running.runtime.limiters
    limiters.pause("provider:crowd", "a test", "no credit")
    try:
        task = accepted(running, "called", {"port": 1})
        running.wait_state(task, "retrying")
        reply = browse(running).open(page(task))
    finally:
        limiters.resume("provider:crowd")
        running.post(f"/v2/tasks/{task}/cancel")
    assert b'href="/dashboard/limiters/one?name=provider%3Acrowd"' in reply.body
    assert "or as soon as the limiter has room" in reply.text


def test_children_and_dependents_are_shown_around_a_task(running: Installation) -> None:
    then = [{"type": "plain", "payload": running._payload("second", 0)}]
    first = running.post_task("plain", "first", delay="1h", then=then)
    said = browse(running).open(page(first)).text
    assert "1 task depends on it" in said
    assert "waits for 1 of 1 tasks" in said
    (child,) = running.get(f"/v2/tasks/{first}/tree")["dependents"]
    other = browse(running).open(page(child["id"])).text
    assert "It depends on 1 task, 0 ended" in other
    assert "waiting for other tasks" in other
    running.post(f"/v2/tasks/{first}/cancel")


def test_tasks_of_other_owners_do_not_exist(guarded: Installation) -> None:
    admin, viewer, other = log_in(guarded), log_in(guarded, "read"), log_in(guarded, "read", owner="other")
    operator = log_in(guarded, "read", "operate", "submit")
    headers = browse_as(guarded, "shop", "submit").headers
    reply = guarded.request("POST", "/v2/tasks", {"type": "default", "payload": {}, "delay": "1h"}, headers)
    task = reply.json["id"]
    for path in (page(task), page(task, "/raw"), page(task, "/events")):
        assert other.request("GET", path).status == 404
    assert admin.open(page(task)).status == 200
    shown = viewer.open(page(task))
    assert shown.status == 200
    for action in (b"/cancel", b"/reschedule", b"/new?from"):
        assert action not in shown.body
    form = operator.open(page(task)).form("/cancel")
    viewer.post(f"/tasks/{task}/cancel", 403)
    assert guarded.row(task).state == "scheduled"
    assert "The task is cancelled." in operator.submit(form).html

"""Bulk operations: counted, confirmed, followed, stopped; who may, and whose tasks are changed."""

from __future__ import annotations

import datetime as dt
import signal
from collections.abc import Callable

import pytest

from sytq.ledger.database import transact
from sytq.ledger.models import Task
from sytq.ledger.query import parse
from sytq.ledger.search import Search
from sytq.ledger.values import utcnow
from tests.api.dashboard.browser import Browser, Page, browse, browse_as
from tests.api.dashboard.rows import inserted
from tests.installation import BUILT_IN, Installation
from tests.servers import poll

Make = Callable[..., Installation]


@pytest.fixture
def service(make_installation: Make, database_url: str, redis_url: str) -> Installation:
    made = make_installation(database_url, redis_url, **BUILT_IN)
    made.start_api()
    return made


def begun(browser: Browser, counted: Page, **fields: str) -> Page:
    """Send the form of a counted operation."""
    [form] = [form for form in counted.forms if "as_of" in form.fields]
    return browser.submit(form, **fields)


def below(page: Page) -> str:
    """Its path below /dashboard."""
    return page.path.partition("?")[0].removeprefix("/dashboard")


def test_p3_retry_of_10000_tasks_resumes_after_its_worker_is_killed(service: Installation) -> None:
    inserted(service, 10_000, type="default")
    inserted(service, 7, type="default", state="succeeded")
    browser = browse(service)
    counted = browser.open(browser.get("/tasks", q="type:default").link("Retry…"))
    assert "10,000 tasks will be retried" in counted.text and "7 succeeded" in counted.text
    refused = begun(browser, counted, confirm="1000", reason="the provider is back")
    assert refused.status == 400 and "type 10000 to confirm this" in refused.text
    assert browser.get("/operations").text.count("retry") == 0
    shown = begun(browser, refused, confirm="10,000", reason="the provider is back")
    assert "The operation has begun." in shown.html and "waits for a worker" in shown.text
    worker = service.start_worker()
    poll(lambda: "looked at" in browser.open(shown.path).text, interval=0.02, message="it has begun")
    worker.signal(signal.SIGKILL)
    service.start_worker()
    poll(lambda: "10,000 of 10,000 changed" in browser.open(shown.path).text, timeout=60, message="it is done")
    search = Search(service.runtime.database)
    poll(lambda: not search.page(parse("type:default -state:succeeded"), limit=1).tasks, timeout=60, message="all ran")
    ((who, about, detail),) = service.rows("SELECT who, about, detail FROM sytq_audit")
    assert (who, about) == ("local", "/dashboard/operations/new")
    assert detail.startswith("retry as ") and detail.endswith(", 10000 tasks: type:default")
    assert "10,000 of 10,000" in browser.get("/operations").text


def test_stopped_operation_keeps_what_it_changed(service: Installation) -> None:
    inserted(service, 3000, type="default", state="scheduled", scheduled_at=dt.datetime(2100, 1, 1), finished_at=None)
    browser = browse(service)
    counted = browser.get("/operations/new", action="cancel", q="type:default")
    shown = begun(browser, counted, confirm="3000")
    service.start_worker()
    poll(lambda: "looked at" in browser.open(shown.path).text, interval=0.01, message="it has begun")
    stopped = browser.submit(shown.form("/stop"))
    assert "The operation runs, and is interrupted." in stopped.html or "can be cancelled" in stopped.text
    operation = shown.path.rpartition("/")[2]
    service.wait_state(operation, "cancelled", "succeeded")
    poll(lambda: "Stop" not in browser.open(shown.path).text, message="the page says that it has ended")
    browser.post(f"{below(shown)}/stop", 409)


def test_selected_rows_are_changed_and_no_other(api: Installation) -> None:
    chosen, other = inserted(api, 2, type="chosen"), inserted(api, 1, type="chosen")
    browser = browse(api)
    counted = browser.get(f"/operations/new?action=delete&id={chosen[0]}&id={chosen[1]}")
    assert "2 tasks will be deleted" in counted.text
    shown = begun(browser, counted)
    assert f"id:{','.join(chosen)}" in shown.text and other[0] not in shown.text


def test_changes_since_the_count_are_not_changed_and_more_is_asked_again(api: Installation) -> None:
    inserted(api, 3, type="growing", finished_at=utcnow() - dt.timedelta(minutes=1))
    browser = browse(api)
    counted = browser.get("/operations/new", action="retry", q="type:growing")
    inserted(api, 2, type="growing", finished_at=utcnow() + dt.timedelta(minutes=1))
    assert "The operation has begun." in begun(browser, counted).html
    inserted(api, 1, type="growing", finished_at=utcnow() - dt.timedelta(minutes=1))
    again = begun(browser, counted)
    assert again.status == 400 and "4 tasks match by now, not 3" in again.text
    transact(api.runtime.database, Task.delete().where(Task.type == "growing").execute)
    assert "no task matches any more" in begun(browser, counted).text


@pytest.mark.parametrize(
    ("query", "fields", "says"),
    [
        ({"action": "retry", "q": "state:queued"}, {}, "it lets no task through that retry could change"),
        ({"action": "retry", "q": "colour:red"}, {}, "at character 1: 'colour' is not a field"),
        ({"action": "burn", "q": "type:x"}, {}, "is not valid; valid: cancel, retry, reschedule, delete"),
        ({"action": "retry", "q": "type:x"}, {"as_of": "2020-01-01T00:00:00"}, "this count is too old"),
        ({"action": "retry", "q": "type:x"}, {"as_of": "2999-01-01T00:00:00"}, "this count is too old"),
        ({"action": "retry", "q": "type:x"}, {"as_of": "<b>"}, "nothing was counted yet"),
        ({"action": "reschedule", "q": "type:x"}, {"when": "soon"}, "duration"),
        ({"action": "reschedule", "q": "type:x"}, {"when": "2026-01-01T00:00:00"}, "must be a time with its offset"),
        ({"action": "cancel", "q": "type:x state:*"}, {"exact": "no"}, "no task matches any more"),
        ({"action": "retry", "q": "type:x"}, {"reason": "x" * 201}, "at most 200 characters"),
    ],
)
def test_invalid_operations_are_refused_and_begin_nothing(
    api: Installation, query: dict[str, str], fields: dict[str, str], says: str
) -> None:
    browser = browse(api)
    before = browser.get("/operations").text
    shown = browser.get("/operations/new", **query)
    if fields:
        now = utcnow().isoformat()
        sent = {"as_of": now, "counted": "1", "exact": "yes"} | query | fields
        shown = browser.post("/operations/new", 400, **sent)
    assert says in shown.text and "<b>" not in shown.html
    assert browser.get("/operations").text == before


def test_viewers_and_other_owners_have_no_operation(guarded: Installation) -> None:
    inserted(guarded, 2, type="owned", owner="us")
    inserted(guarded, 3, type="owned", owner="them")
    viewer = browse_as(guarded, "us", "read")
    viewer.get("/operations/new", 403, action="retry", q="type:owned")
    sent = {"action": "retry", "q": "type:owned", "as_of": utcnow().isoformat(), "counted": "2"}
    viewer.post("/operations/new", 403, **sent)
    operator = browse_as(guarded, "us", "read", "operate")
    counted = operator.get("/operations/new", action="retry", q="type:owned")
    assert "2 tasks will be retried" in counted.text
    shown = begun(operator, counted)
    assert "The operation has begun." in shown.html
    other = browse_as(guarded, "them", "read", "operate")
    other.get(below(shown), 404)
    other.post(f"{below(shown)}/stop", 404)
    assert "retry" not in other.get("/operations").text
    assert "Stop" not in viewer.get(below(shown)).text
    viewer.post(f"{below(shown)}/stop", 403)
    admin = browse_as(guarded, "root", "admin")
    assert "retry" in admin.get("/operations").text


def test_a_task_that_is_no_operation_has_no_such_page(api: Installation) -> None:
    (task,) = inserted(api, 1)
    browse(api).get(f"/operations/{task}", 404)

"""Types: their list, pause and resume, and the form that submits a task."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sytq.ledger.api_keys import ApiKeys, Grant
from sytq.ledger.ledger import Ledger
from tests.api.dashboard.browser import Browser, Form
from tests.installation import BUILT_IN, Installation
from tests.servers import MySQLServer, RedisServer

PLUGIN = """
from pydantic import BaseModel, Field
from sytq import task

class Item(BaseModel):
    sku: str = Field(min_length=1)
    price: float = Field(gt=0)

class Order(BaseModel):
    number: int
    items: list[Item] = []
    note: str | None = None

@task("order", payload=Order, queue="orders")
async def order(ctx, payload): ...

@task("count", payload=Order, queue="orders")
async def count(ctx, payload): ...

@task("inner", payload=Order, internal=True)
async def inner(ctx, payload): ...

@task("sweep", payload=Order, admin_only=True)
async def sweep(ctx, payload): ...
"""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> Iterator[Installation]:
    """The API with keys, without a worker."""
    folder: Path = tmp_path_factory.mktemp("types")
    plugins = folder / "plugins"
    plugins.mkdir()
    (plugins / "orders.py").write_text(PLUGIN)
    (plugins / "broken.py").write_text("import nothing_here\n")
    settings = {"SYTQ_AUTH__ENABLED": "true", "SYTQ_REDIS__PREFIX": uuid.uuid4().hex}
    settings |= BUILT_IN | {"SYTQ_PLUGINS__PATHS": json.dumps([str(plugins)])}  # type: ignore[operator]
    made = Installation(folder, f"sqlite:///{folder / 'types.db'}", redis_server.url, **settings)
    try:
        made.start_api()
        yield made
    finally:
        made.close()


def browser(api: Installation, owner: str, *scopes: str, types: tuple[str, ...] = ()) -> Browser:
    Ledger(api.runtime.database)  # binds the models
    _, text = ApiKeys(api.runtime.database).create(owner, owner, Grant(scopes, types=types), by="test")
    return Browser(api, {"authorization": f"Bearer {text}"})


@pytest.fixture
def admin(guarded: Installation) -> Browser:
    return browser(guarded, "root", "admin")


def audit(api: Installation) -> tuple[str, str, str | None]:
    [(who, about, detail)] = api.rows("SELECT who, about, detail FROM sytq_audit ORDER BY id DESC LIMIT 1")
    return who, about, detail


def test_list_has_every_type_and_what_was_set_aside(admin: Browser) -> None:
    page = admin.get("/types")
    assert 'href="/dashboard/types/order"' in page
    assert "nothing_here" in page
    assert "Submit a task" in admin.get("/types/order")
    assert "Submit a task" not in admin.get("/types/inner")
    admin.get("/types/nonsense", status=404)
    admin.get("/types/inner/new", status=404)


def test_pause_needs_a_reason_and_is_seen_audited_and_ended(guarded: Installation, admin: Browser) -> None:
    assert "say why" in admin.post("/types/order/pause", {"why": " "}, status=400).body.decode()
    page = admin.follow(admin.post("/types/order/pause", {"why": "the shop <moves>"}))
    assert "order is paused" in page
    assert "the shop &lt;moves&gt;" in page
    assert audit(guarded)[1:] == ("/dashboard/types/order/pause", "the shop <moves>")
    assert guarded.runtime.inspection.paused() == ["order"]
    assert "the shop &lt;moves&gt;" in admin.get("/types")
    assert "order is resumed" in admin.follow(admin.post("/types/order/resume", {}))
    assert "order was not paused" in admin.follow(admin.post("/types/order/resume", {}))
    assert guarded.runtime.inspection.paused() == []


def test_pausing_everybodys_tasks_needs_an_admin(guarded: Installation) -> None:
    operator = browser(guarded, "ann", "read", "operate", "submit")
    assert "/types/order/pause" not in operator.get("/types/order")
    operator.post("/types/order/pause", {"why": "mine"}, status=403)
    assert guarded.runtime.operator.pauses() == []


def test_counts_of_all_owners_are_for_admins(guarded: Installation, admin: Browser) -> None:
    assert "<b>0</b>" in admin.get("/types/count")
    assert "<b>0</b>" not in browser(guarded, "ann", "read").get("/types/count")


def test_form_without_scripts_submits_what_was_typed(guarded: Installation, admin: Browser) -> None:
    form = Form(admin.get("/types/order/new")).data
    for _ in range(2):
        reply = admin.post("/types/order/new", form | {"change": "add-row payload.items"}, status=200)
        form = Form(reply.body.decode()).data
    form |= {
        "payload.number": "x",
        "payload.items.0.sku": "a",
        "payload.items.1.sku": "b",
        "payload.items.1.price": "-1",
    }
    reply = admin.post("/types/order/new", form, status=400)
    wrong = re.findall(r'id="([^"]+)~about">\s*<strong class="error">', reply.body.decode())
    assert wrong == ["payload.number", "payload.items.0.price", "payload.items.1.price"]
    form = Form(reply.body.decode()).data
    form |= {"payload.number": "7", "payload.items.0.price": "1.5", "payload.items.1.price": "2"}
    form |= {"task.priority": '"high"', "task.delay": "1h", "task.unique_key": "k1", "task.metadata": '{"a": 1}'}
    reply = admin.post("/types/order/new", form)
    task_id = reply.headers["location"].rpartition("/")[2]
    row = guarded.row(task_id)
    assert json.loads(row.payload) == {"number": 7, "items": [{"sku": "a", "price": 1.5}, {"sku": "b", "price": 2.0}]}
    assert (row.type, row.priority, row.state, row.owner) == ("order", "high", "scheduled", "root")
    assert json.loads(row.metadata) == {"a": 1}
    # The same form again is the same task; another one with its unique key is answered with it.
    assert admin.post("/types/order/new", form).headers["location"] == f"/dashboard/tasks/{task_id}"
    changed = Form(admin.post("/types/order/new", form | {"payload.number": "8"}, status=422).body.decode()).data
    other = admin.post("/types/order/new", changed)
    assert other.headers["location"] == f"/dashboard/tasks/{task_id}"
    assert guarded.rows("SELECT COUNT(*) FROM sytq_tasks WHERE type = 'order'") == [(1,)]


def test_wrong_options_are_named_at_their_fields(admin: Browser) -> None:
    form = Form(admin.get("/types/order/new")).data
    form = Form(admin.post("/types/order/new", form | {"change": "add task.callback"}, status=200).body.decode()).data
    form |= {"payload.number": "1", "task.callback.url": "http://127.0.0.1/"}
    page = admin.post("/types/order/new", form, status=400).body.decode()
    assert re.search(r'id="task.callback.url~about">\s*<strong class="error">', page)
    page = admin.post("/types/order/new", form | {"task.delay": "1h", "task.run_at": "x"}, status=400).body.decode()
    assert re.search(r'id="task.run_at~about">\s*<strong class="error">', page)
    page = admin.post("/types/order/new", form | {"task.metadata": "{"}, status=400).body.decode()
    assert re.search(r'id="task.metadata~about">\s*<strong class="error">', page)


def test_payload_is_edited_as_json_and_back(guarded: Installation, admin: Browser) -> None:
    form = Form(admin.get("/types/order/new")).data | {"payload.number": "3", "change": "as-json"}
    form = Form(admin.post("/types/order/new", form, status=200).body.decode()).data
    assert json.loads(form["payload"]) == {"number": 3}
    form |= {"payload": '{"number": 4, "items": [{"sku": "z", "price": 9}]}', "change": "as-fields"}
    form = Form(admin.post("/types/order/new", form, status=200).body.decode()).data
    assert (form["payload.number"], form["payload.items.0.sku"]) == ("4", "z")
    form = Form(admin.get("/types/default/new")).data | {"payload": '{"any": ["thing", 1.50]}'}
    reply = admin.post("/types/default/new", form)
    assert guarded.row(reply.headers["location"].rpartition("/")[2]).payload == '{"any":["thing",1.5]}'


def test_form_of_an_earlier_task_has_its_payload(guarded: Installation, admin: Browser) -> None:
    ann = browser(guarded, "ann", "read", "submit")
    form = Form(ann.get("/types/count/new")).data | {"payload.number": "5", "payload.note": "a\r\nb"}
    task_id = ann.post("/types/count/new", form).headers["location"].rpartition("/")[2]
    assert json.loads(guarded.row(task_id).payload) == {"number": 5, "note": "a\nb"}
    again = Form(ann.get(f"/types/count/new?from={task_id}")).data
    assert (again["payload.number"], again["payload.note"]) == ("5", "a\r\nb")
    assert Form(admin.get(f"/types/count/new?from={task_id}")).data["payload.number"] == "5"
    browser(guarded, "bob", "read", "submit").get(f"/types/count/new?from={task_id}", status=404)
    admin.get(f"/types/order/new?from={task_id}", status=404)


def test_secrets_of_an_earlier_task_stay_hidden_and_as_they_were(guarded: Installation, admin: Browser) -> None:
    ann = browser(guarded, "ann", "read", "submit")
    body = {"type": "default", "payload": {"api_key": "sk-abcdefgh1234", "n": 1}, "metadata": {"password": "hunter2"}}
    task_id = guarded.request("POST", "/v2/tasks", body, ann.headers).json["id"]
    page = ann.get(f"/types/default/new?from={task_id}")
    assert "sk-abcdefgh1234" not in page
    assert "hunter2" not in page
    form = Form(page).data
    form["payload"] = form["payload"].replace('"n": 1', '"n": 2')
    row = guarded.row(ann.post("/types/default/new", form).headers["location"].rpartition("/")[2])
    assert json.loads(row.payload) == {"api_key": "sk-abcdefgh1234", "n": 2}
    assert json.loads(row.metadata) == {"password": "hunter2", "resubmitted_from": task_id}
    bob = browser(guarded, "bob", "read", "submit")
    bob.post("/types/default/new", {"like": task_id, "payload": "{}"}, status=404)


def test_form_is_there_for_who_may_submit_the_type(guarded: Installation) -> None:
    browser(guarded, "eve", "read").get("/types/order/new", status=403)
    some = browser(guarded, "sam", "submit", "read", types=("count",))
    some.get("/types/count/new")
    some.get("/types/order/new", status=403)
    assert "Submit a task" not in some.get("/types/order")
    form = Form(some.get("/types/count/new")).data | {"payload.number": "1"}
    some.post("/types/order/new", form, status=403)
    browser(guarded, "ann", "read", "submit").get("/types/sweep/new", status=403)
    only = browser(guarded, "only", "submit")
    form = Form(only.get("/types/count/new")).data | {"payload.number": "1"}
    assert only.post("/types/count/new", form).headers["location"] == "/dashboard/types/count/new"


def test_payload_of_another_program_that_is_nested_too_deep_has_no_form(guarded: Installation, admin: Browser) -> None:
    ann = browser(guarded, "ann", "read", "submit")
    task_id = guarded.request("POST", "/v2/tasks", {"type": "default", "payload": {}}, ann.headers).json["id"]
    # Beyond what Python parses it is a text; how much that is differs between its versions.
    for depth, statuses in ((300, {200}), (900, {200, 409}), (100_000, {200})):
        deep = '{"a":' + "[" * depth + "]" * depth + "}"
        guarded.runtime.database.execute_sql("UPDATE sytq_tasks SET payload = ? WHERE id = ?", (deep, task_id))
        reply = guarded.request("GET", f"/dashboard/types/default/new?from={task_id}", headers=admin.headers)
        assert reply.status in statuses, reply.body.decode()[-2000:]


def test_large_payload_is_in_its_form_as_it_is(guarded: Installation, admin: Browser) -> None:
    large = "<script>" + "\u202eabc\u00e4" * 30_000
    body = {"type": "count", "payload": {"number": 1, "note": large}}
    ann = browser(guarded, "ann", "read", "submit")
    task_id = guarded.request("POST", "/v2/tasks", body, ann.headers).json["id"]
    page = admin.get(f"/types/count/new?from={task_id}")
    assert Form(page).data["payload.note"] == large
    assert "<script>" + "\u202e" not in page


@pytest.mark.faults
def test_pages_say_what_is_missing_while_the_database_is_away(
    make_installation: Callable[..., Installation], own_mysql: MySQLServer
) -> None:
    installation = make_installation(own_mysql.create_database("types"))
    installation.start_api()
    visitor = Browser(installation)
    form = Form(visitor.get("/types/plain/new")).data
    own_mysql.stop()
    for path in ("/types", "/types/plain", "/queues/plain", "/schedules"):
        assert "The database does not answer" in visitor.get(path), path
    assert "does not answer" not in visitor.get("/queues")
    form |= {"payload.journal": "x"}
    page = visitor.post("/types/plain/new", form | {"payload.name": "kept"}, status=503).body.decode()
    assert "the database does not answer" in page
    assert Form(page).data["payload.name"] == "kept"
    own_mysql.start()
    assert visitor.post("/types/plain/new", form).headers["location"].startswith("/dashboard/tasks/")

"""Uses the generated client of Python with what is required alone; type-checked and run by test_clients."""

import sys

from client import Client
from client.api.service import list_queues, list_types, list_workers
from client.api.tasks import list_tasks, show, submit
from client.models import (
    Accepted,
    Anything,
    Callback,
    Cleanup,
    NewTaskCleanup,
    NewTaskDefault,
    NewTaskEmail,
    NewTaskLlm,
    NewTaskReport,
    NewTaskWebhook,
    TaskDetail,
    TaskPage,
    Webhook,
)
from client.models.email import Email
from client.models.report import Report
from client.models.valuation import Valuation

PAYLOAD = Anything()
PAYLOAD["order"] = 7
TASKS = (
    NewTaskDefault(type_="default", payload=PAYLOAD, callback=Callback(url="https://example.com/ended")),
    NewTaskWebhook(type_="webhook", payload=Webhook(url="https://example.com/hook")),
    NewTaskLlm(type_="llm", payload=Valuation(table_name="valuation_records", id=1)),
    NewTaskEmail(type_="email", payload=Email(to=["a@example.com"], subject="s", text="t")),
    NewTaskReport(type_="report", payload=Report()),
    NewTaskCleanup(type_="cleanup", payload=Cleanup()),
)

client = Client(base_url=sys.argv[1])
for task in TASKS:
    accepted = submit.sync(client=client, body=task)
    assert isinstance(accepted, Accepted), accepted
    shown = show.sync(accepted.id, client=client)
    assert isinstance(shown, TaskDetail), shown
    assert (shown.id, shown.type_, shown.error, shown.result) == (accepted.id, task.type_, None, None)
page = list_tasks.sync(client=client, q="type:default", limit=5)
assert isinstance(page, TaskPage) and page.tasks[0].type_ == "default"
for answer in (list_types.sync(client=client), list_queues.sync(client=client), list_workers.sync(client=client)):
    assert answer is not None

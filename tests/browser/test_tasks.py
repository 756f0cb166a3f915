"""Tasks: found by a query, and changed all at once; payloads that nobody's page may suffer from."""

from __future__ import annotations

import json
import re

from playwright.sync_api import expect

from sytq.dev.seed.words import HOSTILE
from tests.browser.visitor import WIDTHS, Visitor, server_ms
from tests.browser.world import World, until

_TRIES = 20  # the page is as fast as its fastest answer: the tests' processes share the machine


def test_query_finds_a_task_by_its_metadata_within_100_ms(each_world: World, visitor: Visitor) -> None:
    world, page = each_world, visitor.page
    task_id = world.one("type = 'webhook' AND state = 'succeeded' AND INSTR(metadata, 'order_id') > 0")
    order = json.loads(world.open.row(task_id).metadata or "{}")["order_id"]
    indexed = "SELECT COUNT(*) FROM sytq_search WHERE name = 'metadata.order_id'"
    known = "SELECT COUNT(*) FROM sytq_tasks WHERE INSTR(metadata, '\"order_id\"') > 0"
    until(lambda: world.open.rows(indexed) >= world.open.rows(known), "the index has the tasks made up", timeout=300)
    visitor.go(world.url("/tasks"))
    page.get_by_role("combobox", name="Query").fill(f"metadata.order_id:{order}")
    page.get_by_role("combobox", name="Query").press("Enter")
    page.wait_for_url("**/tasks?q=*")
    expect(page.locator(f"#task-{task_id}")).to_contain_text("webhook")
    assert any(server_ms(visitor.go(page.url)) < 100.0 for _ in range(_TRIES))
    page.locator(f"#task-{task_id} a.id").click()
    page.wait_for_url(f"**/tasks/{task_id}")
    expect(page.locator("main")).to_contain_text(str(order))


def test_all_failures_of_a_cause_are_retried_in_one_step_and_end(each_world: World, visitor: Visitor) -> None:
    world, page, query = each_world, visitor.page, "state:dead fingerprint:worker-died"
    [(dead,)] = world.open.rows(
        "SELECT COUNT(*) FROM sytq_tasks WHERE state = 'dead' AND error_fingerprint = 'worker-died'"
    )
    assert dead
    visitor.go(world.url("/failures?period=all"))
    page.get_by_role("row", name=re.compile("worker died")).get_by_role("link", name=re.compile("^Retry all")).click()
    expect(page.get_by_role("status").first).to_contain_text(f"{dead} task")
    page.get_by_label("Reason").fill("more memory")
    page.get_by_role("button", name=re.compile("^Retry")).click()
    page.wait_for_url(re.compile(r"/operations/[0-9a-f-]{36}$"))
    expect(page.locator("main")).to_contain_text(f"{dead} of {dead} changed", timeout=20_000)
    visitor.go(world.url(f"/tasks?q={query.replace(' ', '+')}"))
    expect(page.locator("main")).to_contain_text("No task matches.")
    until(
        lambda: world.open.rows("SELECT COUNT(*) FROM sytq_tasks WHERE state IN ('queued', 'running')") == [(0,)],
        "the retried tasks end",
    )


def test_hostile_payloads_and_errors_break_no_page(world: World, visitor: Visitor) -> None:
    page = visitor.page
    page.on("dialog", lambda dialog: visitor.problems.append(f"a dialog: {dialog.message}"))
    visitor.go(world.url("/tasks?q=metadata.hostile:*"))
    hostile = [str(row[0]) for row in world.open.rows("SELECT id FROM sytq_tasks WHERE metadata LIKE '%\"hostile\"%'")]
    assert len(hostile) > len(HOSTILE)
    expect(page.locator("tbody tr")).to_have_count(len(hostile))
    for task_id in hostile:
        response = visitor.go(world.url(f"/tasks/{task_id}"))
        assert (response.status, server_ms(response) < 1000) == (200, True), task_id
        assert len(response.body()) < 500_000
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            assert visitor.overflow() <= 0, (task_id, width)

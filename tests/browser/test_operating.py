"""An operator's work: pause and resume, follow a task, submit one by its form; with and without JavaScript."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, expect

from tests.browser.visitor import Visitor, visit
from tests.browser.world import World, until
from tests.receiver import Receiver

_TASK = re.compile(r"/tasks/[0-9a-f-]{36}$")


def pause(page: Page, why: str) -> None:
    page.get_by_label("Reason").fill(why)
    page.get_by_role("button", name=re.compile("^Pause")).click()
    expect(page.locator(".state.paused").first).to_be_visible()
    expect(page.locator("main")).to_contain_text(why)


def resume(page: Page) -> None:
    page.get_by_role("button", name=re.compile("^Resume")).click()
    expect(page.get_by_role("button", name=re.compile("^Pause"))).to_be_visible()


def test_paused_type_and_queue_hold_their_tasks_until_they_are_resumed(each_world: World, browser: Browser) -> None:
    world = each_world
    with visit(browser, java_script_enabled=False) as visitor:
        for path in ("/types/default", "/queues/default"):
            visitor.go(world.url(path))
            pause(visitor.page, "a <b>look</b> at it")
            task_id = world.submit("default", {"note": path})
            visitor.go(world.url(f"/tasks/{task_id}"))
            expect(visitor.page.locator(".state.queued").first).to_be_visible()
            visitor.go(world.url(path))
            resume(visitor.page)
            world.wait_state(task_id, "succeeded")


def test_paused_host_is_resumed_and_its_webhook_arrives(world: World, visitor: Visitor, receiver: Receiver) -> None:
    name = f"host:{urlsplit(receiver.url).netloc}"
    visitor.go(world.url(f"/limiters/one?name={name}"))
    pause(visitor.page, "the host moves")
    task_id = world.submit("webhook", {"url": receiver.url})
    waiting = lambda: {one["name"]: one["waiting"] for one in world.open.get("/v2/limiters")["limiters"]}  # noqa: E731
    until(lambda: waiting().get(name), "the webhook waits for its host")
    resume(visitor.page)
    world.wait_state(task_id, "succeeded")


def test_running_valuation_is_followed_live_until_it_ends(world: World, visitor: Visitor) -> None:
    page, task_id = visitor.page, world.run_valuation()
    until(lambda: world.open.get(f"/v2/tasks/{task_id}")["progress"], "it reports")
    page.clock.install()  # no poll but those that the stream causes
    with page.expect_request(lambda request: request.resource_type == "eventsource"):
        visitor.go(world.url(f"/tasks/{task_id}"))
    reported = page.locator("#live .reported")
    expect(reported).to_contain_text("tokens so far")
    before = reported.inner_text()
    expect(reported).not_to_have_text(before)
    world.finish_valuation()
    expect(page.locator("#live .state.succeeded")).to_be_visible(timeout=20_000)


def test_form_says_what_is_wrong_in_place_and_submits(each_world: World, visitor: Visitor, receiver: Receiver) -> None:
    world, page = each_world, visitor.page
    visitor.expected = ("400",)
    visitor.go(world.url("/types/webhook/new"))
    url = page.get_by_label("url", exact=False).first
    url.fill("ftp://nowhere")
    page.locator("button.main", has_text="Submit").click()
    expect(page.get_by_role("alert").first).to_contain_text("url")
    expect(url).to_have_value("ftp://nowhere")  # what was typed stays
    url.fill(receiver.url)
    page.locator("button.main", has_text="Submit").click()
    page.wait_for_url(_TASK)
    world.wait_state(page.url.rpartition("/")[2], "succeeded")

"""The frame of every page: polling, its end while nobody looks, the server away, and the keyboard."""

from __future__ import annotations

from playwright.sync_api import Page, Request, expect

from tests.browser.visitor import Visitor
from tests.browser.world import World, until

_HIDE = """(hidden) => {
    Object.defineProperty(document, 'hidden', {get: () => hidden, configurable: true});
    document.dispatchEvent(new Event('visibilitychange'));
}"""


def polls(page: Page) -> list[Request]:
    """The requests of the page's own polling, from now on."""
    found: list[Request] = []
    page.on("request", lambda request: "hx-request" in request.headers and found.append(request))
    return found


def test_page_polls_with_its_etag_and_not_while_it_is_hidden(world: World, visitor: Visitor) -> None:
    page = visitor.page
    page.clock.install()
    visitor.go(world.url())
    found = polls(page)
    page.evaluate(_HIDE, True)
    page.clock.run_for(30_000)
    assert found == []
    page.evaluate(_HIDE, False)
    until(lambda: page.evaluate("1") and len(found) == 1, "it polls at once when it is seen again")
    response = found[0].response()
    assert response is not None and response.headers["etag"]
    page.clock.run_for(6_000)
    until(lambda: page.evaluate("1") and len(found) == 2, "and goes on")
    assert found[1].headers["if-none-match"] == response.headers["etag"]


def test_banner_says_that_the_data_is_old_until_the_server_is_back(world: World, visitor: Visitor) -> None:
    page = visitor.page
    visitor.expected = ("net::ERR_", "Failed to fetch")
    page.clock.install()
    visitor.go(world.url())
    banner = page.locator("#stale")
    expect(banner).to_be_hidden()
    world.open.gunicorn.kill()
    page.clock.run_for(6_000)
    expect(banner).to_contain_text("The server does not answer.")
    expect(page.locator("h1")).to_be_visible()  # what was there stays
    world.open.start_api()
    page.clock.run_for(6_000)
    expect(banner).to_be_hidden()


def test_keyboard_skips_to_the_content_and_opens_a_page(world: World, visitor: Visitor) -> None:
    page = visitor.page
    visitor.go(world.url())
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.getElementById('content').contains(document.activeElement)")

    visitor.go(world.url())
    focused = "document.activeElement.textContent.trim()"
    for _ in range(40):
        page.keyboard.press("Tab")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", f"{page.evaluate(focused)!r} does not show that it has the focus"
        if page.evaluate(focused) == "Tasks":
            break
    page.keyboard.press("Enter")
    page.wait_for_url("**/dashboard/tasks")

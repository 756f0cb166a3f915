"""Who may do what: a viewer has no button of operators, and a request made by hand changes nothing."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from sytq.api.dashboard.navigation import LOGIN, LOGOUT
from sytq.api.dashboard.routes import PAGES
from sytq.ledger.api_keys import Grant
from tests.browser.pages import paths
from tests.browser.visitor import Visitor
from tests.browser.world import ADMIN, World

OPEN_TO_ALL = {path.removeprefix("/dashboard") for path in (LOGIN, LOGOUT)}


def key(world: World, *scopes: str, owner: str = "shop-api") -> str:
    return world.keys().create("browser", owner, Grant(scopes=scopes), "the tests")[1]


def log_in(page: Page, world: World, user: str, secret: str) -> None:
    page.goto(world.closed_url())
    page.get_by_label("User name").fill(user)
    page.get_by_label("Password or API key").fill(secret)
    page.keyboard.press("Enter")
    page.wait_for_url(world.closed_url())


def for_all(path: str) -> bool:
    """Whether a viewer may post to this path: to log in and out, or what is the viewer's own."""
    return path in OPEN_TO_ALL or PAGES[path].scopes.get("POST") == "read"


def test_viewer_sees_no_button_of_operators_and_cannot_post_by_hand(each_world: World, visitor: Visitor) -> None:
    world, page = each_world, visitor.page
    log_in(page, world, "", key(world, "read"))
    expect(page.locator("h1")).to_be_visible()
    own = [re.sub(r"{[^}]*}", "[^/]+", path) for path in PAGES if for_all(path)]
    allowed = re.compile(rf"/dashboard({'|'.join(own)})$")
    for _, address in paths(world):
        response = visitor.page.request.get(world.closed_url(address))
        if response.status in (403, 404):  # an admin's page, a task of another owner
            continue
        assert response.status == 200, address
        actions = re.findall(r'<form[^>]*method="post"[^>]*action="([^"]*)"', response.text())
        assert [action for action in actions if not allowed.search(action)] == [], address

    page.goto(world.closed_url())
    token = page.locator("input[name=csrf]").first.get_attribute("value")
    assert token
    origin = {"Origin": world.closed_url().removesuffix("/dashboard")}
    for path in (path for path in PAGES if not for_all(path)):
        target = world.closed_url(re.sub(r"{[^}]*}", "default", path))
        reply = page.request.post(target, form={"csrf": token}, headers=origin, max_redirects=0)
        assert reply.status == 403, f"{path}: {reply.status}"


def test_admin_logs_in_by_the_form_and_out_again(world: World, visitor: Visitor) -> None:
    page = visitor.page
    log_in(page, world, *ADMIN)
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url("**/dashboard/login")
    page.goto(world.closed_url("/sessions"))
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()

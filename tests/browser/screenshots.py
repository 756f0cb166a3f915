"""Pictures of every page for the docs: `make screenshots` writes them to docs/images/.

python -m tests.browser.screenshots [PAGE ...]
"""

from __future__ import annotations

import base64
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from sytq.api.dashboard.routes import PAGES
from tests.browser.conftest import FLAGS
from tests.browser.pages import paths
from tests.browser.visitor import chromium, visit
from tests.browser.world import World, until
from tests.servers import RedisServer

_ROOT = Path(__file__).parents[2]
IMAGES = _ROOT / "docs" / "images"
_SIZE = {"width": 1280, "height": 960}
_QUALITY = 72
#: Paths of this checkout are shown as those of an installation.
_INSTALLED = """root => document.querySelectorAll("code").forEach(
    code => { code.textContent = code.textContent.replace(root, "/opt/sytq"); })"""


def name_of(pattern: str) -> str:
    """The picture of a page: pages that show the same template share it."""
    page = PAGES.get(pattern)
    stem = Path(page.template).stem if page else pattern.strip("/").rpartition("/")[2]
    return f"dashboard-{stem}.webp"


def pictures(world: World) -> Iterator[tuple[str, str]]:
    """The name of each picture, and the address of what it shows."""
    seen = set()
    for pattern, address in paths(world):
        if (name := name_of(pattern)) not in seen:
            seen.add(name)
            yield name, address


def prepare(world: World) -> None:
    """What only a running service has: work in progress, a queue that waits, paused things."""
    world.pause("email", "the mail server moves until 16:00")
    for number in range(40):
        world.submit(
            "email", {"to": [f"customer{number}@post.example"], "subject": "Your invoice", "text": "Here it is."}
        )
    world.run_valuation()
    # The checks of the system run when somebody looks for the first time.
    until(lambda: b"The checks run now" not in world.open.request("GET", "/dashboard/system").body, "checks have run")


def take(browser: Browser, world: World, wanted: list[str]) -> None:
    IMAGES.mkdir(exist_ok=True)
    for name, address in pictures(world):
        if wanted and not any(word in name for word in wanted):
            continue
        with visit(browser, viewport=_SIZE, color_scheme="light") as visitor:
            visitor.go(world.closed_url(address) if address == "/login" else world.url(address))
            visitor.page.wait_for_timeout(500)  # charts are drawn
            visitor.page.evaluate(_INSTALLED, str(_ROOT))
            session = visitor.page.context.new_cdp_session(visitor.page)
            shot = session.send("Page.captureScreenshot", {"format": "webp", "quality": _QUALITY})
            (IMAGES / name).write_bytes(base64.b64decode(shot["data"]))
            print(f"docs/images/{name} {(IMAGES / name).stat().st_size // 1024} KiB")


def main() -> None:
    server = RedisServer()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        try:
            server.start()
            world = World(Path(folder), server)
            prepare(world)
            browser = playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
            take(browser, world, sys.argv[1:])
            browser.close()
            world.close()
        finally:
            server.remove()


if __name__ == "__main__":
    main()

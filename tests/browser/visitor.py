"""A visitor: a page in Chromium whose requests, console and policy violations are watched from its first moment."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, BrowserContext, Page, Request, Response

WIDTHS = (1280, 360)
HEIGHT = 900
#: Violations of the policy are events of the document; they are kept where no page looks.
_LISTEN = """
window.__refused = [];
document.addEventListener(
    'securitypolicyviolation', (event) => window.__refused.push(event.violatedDirective + ' ' + event.blockedURI));
"""


class Visitor:
    """`problems` are what no page may cause: errors in the console, refusals of the policy, requests to other hosts."""

    def __init__(self, context: BrowserContext) -> None:
        self.problems: list[str] = []
        self.responses: list[Response] = []
        self.expected: tuple[str, ...] = ()  # parts of problems that a test brings about
        context.add_init_script(_LISTEN)
        self.page: Page = context.new_page()
        self.page.on("request", self._asked)
        self.page.on("response", lambda response: self.responses.append(response))
        self.page.on("pageerror", lambda error: self.problems.append(f"exception: {error}"))
        self.page.on("console", lambda said: said.type in ("error", "warning") and self.problems.append(said.text))

    def go(self, url: str) -> Response:
        response = self.page.goto(url)
        assert response is not None
        return response

    def refused(self) -> list[str]:
        return list(self.page.evaluate("window.__refused || []"))

    def check(self) -> None:
        """Raise if anything happened that may not."""
        found = [*self.problems, *self.refused()]
        unexpected = [one for one in found if not any(part in one for part in self.expected)]
        assert not unexpected, unexpected

    def axe(self, **options: Any) -> list[str]:
        """What axe finds, a line for each element."""
        if not self.page.evaluate("'axe' in window"):
            self.page.evaluate(AXE_SCRIPT)
        found = self.page.evaluate("axe.run", {"resultTypes": ["violations"], **options})["violations"]
        return [
            f"{one['id']}: {node['html'][:150]} {node['failureSummary'][:300]}"
            for one in found
            for node in one["nodes"]
        ]

    def overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))

    def _asked(self, request: Request) -> None:
        if urlsplit(request.url).hostname not in ("127.0.0.1", None):
            self.problems.append(f"asked another host: {request.url}")


@contextmanager
def visit(browser: Browser, **options: Any) -> Iterator[Visitor]:
    """A visitor with cookies of its own. What went wrong is raised at the end."""
    options = {"viewport": {"width": WIDTHS[0], "height": HEIGHT}, "reduced_motion": "reduce"} | options
    context = browser.new_context(**options)
    context.set_default_timeout(20_000)
    try:
        visitor = Visitor(context)
        yield visitor
        if options.get("java_script_enabled", True):
            visitor.check()
    finally:
        context.close()


def server_ms(response: Response) -> float:
    """How long the server worked on a page."""
    return float(response.headers["server-timing"].partition("app;dur=")[2].partition(",")[0])


def chromium() -> Path | None:
    """Debian's Chromium, or another one; nothing is downloaded."""
    for name in ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome"):
        if found := shutil.which(name):
            return Path(found)
    return None

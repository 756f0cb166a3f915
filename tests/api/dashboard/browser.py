"""A browser without scripts: what it sends for a form, by the HTML standard."""

from __future__ import annotations

from html.parser import HTMLParser
from urllib.parse import urlencode

from tests.installation import Installation, Reply


class Form(HTMLParser):
    """The form of a page: `data` is what its first submit button sends, `buttons` are (name, value) of all of them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.data: dict[str, str] = {}
        self.buttons: list[tuple[str, str]] = []
        self.tags: list[str] = []
        self._area: str | None = None
        self._select: str | None = None
        self._text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        name = given.get("name", "")
        if tag == "input" and name:
            assert name not in self.data, f"two controls have the name {name}"
            value = given.get("value", "")
            if given.get("type", "text") != "hidden":
                value = value.replace("\r", "").replace("\n", "")
            self.data[name] = value
        elif tag == "textarea":
            assert name not in self.data, f"two controls have the name {name}"
            self._area, self._text = name, ""
        elif tag == "select":
            assert name not in self.data, f"two controls have the name {name}"
            self._select = name
        elif tag == "option" and self._select is not None:
            if "selected" in given or self._select not in self.data:
                self.data[self._select] = given["value"]
        elif tag == "button":
            self.buttons.append((name, given.get("value", "")))

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea" and self._area is not None:
            text = self._text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\n")
            self.data[self._area] = text.replace("\n", "\r\n")
            self._area = None
        elif tag == "select":
            self._select = None

    def handle_data(self, data: str) -> None:
        if self._area is not None:
            self._text += data


class Browser:
    """A browser without scripts at the dashboard of an installation: it keeps cookies and follows a form's answer."""

    def __init__(self, installation: Installation, headers: dict[str, str] | None = None) -> None:
        self._installation = installation
        self.headers = {"accept": "text/html", **(headers or {})}
        self._cookies: dict[str, str] = {}

    def get(self, path: str, status: int = 200) -> str:
        """The page below /dashboard."""
        reply = self._send("GET", path)
        assert reply.status == status, reply.body.decode()[-2000:]
        return reply.body.decode()

    def post(self, path: str, data: dict[str, str], status: int = 303) -> Reply:
        """Send a form with the token of the pages before."""
        if "sytq_csrf" not in self._cookies:
            self._send("GET", "/types/default/new")  # a page with a form, which gives the token
        sent = urlencode({"csrf": self._cookies.get("sytq_csrf", ""), **data})
        reply = self._send("POST", path, sent, {"content-type": "application/x-www-form-urlencoded"})
        assert reply.status == status, reply.body.decode()[-3000:]
        return reply

    def follow(self, reply: Reply) -> str:
        """The page that a form has led to."""
        return self.get(reply.headers["location"].removeprefix("/dashboard"))

    def _send(self, method: str, path: str, body: str | None = None, headers: dict[str, str] | None = None) -> Reply:
        cookies = {"cookie": "; ".join(f"{name}={value}" for name, value in self._cookies.items())}
        sent = self.headers | cookies | (headers or {})
        reply = self._installation.request(method, f"/dashboard{path}", body, sent)
        for each in reply.headers.get("set-cookie", "").split("\n"):
            name, _, value = each.partition(";")[0].partition("=")
            if name:
                self._cookies[name] = value
        return reply

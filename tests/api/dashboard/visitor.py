"""A browser without a screen: keeps cookies as browsers do, follows redirects, fills in forms."""

from __future__ import annotations

import contextlib
import http.client
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.cookies import SimpleCookie
from urllib.parse import urlencode, urljoin, urlsplit

from tests.installation import Reply


@dataclass
class Form:
    action: str
    fields: dict[str, str] = field(default_factory=dict)
    method: str = "post"


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[Form] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "form":
            self.found.append(Form(given.get("action") or "", method=(given.get("method") or "get").lower()))
        elif tag in ("input", "textarea", "select") and self.found and given.get("name"):
            chosen = given.get("type") not in ("checkbox", "radio") or "checked" in given
            if chosen:
                self.found[-1].fields[str(given["name"])] = given.get("value") or ""


class Browser:
    """Asks `origin`, such as http://127.0.0.1:8080, and connects to `address` for it."""

    def __init__(self, origin: str, address: tuple[str, int] | None = None, prefix: str = "", **headers: str) -> None:
        self.origin = origin
        self.prefix = prefix
        parts = urlsplit(origin)
        self._address = address or (str(parts.hostname), parts.port or 80)
        self._headers = {"Host": parts.netloc, "Accept": "text/html"} | headers
        self.cookies: dict[str, tuple[str, str]] = {}  # name -> value, path
        self.path = "/"

    def request(self, method: str, path: str, fields: dict[str, str] | None = None, **headers: str) -> Reply:
        """One request without following redirects."""
        sent = self._headers | {name.replace("_", "-"): value for name, value in headers.items()}
        cookies = [
            f"{n}={v}"
            for n, (v, p) in self.cookies.items()
            if f"{urlsplit(path).path}/".startswith(p.rstrip("/") + "/")
        ]
        if cookies:
            sent.setdefault("Cookie", "; ".join(cookies))
        body = None
        if method == "POST":
            sent.setdefault("Origin", self.origin)
            sent.setdefault("Content-Type", "application/x-www-form-urlencoded")
            body = urlencode(fields or {})
        with contextlib.closing(http.client.HTTPConnection(*self._address, timeout=60)) as connection:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            pairs = answer.getheaders()
            reply = Reply(answer.status, {name.lower(): value for name, value in pairs}, answer.read())
        self.set_cookies = [value for name, value in pairs if name.lower() == "set-cookie"]
        for text in self.set_cookies:
            for name, morsel in SimpleCookie(text).items():
                if not morsel.value:  # as servers remove one
                    self.cookies.pop(name, None)
                else:
                    self.cookies[name] = morsel.value, morsel["path"]
        return reply

    def open(self, path: str, **headers: str) -> Reply:
        """GET, and follow redirects; `self.path` is where they lead."""
        return self._follow(path, self.request("GET", path, **headers))

    def submit(self, form: Form, **fields: str) -> Reply:
        """POST a form of a page, and follow the redirect."""
        return self._follow(form.action, self.request("POST", form.action, form.fields | fields))

    def _follow(self, path: str, reply: Reply) -> Reply:
        for _ in range(5):
            self.path = path
            if reply.status not in (302, 303):
                return reply
            path = urljoin(path, reply.headers["location"])
            assert path.startswith("/"), f"a redirect to another host: {path}"
            reply = self.request("GET", path)
        raise AssertionError(f"redirected for ever, at last to {path}")

    def log_in(self, user: str, secret: str, path: str = "/dashboard") -> Reply:
        """Open a page, and log in by the form that it leads to."""
        form = form_to(self.open(path), "/login")
        return self.submit(form, user=user, secret=secret)


def forms(reply: Reply) -> list[Form]:
    parser = _Forms()
    parser.feed(reply.body.decode())
    return parser.found


def form_to(reply: Reply, end: str) -> Form:
    """The form of a page whose action ends so."""
    found = [form for form in forms(reply) if form.action.endswith(end)]
    assert len(found) == 1, [form.action for form in forms(reply)]
    return found[0]

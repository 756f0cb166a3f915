"""A browser without a screen or scripts: it keeps cookies, follows redirects, reads pages and fills in their forms."""

from __future__ import annotations

import contextlib
import html
import http.client
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.cookies import SimpleCookie
from urllib.parse import urlencode, urljoin, urlsplit

from sytq.ledger.api_keys import ApiKeys, Grant
from sytq.ledger.models import MODELS
from tests.installation import Installation, Reply


@dataclass
class Form:
    """A form; `fields` are what it sends as it stands, without a button's name."""

    action: str
    method: str = "post"
    fields: dict[str, str] = field(default_factory=dict)


class _Forms(HTMLParser):
    """The forms of a page, as the HTML standard reads them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[Form] = []
        self._name: str | None = None  # of the textarea or select that is open
        self._text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.found.append(Form(given.get("action", ""), given.get("method", "get")))
        elif tag == "input" and "name" in given:
            kind = given.get("type", "text")
            value = given.get("value", "")
            if kind not in ("checkbox", "radio"):
                self._add(given["name"], value if kind == "hidden" else value.replace("\r", "").replace("\n", ""))
            elif "checked" in given:
                self.found[-1].fields[given["name"]] = value
        elif tag in ("textarea", "select"):
            self._name, self._text = given["name"], []
        elif tag == "option" and ("selected" in given or self._name not in self.found[-1].fields):
            self.found[-1].fields[str(self._name)] = given.get("value", "")

    def handle_data(self, data: str) -> None:
        self._text.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea":
            text = "".join(self._text).replace("\r\n", "\n").replace("\r", "\n").removeprefix("\n")
            self._add(str(self._name), text.replace("\n", "\r\n"))

    def _add(self, name: str, value: str) -> None:
        fields = self.found[-1].fields
        assert name not in fields, f"two controls have the name {name}"
        fields[name] = value


def forms(text: str) -> list[Form]:
    return _Forms(text).found


@dataclass(frozen=True)
class Page(Reply):
    """An answer of the dashboard; `path` is where redirects led to."""

    path: str

    @property
    def html(self) -> str:
        return self.body.decode()

    @property
    def text(self) -> str:
        """What a person reads, with single spaces."""
        return _read(self.html.partition("<main")[2].partition(">")[2] or self.html)

    @property
    def forms(self) -> list[Form]:
        return forms(self.html)

    def form(self, end: str) -> Form:
        """The form whose path ends so."""
        found = [form for form in self.forms if form.action.partition("?")[0].endswith(end)]
        assert len(found) == 1, [form.action for form in self.forms]
        return found[0]

    def link(self, label: str) -> str:
        """Where the link with this text leads."""
        for href, inner in re.findall(r'<a [^>]*href="([^"]*)"[^>]*>(.*?)</a>', self.html, re.DOTALL):
            if _read(inner) == label:
                return html.unescape(href)
        raise AssertionError(f"there is no link {label!r} in {self.text}")


def _read(markup: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", markup)).split())


class Browser:
    """Asks `origin`, such as http://127.0.0.1:8080, and connects to `address` for it."""

    def __init__(self, origin: str, address: tuple[str, int] | None = None, **headers: str) -> None:
        self.origin = origin
        parts = urlsplit(origin)
        self._address = address or (str(parts.hostname), parts.port or 80)
        self.headers = {"Host": parts.netloc, "Accept": "text/html"} | headers
        self.cookies: dict[str, tuple[str, str]] = {}  # name -> value, path
        self.csrf = ""  # the token of the last form that a page had

    def get(self, path: str = "", status: int = 200, /, **query: str) -> Page:
        """The page of a path below /dashboard."""
        page = self.open(f"/dashboard{path}?{urlencode(query)}" if query else f"/dashboard{path}")
        assert page.status == status, page.text[-2000:]
        return page

    def post(self, path: str, status: int = 200, /, **fields: str) -> Page:
        """The page that a form leads to, which is sent to a path below /dashboard with the token of an earlier page."""
        if not self.csrf:
            self.get("/tasks")
        page = self.submit(Form(f"/dashboard{path}", fields={"csrf": self.csrf}), **fields)
        assert page.status == status, page.text[-2000:]
        return page

    def open(self, path: str) -> Page:
        """What a link leads to, in the end."""
        return self._follow(self.request("GET", path))

    def submit(self, form: Form, **fields: str) -> Page:
        """What a form of a page leads to, with these fields filled in."""
        return self._follow(self.request("POST", form.action, form.fields | fields))

    def request(self, method: str, path: str, fields: dict[str, str] | None = None, **headers: str) -> Page:
        """One request, without following redirects."""
        sent = self.headers | {name.replace("_", "-"): value for name, value in headers.items()}
        within = f"{urlsplit(path).path}/"
        cookies = [f"{n}={v}" for n, (v, p) in self.cookies.items() if within.startswith(p.rstrip("/") + "/")]
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
            page = Page(answer.status, {name.lower(): value for name, value in pairs}, answer.read(), path)
        self.set_cookies = [value for name, value in pairs if name.lower() == "set-cookie"]
        for text in self.set_cookies:
            for name, morsel in SimpleCookie(text).items():
                if not morsel.value:  # as servers remove one
                    self.cookies.pop(name, None)
                else:
                    self.cookies[name] = morsel.value, morsel["path"]
        for token in re.findall(rb'name="csrf" value="([^"]*)"', page.body)[-1:]:
            self.csrf = token.decode()
        return page

    def _follow(self, page: Page) -> Page:
        for _ in range(5):
            if page.status not in (302, 303):
                return page
            path = urljoin(page.path, page.headers["location"])
            assert path.startswith("/"), f"a redirect to another host: {path}"
            page = self.request("GET", path)
        raise AssertionError(f"redirected for ever, at last to {page.path}")

    def log_in(self, user: str, secret: str, path: str = "/dashboard") -> Page:
        """Open a page, and log in by the form that it leads to."""
        return self.submit(self.open(path).form("/login"), user=user, secret=secret)


def browse(api: Installation, **headers: str) -> Browser:
    """A browser of an installation."""
    return Browser(f"http://127.0.0.1:{api.port}", **headers)


def browse_as(api: Installation, owner: str, *scopes: str, **grant: object) -> Browser:
    """A browser that sends a new key of the owner with each request."""
    return browse(api, Authorization=f"Bearer {new_key(api, owner, *scopes, **grant)[1]}")


def log_in(api: Installation, *scopes: str, owner: str = "shop") -> Browser:
    """A browser logged in with a new key; without scopes as the user `admin`."""
    browser = browse(api)
    page = browser.log_in("", new_key(api, owner, *scopes)[1]) if scopes else browser.log_in("admin", "pa55")
    assert page.status == 200, page
    return browser


def new_key(api: Installation, owner: str = "shop", *scopes: str, **grant: object) -> tuple[str, str]:
    """The id and the text of a new key."""
    api.runtime.database.bind(MODELS)  # those of the installation that was made last
    granted = Grant(scopes=scopes or ("submit", "read"), **grant)  # type: ignore[arg-type]
    row, text = ApiKeys(api.runtime.database).create(f"key of {owner}", owner, granted, by="test")
    return row.id, text

"""Pages as a person reads them: their text, links and fields."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from urllib.parse import urlencode

from sytq.ledger.api_keys import ApiKeys, Grant
from sytq.ledger.models import MODELS
from tests.api.dashboard.visitor import Browser, Form
from tests.installation import Installation, Reply


@dataclass(frozen=True)
class Shown:
    """A page as it was shown."""

    status: int
    path: str
    html: str

    @property
    def text(self) -> str:
        """What a person reads, with single spaces."""
        body = self.html.partition("<main")[2] or self.html
        return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())

    def link(self, label: str) -> str:
        """The path below /dashboard of the link with this text."""
        for href, inner in re.findall(r'<a [^>]*href="([^"]*)"[^>]*>(.*?)</a>', self.html, re.DOTALL):
            if html.unescape(" ".join(re.sub(r"<[^>]*>", "", inner).split())) == label:
                return html.unescape(href).removeprefix("/dashboard")
        raise AssertionError(f"there is no link {label!r} in {self.text}")

    def field(self, name: str) -> str:
        """The value of an input."""
        found = re.search(rf'<input[^>]*name="{name}"[^>]*value="([^"]*)"', self.html)
        assert found, f"there is no field {name!r} in {self.html}"
        return html.unescape(found[1])


class Reader(Browser):
    """A browser of one installation; its paths are below /dashboard."""

    def __init__(self, api: Installation, *scopes: str, owner: str = "") -> None:
        """With an `owner` and scopes it has a key of that owner."""
        headers = {}
        if owner:
            api.runtime.database.bind(MODELS)
            _, text = ApiKeys(api.runtime.database).create(owner, owner, Grant(scopes or ("read",)), by="test")
            headers["Authorization"] = f"Bearer {text}"
        super().__init__(f"http://127.0.0.1:{api.port}", **headers)

    def get(self, path: str, **query: str) -> Shown:
        return self._shown(self.open(f"/dashboard{path}?{urlencode(query)}" if query else f"/dashboard{path}"))

    def post(self, path: str, **fields: str) -> Shown:
        """Send a form with the token of the pages before, and follow to where it leads."""
        token = self.cookies.get("sytq_csrf", ("", ""))[0]
        return self._shown(self.submit(Form(f"/dashboard{path}", {"csrf": token}), **fields))

    def _shown(self, reply: Reply) -> Shown:
        return Shown(reply.status, self.path.removeprefix("/dashboard"), reply.body.decode())

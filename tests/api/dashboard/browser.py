"""What a browser without scripts sends for a form, by the HTML standard."""

from __future__ import annotations

from html.parser import HTMLParser


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

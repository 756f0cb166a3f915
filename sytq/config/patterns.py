"""Patterns over host names and URLs in the configuration: `*.example.org`, `https://example.org/hooks/*`.

A pattern is compared with the parts of a parsed URL, never with its text, so that no path or query of a caller can
look like another host.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from yarl import URL

VALID_HOST_PATTERN = "a host name, or *.example.org for all names below one"
VALID_URL_PATTERN = "[scheme://]host[:port][/path]: `*`, `*.example.org`, `https://example.org/hooks/*`"

_FORM = re.compile(r"(?:(https?)://)?(\[[0-9A-Fa-f:.]+\]|[^\s/:\[\]@?#\\%]+)(?::([0-9]{1,5}))?(/[^\s?#]*)?")
_HOST = re.compile(r"\*|(?:\*\.)?[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?|[0-9a-f:.]+")


def normal_host(host: str) -> str:
    """Return the canonical spelling of a host name, IDN included. Raises ValueError for an invalid one."""
    host = host.rstrip(".").lower()
    return host if host.isascii() else (URL.build(scheme="http", host=host).raw_host or host)


@dataclass(frozen=True, slots=True)
class UrlPattern:
    """A part left out matches anything. `*.` before a host means all names below it, at any depth, but not itself; `*`
    in a path any characters; a path that ends with / all below it. The query is ignored."""

    host: str
    scheme: str | None = None
    port: int | None = None
    path: re.Pattern[str] | None = None

    @classmethod
    @functools.lru_cache(1024)
    def parse(cls, text: str) -> UrlPattern:
        """Raises ValueError."""
        found = _FORM.fullmatch(text)
        if found is None:
            raise ValueError("not a pattern")
        wild = "*." if found[2].startswith("*.") else ""
        host = wild + normal_host(found[2].removeprefix(wild).strip("[]"))
        if not _HOST.fullmatch(host) or (found[3] and not 1 <= int(found[3]) <= 65535):
            raise ValueError("not a pattern")
        path = None
        if found[4] is not None:
            below = found[4] + "*" if found[4].endswith("/") else found[4]
            path = re.compile(".*".join(re.escape(URL(part).raw_path if part else "") for part in below.split("*")))
        return cls(host, found[1], int(found[3]) if found[3] else None, path)

    def matches(self, url: URL) -> bool:
        """Whether a URL, parsed by `sytq.http.parse_url`, matches."""
        return (
            self.matches_host(url.raw_host or "")
            and self.scheme in (None, url.scheme)
            and self.port in (None, url.port)
            # Canonical, as a receiver reads it: without dot segments and needless escapes.
            and (self.path is None or self.path.fullmatch(URL(str(url)).raw_path) is not None)
        )

    def matches_host(self, host: str) -> bool:
        """Whether a host name, in any spelling, matches."""
        host = normal_host(host)
        if self.host.startswith("*."):
            return host.endswith(self.host[1:]) and len(host) > len(self.host) - 1
        return self.host in ("*", host)


def check_host_pattern(text: str) -> str:
    """Return the text; ValueError when it is more than a host or all hosts."""
    if text == "*" or UrlPattern.parse(text) != UrlPattern(UrlPattern.parse(text).host):
        raise ValueError("not a host")
    return text


def check_url_pattern(text: str) -> str:
    """Return the text; ValueError when it is not a pattern."""
    UrlPattern.parse(text)
    return text

"""URL patterns match the intended URLs and no look-alikes."""

from __future__ import annotations

import pytest

from sytq.config.patterns import UrlPattern, check_host_pattern
from sytq.http.guard import parse_url


@pytest.mark.parametrize(
    ("pattern", "url", "expected"),
    [
        ("*", "http://example.org/", True),
        ("*", "https://[2606:4700::1]:8443/a?b", True),
        ("example.org", "https://example.org:8443/any", True),
        ("example.org", "https://EXAMPLE.org./any", True),
        ("example.org", "https://a.example.org/", False),
        ("example.org", "https://notexample.org/", False),
        ("*.example.org", "https://a.example.org/", True),
        ("*.example.org", "https://a.b.example.org/", True),
        ("*.example.org", "https://example.org/", False),
        ("*.example.org", "https://.example.org.evil.example/", None),
        ("*.example.org", "https://evil.example/x.example.org/", False),
        ("*.example.org", "https://evil.example/?x.example.org", False),
        ("*.example.org", "https://badexample.org/", False),
        ("https://*.example.org/*", "https://a.example.org/hook", True),
        ("https://*.example.org/*", "http://a.example.org/hook", False),
        ("https://example.org:8443/", "https://example.org:8443/a/b", True),
        ("https://example.org:8443/", "https://example.org/a/b", False),
        ("https://example.org:443/", "https://example.org/a/b", True),
        ("https://example.org/tenant1", "https://example.org/tenant1", True),
        ("https://example.org/tenant1", "https://example.org/tenant1?x=1", True),
        ("https://example.org/tenant1", "https://example.org/tenant1?", True),
        ("https://example.org/tenant1", "https://example.org/tenant10", False),
        ("https://example.org/tenant1/*", "https://example.org/tenant1/a/b", True),
        ("https://example.org/tenant1/*", "https://example.org/tenant1", False),
        ("https://example.org/tenant1/*", "https://example.org/tenant1/../tenant2/a", False),
        ("https://example.org/~a/*", "https://example.org/%7Ea/%2e/b", True),
        ("https://example.org/*/hook", "https://example.org/a/b/hook", True),
        ("https://example.org/a.b", "https://example.org/axb", False),
        ("bücher.example", "https://xn--bcher-kva.example/", True),
        ("https://bücher.example/ä/*", "https://BÜCHER.example/%C3%A4/x", True),
        ("[2606:4700::1]:80", "http://[2606:4700:0::1]/", True),
        ("8.8.8.8", "http://8.8.8.8/", True),
    ],
)
def test_a_pattern_is_compared_with_the_parts_of_a_url(pattern: str, url: str, expected: bool | None) -> None:
    if expected is None:
        with pytest.raises(Exception, match="URL"):
            parse_url(url)
    else:
        assert UrlPattern.parse(pattern).matches(parse_url(url)) is expected


@pytest.mark.parametrize(
    "text",
    ["", " ", "https://", "ftp://example.org", "a b", "example.org?x", "https://u@example.org/", "a.*.example.org",
     "*example.org", "example.org:0", "example.org:99999", "http://example.org/#x", "**", "*.", "%41.example"],
)  # fmt: skip
def test_invalid_url_patterns_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        UrlPattern.parse(text)


@pytest.mark.parametrize("text", ["*", "https://example.org", "example.org:80", "example.org/x"])
def test_host_list_accepts_only_hosts(text: str) -> None:
    with pytest.raises(ValueError):
        check_host_pattern(text)

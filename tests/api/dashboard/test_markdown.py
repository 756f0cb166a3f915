"""Markdown of a hostile author: nothing of it becomes markup, it is rendered in bounded time, and nothing gets lost."""

from __future__ import annotations

import re
import time

import pytest

from sytq.api.dashboard.markdown import MAX_LENGTH, render

TAGS = {"p", "h2", "h3", "h4", "strong", "em", "s", "code", "pre", "a", "ul", "ol", "li", "blockquote", "br", "hr"}
TAGS |= {"table", "thead", "tbody", "tr", "th", "td", "div"}


def html(text: str) -> str:
    found = str(render(text, 2))
    assert set(re.findall(r"<([a-z0-9]+)", found)) <= TAGS
    assert set(re.findall(r"\s([a-z-]+)=\"", found)) <= {
        "dir",
        "href",
        "rel",
        "tabindex",
        "role",
        "aria-label",
        "scope",
    } | {
        "class",
        "start",
    }
    return found


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "a <img src=x onerror=alert(1)> b",
        "<svg/onload=alert(1)>",
        "```\n</code></pre><script>alert(1)</script>\n```",
        '```"><script>\nx\n```',
        "`<b>`",
        "&lt;script&gt; &#60;script&#62;",
        "| <script> |\n|---|\n| <b> |",
        "# <script>",
    ],
)
def test_raw_html_is_text(text: str) -> None:
    assert "&lt;" in html(text) or "alert" not in text


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "JaVaScRiPt:alert(1)",
        "&#106;avascript:alert(1)",
        "java\tscript:alert(1)",
        " javascript:alert(1)",
        "data:text/html,<script>",
        "vbscript:x",
        "file:///etc/passwd",
        "//evil.example",
        "/dashboard/keys",
        "dashboard",
    ],
)
def test_link_that_is_not_http_or_mailto_is_text(url: str) -> None:
    for text in (f"[a]({url})", f"[a](<{url}>)", f"<{url}>", f"[a][1]\n\n[1]: {url}"):
        assert "<a" not in html(text)


def test_links_to_the_web_and_to_mail_are_links() -> None:
    assert '<a href="https://a.example/?b=1&amp;c=%22" rel="noreferrer noopener nofollow">x</a>' in html(
        '[x](https://a.example/?b=1&c=" "title")'.replace('=" "', '=%22 "')
    )
    assert 'href="mailto:a@b.example"' in html("<a@b.example>")


def test_images_are_their_description() -> None:
    found = html("![a cat](https://a.example/cat.png) ![dot](data:image/png;base64,AAAA)")
    assert "a cat" in found and "<img" not in found and "<a" not in found


def test_headings_descend_one_level_at_a_time() -> None:
    assert re.findall(r"<(h\d)", html("### a\n\n# b\n\n###### c\n\n## d")) == ["h2", "h2", "h3", "h3"]


def test_each_table_is_a_region_of_its_own() -> None:
    table = "| a |\n|---|\n| 1 |\n\n"
    assert re.findall(r'aria-label="([^"]+)"', html(table + "text\n\n" + table)) == ["Table 1", "Table 2"]


def test_text_keeps_its_direction() -> None:
    assert '<p dir="auto">\u05e9\u05dc\u05d5\u05dd</p>' in html("\u05e9\u05dc\u05d5\u05dd")


@pytest.mark.parametrize(
    "text", [">" * 5000 + " end", "- " * 5000 + "end", "".join(" " * 2 * n + "- end\n" for n in range(80))]
)
def test_deep_nesting_loses_no_text(text: str) -> None:
    assert "end" in html(text)


WORST = ["[", "[a](", "![[", "*a_ ", "**a*", "`" * 9 + " ", "<", "<a ", "~~a", "[a]: <", "[a]: b\n", ">", "- ", "> - "]
WIDE = "|a" * 50 + "|\n" + "|-" * 50 + "|\n" + "|a\n" * 5000


@pytest.mark.parametrize("text", [*WORST, WIDE, "\n", "\\", "&", "\u202e", "a" * 100 + "\n"])
def test_200_kib_of_anything_take_bounded_time(text: str) -> None:
    whole = (text * (200_000 // len(text) + 1))[:200_000]
    began = time.process_time()  # other tests run beside
    html(whole)
    assert time.process_time() - began < 5  # a tenth of that on a machine at rest
    assert len(whole) > MAX_LENGTH

"""Markdown as HTML. The HTML is written from the parser's tokens, tag by tag: nothing of the text becomes a tag."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup, escape

#: The parser takes a third of a second for so many characters of the worst kind, and ten times as long for three times
#: as many.
MAX_LENGTH = 20_000
_MAX_NESTING = 20  # the parser drops what is deeper
_MAX_CELLS = 10_000  # of a table, whose rows the parser fills up to the widest
_SCHEMES = ("http://", "https://", "mailto:")
_TAGS = frozenset(("p", "ul", "ol", "li", "blockquote", "thead", "tbody", "tr", "td", "em", "strong", "s"))
_OPEN, _CLOSE = Markup('<{} dir="auto">'), Markup("</{}>")
_TABLE = Markup('<div class="scroll" tabindex="0" role="region" aria-label="Table {}"><table>')


_PARSER = MarkdownIt("commonmark", {"html": False, "maxNesting": _MAX_NESTING}).enable(["table", "strikethrough"])
# How the library means it.
_PARSER.validateLink = lambda url: url.lower().startswith(_SCHEMES)  # type: ignore[method-assign]


@lru_cache(maxsize=64)  # a page is polled, and its text stays
def render(text: str, level: int) -> Markup:
    """The first MAX_LENGTH characters as HTML; `level` is that of the highest heading."""
    text = text[:MAX_LENGTH]
    lines = text.splitlines()
    cells = len(lines) * max((line.count("|") for line in lines), default=0)
    tokens = _PARSER.parse(text) if cells < _MAX_CELLS else []
    if not tokens or any(token.level >= _MAX_NESTING - 1 for token in tokens):
        return Markup('<pre tabindex="0" dir="auto">{}</pre>').format(text)
    return Markup("").join(_html(tokens, level))


def _html(tokens: Sequence[Token], level: int) -> Iterator[Markup]:
    highest, tables = level, 0
    level -= 1
    for number, token in enumerate(tokens):
        if token.hidden:  # the paragraph of a tight list
            continue
        if token.type == "inline":
            yield from _html(token.children or (), level + 1)
        elif token.type == "heading_open":
            # One step down at most, as readers by ear follow the levels.
            level = min(highest + int(token.tag[1]) - 1, level + 1, 6)
            yield Markup('<h{} dir="auto">').format(level)
        elif token.type == "heading_close":
            yield Markup("</h{}>").format(level)
        elif token.type in ("fence", "code_block"):
            yield Markup('<pre tabindex="0"><code>{}</code></pre>').format(token.content)
        elif token.type == "code_inline":
            yield Markup("<code>{}</code>").format(token.content)
        elif token.type == "link_open":
            yield Markup('<a href="{}" rel="noreferrer noopener nofollow">').format(token.attrGet("href") or "")
        elif token.type == "link_close":
            yield Markup("</a>")
        elif token.type == "table_open":
            tables += 1
            yield _TABLE.format(tables)
        elif token.type == "table_close":
            yield Markup("</table></div>")
        elif token.tag == "th":
            text = tokens[number + token.nesting].content
            if token.nesting == 1:
                yield Markup('<th scope="col">') if text else Markup("<td>")  # a header without words is none
            else:
                yield Markup("</th>") if text else Markup("</td>")
        elif token.type == "ordered_list_open":
            yield Markup('<ol start="{}">').format(token.attrGet("start") or 1)
        elif token.tag in ("br", "hr"):
            yield Markup("<{}>").format(token.tag)
        elif token.type == "softbreak":
            yield Markup("\n")
        elif token.nesting and token.tag in _TAGS:
            yield (_OPEN if token.nesting == 1 else _CLOSE).format(token.tag)
        else:
            yield escape(token.content)

"""The spans of a task as rows with a bar each, on one axis from its acceptance to the last known moment."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote_plus

from sytq.service.task_timeline import WORDS, SpanView

#: Units of the axis. To be seen, a bar has at least MIN of them, and LASTING where what it shows goes on.
WIDTH, _MIN, _LASTING = 1000, 4, 60
_MAX_ROWS = 100
#: Where the subject of a span has a page.
_PAGES = {"running": "/workers", "limiter": "/limiters/one?name={}", "order": "/tasks/{}", "paused": "/types/{}"}


@dataclass(frozen=True, slots=True)
class Row:
    """A span: `path` is the page of what it is `about`; it began so many seconds `after` the first one, and `took` so
    many, None while it lasts."""

    span: SpanView
    words: str
    path: str | None
    after: float
    took: float | None
    x: int
    width: int


def rows(spans: Sequence[SpanView]) -> list[Row]:
    """The rows of the last spans."""
    shown = spans[-_MAX_ROWS:]
    times = [dt.datetime.fromisoformat(at) for span in shown for at in (span["start"], span["end"]) if at]
    if not times:
        return []
    first, length = min(times), (max(times) - min(times)).total_seconds()
    # What lasts has room behind the last known moment: a page has no present time.
    lasts = any(span["end"] is None for span in shown)
    scale = (WIDTH - _LASTING * lasts) / length if length else 0.0
    return [_row(span, first, scale) for span in shown]


def _row(span: SpanView, first: dt.datetime, scale: float) -> Row:
    start = dt.datetime.fromisoformat(span["start"])
    after = (start - first).total_seconds()
    x = min(round(after * scale), WIDTH - _MIN)
    if span["end"] is None:
        took, width = None, WIDTH - x
    else:
        took = (dt.datetime.fromisoformat(span["end"]) - start).total_seconds()
        width = min(max(round(took * scale), _MIN), WIDTH - x)
    words = "running on" if span["kind"] == "running" and span["about"] else WORDS[span["kind"]]
    page, about = _PAGES.get(span["kind"]), span["about"]
    path = page.format(quote_plus(about) if "?" in page else about) if page and about is not None else None
    return Row(span, words, path, after, took, x, width)

"""docs/dashboard.md shows a picture of every page, and docs/images has no others."""

from __future__ import annotations

import re
from pathlib import Path

from tests.browser.pages import PATHS
from tests.browser.screenshots import IMAGES, name_of

DOCUMENT = (Path(__file__).parents[2] / "docs/dashboard.md").read_text("utf-8")


def test_every_page_is_shown_and_no_other() -> None:
    shown = re.findall(r"!\[[^\]]+\]\(images/([^)]+)\)", DOCUMENT)
    assert sorted(shown) == sorted({name_of(path) for path in PATHS})
    assert sorted(shown) == sorted(file.name for file in IMAGES.iterdir())


def test_pictures_are_small() -> None:
    assert sum(file.stat().st_size for file in IMAGES.iterdir()) < 1_500_000

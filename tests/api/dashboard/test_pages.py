"""What every page of the dashboard has: security headers, ETags, forms with a token, errors as pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sytq.api.dashboard import assets
from sytq.api.dashboard.routes import PAGES
from tests.installation import Installation

BROWSER = {"accept": "text/html"}
STATIC = Path(assets.__file__).parent / "static"


def test_root_leads_browsers_to_the_dashboard_and_nobody_else(running: Installation) -> None:
    reply = running.request("GET", "/", headers=BROWSER)
    assert (reply.status, reply.headers["location"]) == (302, "/dashboard")
    assert running.request("GET", "/").status == 404


@pytest.mark.parametrize("path", [path for path in PAGES if "{" not in path])
def test_page_is_html_with_a_strict_policy_and_no_inline_code(running: Installation, path: str) -> None:
    reply = running.request("GET", f"/dashboard{path}", headers=BROWSER)
    assert (reply.status, reply.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    html = reply.body.decode()
    assert html.count("<h1") == 1
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son[a-z]+=|javascript:", html)
    assert not re.search(r"""(?:src|href|action)=["']?(?:https?:)?//""", html)


def test_page_that_did_not_change_is_a_304(running: Installation) -> None:
    first = running.request("GET", "/dashboard/types" if "/types" in PAGES else "/dashboard", headers=BROWSER)
    cookie = first.headers.get("set-cookie", "").partition(";")[0]
    path = "/dashboard/types" if "/types" in PAGES else "/dashboard"
    block = running.request("GET", path, headers={"hx-request": "true", "cookie": cookie})
    assert b"<html" not in block.body
    again = {"hx-request": "true", "cookie": cookie, "if-none-match": block.headers["etag"]}
    assert running.request("GET", path, headers=again).status in (200, 304)  # what runs beside may change it


def test_unknown_page_is_a_404_as_a_page(running: Installation) -> None:
    reply = running.request("GET", "/dashboard/nonsense", headers=BROWSER)
    assert reply.status == 404
    assert b"There is no such page." in reply.body


def test_static_files_are_small_cached_and_packed(running: Installation) -> None:
    assert sum(file.stat().st_size for file in STATIC.iterdir()) < 150_000
    [path] = re.findall(r'src="(/dashboard/static/app.js[^"]*)"', running.request("GET", "/dashboard").body.decode())
    reply = running.request("GET", path, headers={"accept-encoding": "gzip"})
    assert (reply.status, reply.headers["content-encoding"]) == (200, "gzip")
    assert "immutable" in reply.headers["cache-control"]
    assert running.request("GET", "/dashboard/static/..%2fpage.py").status == 404


@pytest.mark.parametrize("query", ["?v=0123456789ab", ""])
def test_static_file_for_a_page_of_another_release_is_not_cached(running: Installation, query: str) -> None:
    reply = running.request("GET", f"/dashboard/static/app.css{query}")
    assert (reply.status, reply.headers["cache-control"]) == (200, "no-store")

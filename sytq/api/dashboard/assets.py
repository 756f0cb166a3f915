"""Serves the static files, which are in the package: nothing is fetched from elsewhere."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

import falcon.asgi

_FOLDER = Path(__file__).parent / "static"
_MEDIA_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class _Asset:
    media_type: str
    data: bytes
    packed: bytes
    version: str


class Assets:
    """GET /dashboard/static/{name}?v=VERSION

    A page of another release may ask this process for a file, while one replaces the other: what it gets is kept by no
    cache, else a browser would take it for the other release's file for a year.
    """

    def __init__(self) -> None:
        self._files = {file.name: _read(file) for file in _FOLDER.iterdir() if file.suffix in _MEDIA_TYPES}

    def version(self, name: str) -> str:
        """A text that changes with the file, for its URL."""
        return self._files[name].version

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, name: str) -> None:
        asset = self._files.get(name)
        if asset is None:
            raise falcon.HTTPNotFound(description="there is no such file")
        resp.content_type = asset.media_type
        is_wanted = req.get_param("v") == asset.version
        resp.set_header("Cache-Control", "public, max-age=31536000, immutable" if is_wanted else "no-store")
        resp.set_header("Vary", "Accept-Encoding")
        resp.set_header("X-Content-Type-Options", "nosniff")
        if "gzip" in (req.get_header("Accept-Encoding") or ""):
            resp.set_header("Content-Encoding", "gzip")
            resp.data = asset.packed
        else:
            resp.data = asset.data


def _read(file: Path) -> _Asset:
    data = file.read_bytes()
    return _Asset(_MEDIA_TYPES[file.suffix], data, gzip.compress(data, mtime=0), hashlib.sha256(data).hexdigest()[:12])

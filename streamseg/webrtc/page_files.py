"""The files of the page, from memory.

aiohttp would have the kernel send them, and asyncio loses the socket when such a connection is ended
from this side. They are some 60 KB together.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from aiohttp import web

__all__ = ["PageFile", "read_page"]

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webp": "image/webp",
    ".ico": "image/x-icon",
    ".webmanifest": "application/manifest+json",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file.

    Attributes:
        kind: Its media type.
        data: What is in it.
        etag: Tells versions of it apart.
    """

    kind: str
    data: bytes = field(repr=False)
    etag: str

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a request for it; a browser that has it already is told so."""
        # Compared weakly (RFC 9110, 13.1.2): a proxy that compresses makes the tag a weak one.
        known = any(tag.value in (self.etag, "*") for tag in request.if_none_match or ())
        response = web.Response(status=304) if known else web.Response(body=self.data)
        if not known:
            response.headers["Content-Type"] = self.kind
        response.headers["Cache-Control"] = "no-cache"
        response.etag = self.etag
        return response


def read_page() -> dict[str, PageFile]:
    """Return path -> file for each file of the page; nothing else is ever served. Blocks."""
    folder = Path(str(files("streamseg.webrtc"))) / "page"
    found = {
        f"/{path.relative_to(folder).as_posix()}": _read(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in _TYPES
    }
    index = found.get("/index.html")
    return found if index is None else {"/": index, **found}


def _read(path: Path) -> PageFile:
    data = path.read_bytes()
    return PageFile(_TYPES[path.suffix], data, hashlib.sha256(data).hexdigest()[:20])

"""Static files of the console: read at startup, served with an ETag."""

from __future__ import annotations

import gzip
import hashlib
from importlib.resources import files

from aiohttp import hdrs, web

_TYPES = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
    "txt": "text/plain",
}
INDEX = "index.html"


class StaticFile:
    """One file with its gzip form and ETag."""

    __slots__ = ("content", "content_type", "etag", "gzipped")

    def __init__(self, name: str, content: bytes) -> None:
        self.content = content
        self.gzipped = gzip.compress(content, 6, mtime=0)
        self.etag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
        self.content_type = _TYPES[name.rpartition(".")[2]]


def load_console() -> dict[str, StaticFile]:
    """Load all console files by name."""
    folder = files("gateway.admin").joinpath("console")
    return {
        entry.name: StaticFile(entry.name, entry.read_bytes())
        for entry in folder.iterdir()
        if entry.name.rpartition(".")[2] in _TYPES
    }


class StaticRoutes:
    """Routes of the static page. No token needed: it contains no data."""

    def __init__(self) -> None:
        self._files = load_console()

    def routes(self) -> list[web.AbstractRouteDef]:
        """Route definitions."""
        return [
            web.get("/", self.get_index),
            web.get("/console/{name}", self.get_file),
        ]

    async def get_index(self, request: web.Request) -> web.Response:
        """The console page."""
        return self._send(request, INDEX)

    async def get_file(self, request: web.Request) -> web.Response:
        """A file of the console."""
        return self._send(request, request.match_info["name"])

    def _send(self, request: web.Request, name: str) -> web.Response:
        file = self._files.get(name)
        if file is None:
            raise web.HTTPNotFound
        # Revalidated on each load, so that a new version is used at once.
        headers = {hdrs.ETAG: file.etag, hdrs.CACHE_CONTROL: "no-cache"}
        if request.headers.get(hdrs.IF_NONE_MATCH) == file.etag:
            return web.Response(status=304, headers=headers)
        body = file.content
        headers[hdrs.VARY] = hdrs.ACCEPT_ENCODING
        if "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, ""):
            body = file.gzipped
            headers[hdrs.CONTENT_ENCODING] = "gzip"
        return web.Response(
            body=body, content_type=file.content_type, charset="utf-8", headers=headers
        )

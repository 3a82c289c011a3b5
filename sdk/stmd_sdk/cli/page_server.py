"""The files of a built page on loopback, with the headers that it needs."""

from __future__ import annotations

import io
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import final

from ..errors import InvalidArgumentError, OutputError

__all__ = ["page_server"]

CHECKOUT = Path(__file__).parents[3] / "demo" / "dist"
BUILD = "cd demo && npm ci && npm run models && npm run build"


def page_server(folder: Path | None, port: int) -> ThreadingHTTPServer:
    """A server of the page in ``folder``, or of this checkout's, that listens already; port 0 takes a free one.

    Raises :class:`InvalidArgumentError` where no page was built, :class:`OutputError` where the port is taken.
    """
    page = CHECKOUT if folder is None else folder
    if not (page / "index.html").is_file():
        where = f"no page in {page}" if folder else "the page is not built, or this is no checkout"
        raise InvalidArgumentError(f"{where}: in a checkout of this project run {BUILD}, or give --folder")
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), partial(PageHandler, directory=str(page)))
    except OSError as error:
        raise OutputError(f"cannot listen on port {port}: {error.strerror or error}; give another --port") from error


@final
class PageHandler(SimpleHTTPRequestHandler):
    """Files alone, no listings; what a browser gets may share memory between threads (COOP and COEP)."""

    extensions_map = {  # noqa: RUF012  the base's own, as it is to be set
        **SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",  # whatever this machine's own table says
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        ".gz": "application/octet-stream",
        ".svg": "image/svg+xml",
    }

    def end_headers(self) -> None:
        """With what isolates the page, and has each file asked for again when it changes."""
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def list_directory(self, path: object) -> io.BytesIO | None:
        """There is nothing to list."""
        self.send_error(404, "File not found")
        return None

    def log_message(self, format: str, *args: object) -> None:
        """Silent: a person watches the page."""

"""``stmd demo``: the browser page on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..console import exit_on_error, say

__all__ = ["demo"]


def demo(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where to listen; 0 takes any that is free.")] = 8080,
    folder: Annotated[Path | None, typer.Option(help="The built page. Default: demo/dist of this checkout.")] = None,
) -> None:
    """Serve the browser page: draw digits, paint, restore. On this machine alone, until it is interrupted.

    The page is built once, in demo/ of a checkout: npm ci, npm run models, npm run build.
    """
    with exit_on_error():
        from .page_server import page_server  # noqa: PLC0415  after --help has been answered

        with page_server(folder, port) as server:
            say(f"http://127.0.0.1:{server.server_port}/ (end with Ctrl-C)")
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                say("ended")

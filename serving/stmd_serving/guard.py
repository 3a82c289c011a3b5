"""What stands before every request: the token, the size of its body, and the time it may take to arrive."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable
from typing import final

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .limits import Limits

__all__ = ["Guard"]

OPEN = "/healthz", "/docs", "/openapi.json", "/static-offline-docs"  # nothing of them is anybody's secret


@final
class Guard:
    """An ASGI middleware: 401 without the token, 413 for too large a body, 408 for one that does not arrive in time.

    The body is read whole before the application sees the request, which so never waits for a slow client.
    ``answered`` is told the route, the status and the seconds of every answer.
    """

    def __init__(
        self, app: ASGIApp, limits: Limits, token: str | None, answered: Callable[[str, int, float], None]
    ) -> None:
        self.app, self.limits, self.answered = app, limits, answered
        self.expected = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 499  # as servers say of a client that went before its answer

        async def noted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._guarded(scope, receive, noted)
        finally:
            self.answered(getattr(scope.get("route"), "path", "none"), status, time.perf_counter() - began)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        if not self._allowed(scope["path"], headers.get(b"authorization", b"")):
            said = "this server asks for its token: send the header Authorization: Bearer TOKEN"
            await _answer(401, said, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self.limits.seconds):
                body = await self._body(receive, headers.get(b"content-length", b""))
        except TimeoutError:
            said = f"the request did not arrive within {self.limits.seconds:g} s"
            await _answer(408, said)(scope, receive, send)
            return
        if body is None:
            await _answer(413, f"the request has more than {self.limits.size} bytes")(scope, receive, send)
            return
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()  # which says when the client has gone
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, send)

    def _allowed(self, path: str, authorization: bytes) -> bool:
        asked = self.expected is not None and not any(path == one or path.startswith(f"{one}/") for one in OPEN)
        return not asked or hmac.compare_digest(authorization, self.expected or b"")

    async def _body(self, receive: Receive, announced: bytes) -> bytes | None:
        """The whole body, or None where it is too large: what is announced so is not read."""
        if announced.isdigit() and int(announced[:20]) > self.limits.size:
            return None
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > self.limits.size:
                return None
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return bytes(body)


def _answer(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": message}, status, headers)

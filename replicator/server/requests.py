"""Incoming HTTP requests: an id for each in the answer and the logs, and bodies bounded in size and time."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING

import structlog
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = structlog.get_logger("replicator.access")

HEADER = "X-Request-ID"
"""The header of every answer with the request's id."""
_MAX_PATH = 200
_DISCARDED = 8
"""An oversized body is read up to so many times its limit: a sender cut off in the middle never reads the answer."""
_BODY_SECONDS = 5.0
_CLOSE = {"Connection": "close"}
"""After an unread body, a kept connection would parse the rest of it as the next request."""


async def read_body(request: Request, limit: int) -> bytes:
    """Read the body of a request, up to ``limit`` bytes.

    Raises:
        HTTPException: 413 if it is larger, 408 if it takes too long, 400 if the connection breaks.
    """
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= limit:
                    body += chunk
                elif size > _DISCARDED * limit:
                    break
    except TimeoutError:
        raise HTTPException(408, f"the body did not arrive within {_BODY_SECONDS:g} s", _CLOSE) from None
    except ClientDisconnect:
        raise HTTPException(400, "the connection broke before the body was complete") from None
    if size > limit:
        raise HTTPException(413, f"the body has more than {limit} bytes", _CLOSE)
    return bytes(body)


def client_of(request: Request) -> str | None:
    """Return the address that a request came from, as far as the server knows it."""
    return request.client.host if request.client is not None else None


class RequestIdMiddleware:
    """Gives every request an id, and optionally logs it.

    The id is always our own: one that a client sends could be anyone's, and would mix up the logs.

    Args:
        app: the application.
        access_log: log a line for every request, without its query, which may hold a password by mistake.
    """

    def __init__(self, app: ASGIApp, *, access_log: bool) -> None:
        self._app = app
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, began, status = secrets.token_hex(8), time.monotonic(), 0
        # Also for the application: the webhook falls back on it where an event has no id.
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            finally:
                if self._access_log:
                    self._log(scope, status, time.monotonic() - began)

    def _log(self, scope: Scope, status: int, seconds: float) -> None:
        client = scope.get("client")
        log.info(
            "request",
            method=scope["method"],
            path=scope["path"][:_MAX_PATH],
            client=client[0] if client else None,
            status=status,
            seconds=round(seconds, 3),
        )

"""Reading the body of a request, bounded in size and time.

A name for every HTTP request: in the answer, and in every log line that is written for it.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING, Any

import structlog
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_DISCARDED = 8
"""How many times the allowed size is read and thrown away: a sender cut off in mid body does not see the answer."""
_SECONDS = 5.0
_CLOSE = {"Connection": "close"}


async def read_body(request: Request, most: int) -> bytes:
    """Read the body of a request.

    Args:
        request: whose.
        most: bytes that it may have.

    Raises:
        HTTPException: 413, 408, or 400 for one that broke off.
    """
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= most:
                    body += chunk
                elif size > _DISCARDED * most:
                    break
    except TimeoutError:
        raise HTTPException(408, f"the body did not arrive within {_SECONDS:g} s", _CLOSE) from None
    except ClientDisconnect:
        raise HTTPException(400, "the body broke off") from None
    if size > most:
        raise HTTPException(413, f"the body has more than {most} bytes", _CLOSE)
    return bytes(body)


log = structlog.get_logger("replicator.access")

HEADER = "X-Request-ID"
"""The header of the answer that holds the request's name."""
_MAX_PATH = 200


class RequestIdMiddleware:
    """An ASGI application whose requests have names. A name that a client sends does not count: it may be anyone's.

    Args:
        app: the application.
        access_log: log a line for every request. A query is never in it: it may hold what people put there.
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
        scope.setdefault("state", {})["request_id"] = request_id

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, named)
            finally:
                if self._access_log:
                    log.info("request", **_told(scope), status=status, seconds=round(time.monotonic() - began, 3))


def _told(scope: Scope) -> dict[str, Any]:
    client = scope.get("client")
    return {
        "method": scope["method"],
        "path": scope["path"][:_MAX_PATH],
        "client": client[0] if client else None,
    }

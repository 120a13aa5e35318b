"""A name for every HTTP request: in the answer, and in every log line that is written for it."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any

import structlog
from starlette.datastructures import MutableHeaders

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = structlog.get_logger("replicator.access")

HEADER = "X-Request-ID"
"""The header of the answer that holds the request's name."""
_MAX_PATH = 200


class Named:
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

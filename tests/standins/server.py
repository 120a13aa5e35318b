"""An HTTP server for the stand-ins: any handler, on a free port of this machine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
"""What answers a request; it may also have begun to send, or have dropped the connection."""

_quiet = logging.getLogger("tests.standins.server")
# Connections that a fault ends are no news.
_quiet.disabled = True


@asynccontextmanager
async def serve(handler: Handler, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Serve ``handler`` on 127.0.0.1 for as long as the context lasts.

    Bodies are neither bounded nor decompressed; a handler is cancelled when its client goes away.

    Args:
        handler: answers every request.
        tls: a server context to speak HTTPS with.

    Yields:
        ``127.0.0.1:PORT``.
    """
    loop = asyncio.get_running_loop()

    def unbounded(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=0)

    web_server = web.Server(
        handler,
        request_factory=unbounded,
        handler_cancellation=True,
        access_log=None,
        logger=_quiet,
        auto_decompress=False,
    )
    listener = await loop.create_server(web_server, "127.0.0.1", 0, ssl=tls, backlog=1024)
    host, port = listener.sockets[0].getsockname()[:2]
    try:
        yield f"{host}:{port}"
    finally:
        listener.close()
        await web_server.shutdown(0.1)
        await listener.wait_closed()

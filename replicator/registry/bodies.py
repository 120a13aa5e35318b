"""The body of a short answer, read into memory within its bounds."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp

from replicator.registry.connecting import connection_error

if TYPE_CHECKING:
    from collections.abc import Callable


async def read_body(
    response: aiohttp.ClientResponse,
    limit: int,
    on_bytes: Callable[[int], None],
    *,
    registry: str,
    request: str | None,
    patience: float,
) -> bytes:
    """Read at most ``limit`` bytes.

    Args:
        response: whose body.
        limit: bytes at the most.
        on_bytes: told the number of bytes as they arrive.
        registry: the host the rules name, for the error.
        request: what was asked, for the error; None leaves out what fails.
        patience: seconds after which the rest is left out, where what fails is.

    Raises:
        ConnectionFailed: it broke off, and a request is named.
    """
    chunks = bytearray()
    try:
        # What is left out when it fails is not worth more than one read's time, however it drips.
        async with asyncio.timeout(patience if request is None else None):
            while len(chunks) < limit and (chunk := await response.content.read(limit - len(chunks))):
                on_bytes(len(chunk))
                chunks += chunk
    except (aiohttp.ClientError, OSError) as error:
        if request is not None:
            raise connection_error(registry, request, response.url, error) from error
    return bytes(chunks)

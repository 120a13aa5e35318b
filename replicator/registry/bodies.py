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
    within: float | None,
) -> bytes:
    """Read at most ``limit`` bytes.

    Args:
        response: whose body.
        limit: bytes at the most.
        on_bytes: told the number of bytes as they arrive.
        registry: the host the rules name, for the error.
        request: what was asked, for the error; None leaves out what fails.
        within: seconds that it may take in all; None for as long as each read's own limit allows.

    Raises:
        ConnectionFailed: it broke off or took too long, and a request is named.
    """
    chunks = bytearray()
    try:
        async with asyncio.timeout(within):
            while len(chunks) < limit and (chunk := await response.content.read(limit - len(chunks))):
                on_bytes(len(chunk))
                chunks += chunk
    except (aiohttp.ClientError, OSError) as error:
        if request is not None:
            raise connection_error(registry, request, response.url, error) from error
    return bytes(chunks)

"""Reading the body of a request, bounded in size and time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

if TYPE_CHECKING:
    from starlette.requests import Request

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

"""A webhook receiver with configurable responses."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.standins.server import serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from multidict import CIMultiDict


class Receiver:
    """What a webhook receiver was sent.

    Attributes:
        url: where events go.
        events: the JSON of each request.
        headers: of each request.
    """

    def __init__(self, statuses: Sequence[int], *, stalls: bool) -> None:
        self.url = ""
        self.events: list[dict[str, Any]] = []
        self.headers: list[CIMultiDict[str]] = []
        self._statuses = list(statuses)
        self._stalls = stalls

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Take one event."""
        self.events.append(json.loads(await request.read()))
        self.headers.append(request.headers.copy())
        if self._stalls:
            await asyncio.Event().wait()
        return web.Response(status=self._statuses.pop(0) if self._statuses else 202, text="noted")


@asynccontextmanager
async def receiver(statuses: Sequence[int] = (), *, stalls: bool = False) -> AsyncIterator[Receiver]:
    """Have a receiver run.

    Args:
        statuses: of the first answers, one after another; then 202.
        stalls: read the event and never answer.
    """
    taker = Receiver(statuses, stalls=stalls)
    async with serve(taker) as host:
        taker.url = f"http://{host}/webhooks/harbor"
        yield taker

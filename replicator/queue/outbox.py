"""What Redis is told soon, many things in one step."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Generic, TypeVar

from replicator.cancelling import cancel_all
from replicator.queue.client import BATCH

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

Item = TypeVar("Item")

_MOST = 10 * BATCH


class Outbox(Generic[Item]):
    """Collects items, and sends them a moment after the first one came, or once there are 500.

    Args:
        send: sends up to 500; it must raise nothing and take no longer than a deadline of its own. What it does not
            get through is lost.
        pause: seconds that the first item waits for others.
    """

    def __init__(self, send: Callable[[Sequence[Item]], Awaitable[object]], *, pause: float = 1.0) -> None:
        self._send = send
        self._pause = pause
        self._items: list[Item] = []
        self._hurry = asyncio.Event()
        self._sending: asyncio.Task[None] | None = None
        self._closed = False

    def put(self, item: Item) -> None:
        """Send an item soon; one of more than 5000 that wait is dropped, as is one that comes after the end."""
        if self._closed or len(self._items) >= _MOST:
            return
        self._items.append(item)
        if len(self._items) >= BATCH:
            self._hurry.set()
        if self._sending is None:
            self._sending = asyncio.create_task(self._send_all())

    async def aclose(self) -> None:
        """Send what waits, and take nothing more."""
        self._closed = True
        self._hurry.set()
        if (sending := self._sending) is not None:
            try:
                await asyncio.wait({sending})
            finally:
                await cancel_all({sending})

    async def _send_all(self) -> None:
        while self._items:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause):
                    await self._hurry.wait()
            batch, self._items = self._items[:BATCH], self._items[BATCH:]
            if len(self._items) < BATCH and not self._closed:
                self._hurry.clear()
            await self._send(batch)
        self._sending = None

"""Several asynchronous iterators read at once, a few at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, TypeVar

from replicator.cancelling import cancel_all

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

T = TypeVar("T")


async def interleaved(streams: Iterable[AsyncGenerator[T, None]], at_once: int) -> AsyncGenerator[T, None]:
    """Give out what ``streams`` give, each in its own order.

    A stream is read on only when what it gave before was taken; so hardly more than ``at_once`` items wait. However
    the reading ends, all tasks and streams have ended with it.

    Args:
        streams: opened one after the other, as others end.
        at_once: how many are read at the same time.

    Raises:
        Exception: the first that a stream raises.
    """
    ready: deque[T] = deque()
    room = asyncio.Semaphore(at_once)
    news = asyncio.Event()
    waiting = iter(streams)

    async def read() -> None:
        for stream in waiting:
            async with contextlib.aclosing(stream):
                async for item in stream:
                    await room.acquire()
                    ready.append(item)
                    news.set()

    tasks = [asyncio.create_task(read()) for _ in range(at_once)]
    for task in tasks:
        task.add_done_callback(lambda _: news.set())
    try:
        while True:
            news.clear()
            while ready:
                room.release()
                yield ready.popleft()
            ended = [task for task in tasks if task.done()]
            for task in ended:
                task.result()
            if len(ended) == len(tasks):
                return
            await news.wait()
    finally:
        await cancel_all(tasks)
        for task in tasks:
            # The first failure is the one that is told.
            _ = task.cancelled() or task.exception()

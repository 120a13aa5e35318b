"""Merged streams."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from replicator.tasks import merge_streams

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


class Streams:
    """Streams of pairs that start with the stream's number; they count their items.

    Attributes:
        given: how many pairs were given out.
        open: how many of them are open.
        most: how many were at the most.
    """

    def __init__(self) -> None:
        self.given = 0
        self.open = 0
        self.most = 0

    async def stream(self, number: int, length: int) -> AsyncGenerator[tuple[int, int], None]:
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            for each in range(length):
                await asyncio.sleep(0)
                self.given += 1
                yield number, each
        finally:
            # Closing may take a while, too.
            await asyncio.sleep(0)
            self.open -= 1


async def test_all_items_arrive_in_the_order_of_their_stream_from_few_streams_at_once() -> None:
    streams = Streams()
    found = [item async for item in merge_streams((streams.stream(number, number) for number in range(9)), 3)]
    assert sorted(found) == [(number, each) for number in range(9) for each in range(number)]
    for number in range(9):
        assert [each for one, each in found if one == number] == list(range(number))
    assert (streams.most, streams.open) == (3, 0)


async def test_streams_are_not_read_far_ahead_of_the_consumer() -> None:
    streams = Streams()
    async with contextlib.aclosing(merge_streams((streams.stream(number, 1000) for number in range(9)), 4)) as items:
        for taken in range(1, 20):
            await anext(items)
            for _ in range(200):
                await asyncio.sleep(0)
            # As many are buffered, and as many are held by the readers.
            assert streams.given <= taken + 2 * 4
    assert streams.open == 0


async def test_a_stream_that_fails_closes_the_others_and_raises() -> None:
    streams = Streams()

    async def failing() -> AsyncGenerator[tuple[int, int], None]:
        yield 0, 0
        await asyncio.sleep(0)
        raise LookupError("on purpose")

    before = asyncio.all_tasks()
    with pytest.raises(LookupError, match="on purpose"):
        async for _ in merge_streams([streams.stream(1, 1000), failing(), failing(), streams.stream(2, 1000)], 3):
            pass
    assert asyncio.all_tasks() == before
    assert streams.open == 0


async def test_a_consumer_cancelled_while_waiting_leaves_nothing_behind() -> None:
    closed = asyncio.Event()

    async def silent() -> AsyncGenerator[int, None]:
        try:
            await asyncio.Event().wait()
            yield 0
        finally:
            closed.set()

    async def read() -> None:
        async with contextlib.aclosing(merge_streams([silent()], 2)) as items:
            async for _ in items:
                pass

    before = asyncio.all_tasks()
    reading = asyncio.create_task(read())
    for _ in range(5):
        await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert closed.is_set()
    assert asyncio.all_tasks() == before

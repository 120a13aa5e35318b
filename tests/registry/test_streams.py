"""The number of bodies that go to a host at once follows what the line gives."""

from __future__ import annotations

import asyncio
import selectors
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from replicator.registry.places import BULK
from replicator.registry.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Coroutine

MIB = 1024 * 1024
TICK = 0.05


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop that does not wait: its clock jumps to what is due next."""

    def __init__(self) -> None:
        self._now = 0.0

        class Selector(selectors.DefaultSelector):
            def select(_, timeout: float | None = None) -> Any:  # noqa: N805 - the loop is self here
                self._now += timeout or 0.0
                return super().select(0)

        super().__init__(Selector())

    def time(self) -> float:
        return self._now


def simulate(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        runner.run(work)


class Line:
    """Bodies over a line with a rate for all and one for each connection; some answers take a while."""

    def __init__(self, rate: float, each: float, answer: float = 0.0, most: int = 24) -> None:
        self.rate, self.each = rate, each
        self.total = 0.0
        self.streams = Streams(most, lambda: int(self.total))
        self.moving = 0
        self._answer = answer
        self._bodies: set[asyncio.Task[None]] = set()

    def begin(self, number: int, size: float) -> None:
        for _ in range(number):
            body = asyncio.create_task(self._send(size))
            self._bodies.add(body)
            body.add_done_callback(self._bodies.discard)

    async def finish(self) -> float:
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*self._bodies)
        return asyncio.get_running_loop().time() - began

    async def stop(self) -> None:
        for body in self._bodies:
            body.cancel()
        await asyncio.gather(*self._bodies, return_exceptions=True)

    async def _send(self, size: float) -> None:
        async with self.streams.slot(int(size)):
            self.moving += 1
            try:
                while size > 0:
                    await asyncio.sleep(TICK)
                    piece = min(size, TICK * min(self.each, self.rate / self.moving))
                    self.total += piece
                    size -= piece
            finally:
                self.moving -= 1
            await asyncio.sleep(self._answer)


@pytest.mark.parametrize("size", [0.2 * MIB, 3 * MIB])
def test_more_bodies_go_at_once_where_each_connection_is_slow(size: float) -> None:
    async def work() -> None:
        line = Line(rate=20 * MIB, each=MIB)
        line.begin(int(1000 * MIB / size), size)
        took = await line.finish()
        assert line.streams.size >= 18
        assert took <= 1.1 * 1000 / 20 + 10, "the best number gives 20 MiB/s; to find it takes some seconds"

    simulate(work())


def test_few_bodies_go_at_once_where_one_fills_the_line() -> None:
    async def work() -> None:
        line = Line(rate=2 * MIB, each=100 * MIB)
        line.begin(100, 4 * MIB)
        took = await line.finish()
        assert line.streams.size == 2
        assert took <= 1.02 * 400 / 2

    simulate(work())


def test_as_many_go_as_hide_the_time_that_answers_take() -> None:
    async def work() -> None:
        # While an answer is awaited, which takes as long as two bodies, others have to move.
        line = Line(rate=4 * MIB, each=4 * MIB, answer=2.0)
        line.begin(200, 4 * MIB)
        took = await line.finish()
        assert line.streams.size >= 3
        assert took <= 1.1 * 800 / 4 + 10

    simulate(work())


def test_a_line_that_changes_gets_another_number_within_minutes() -> None:
    async def work() -> None:
        line = Line(rate=20 * MIB, each=20 * MIB)
        line.begin(1500, 20 * MIB)
        await asyncio.sleep(100)
        assert line.streams.size <= 3
        line.each = MIB
        await asyncio.sleep(900)
        assert line.streams.size >= 16
        await line.stop()

    simulate(work())


def test_nothing_is_tried_unless_bodies_wait() -> None:
    async def work() -> None:
        line = Line(rate=2 * MIB, each=MIB)
        line.begin(8, 1000 * MIB)
        await asyncio.sleep(300)
        assert line.streams.size == 8
        await line.stop()

    simulate(work())


@pytest.mark.parametrize(("most", "first"), [(1, 1), (3, 3), (8, 8), (24, 8), (100, 8)])
def test_there_are_never_more_than_the_setting_and_never_none(most: int, first: int) -> None:
    async def work() -> None:
        for each in (MIB / 4, 100 * MIB):
            line = Line(rate=20 * MIB, each=each, most=most)
            assert line.streams.size == first
            line.begin(3000, 2 * MIB)
            for _ in range(100):
                await asyncio.sleep(1)
                assert min(most, 2) <= line.streams.size <= most
                assert line.streams.waiting(bulk=False) > 0
            await line.stop()

    simulate(work())


def test_streams_that_are_lent_come_on_top_and_go_again() -> None:
    async def work() -> None:
        line = Line(rate=2 * MIB, each=100 * MIB, most=3)
        line.streams.lend(2)
        assert line.streams.size == 5
        line.begin(100, MIB)
        await asyncio.sleep(20)
        line.streams.lend(-2)
        await line.finish()
        assert line.streams.size == 2

    simulate(work())


def test_a_push_does_not_wait_behind_the_bodies_of_a_backfill_however_few_streams_there_are() -> None:
    async def work() -> None:
        line = Line(rate=2 * MIB, each=100 * MIB)
        BULK.set(True)
        line.begin(1000, 4 * MIB)
        await asyncio.sleep(200)
        assert line.streams.size == 2
        BULK.set(False)
        async with AsyncExitStack() as stack, asyncio.timeout(0.001):
            await stack.enter_async_context(line.streams.slot(1000))
        await line.stop()

    simulate(work())

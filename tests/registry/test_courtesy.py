"""While pushes are under way in a process, its bulk takes few steps at once."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from replicator.registry.places import Courtesy


class Steps:
    """Steps of bulk that last until they are ended."""

    def __init__(self, courtesy: Courtesy) -> None:
        self.courtesy = courtesy
        self.taken = 0
        self.tasks: list[asyncio.Task[None]] = []

    async def begin(self, number: int) -> int:
        """Begin so many more; return how many are taken now."""
        self.tasks += [asyncio.create_task(self._take()) for _ in range(number)]
        return await self.settle()

    async def settle(self) -> int:
        for _ in range(5):
            await asyncio.sleep(0)
        return self.taken

    async def end(self, *tasks: asyncio.Task[None]) -> int:
        for task in tasks or self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        return await self.settle()

    async def _take(self) -> None:
        async with self.courtesy.step():
            self.taken += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.taken -= 1


async def test_alone_bulk_takes_all_its_steps_at_once() -> None:
    steps = Steps(Courtesy(4))
    assert await steps.begin(32) == 32
    assert await steps.end() == 0


async def test_beside_pushes_it_takes_few_and_all_again_when_the_last_push_ends() -> None:
    steps = Steps(Courtesy(4))
    with steps.courtesy.push():
        with steps.courtesy.push():
            assert await steps.begin(32) == 4
        assert await steps.settle() == 4
    assert await steps.settle() == 32
    await steps.end()


async def test_steps_that_are_taken_go_on_and_each_that_ends_lets_the_next_one_begin_once_they_are_few() -> None:
    steps = Steps(Courtesy(2))
    await steps.begin(6)
    with steps.courtesy.push():
        assert await steps.begin(3) == 6
        for task in steps.tasks[:4]:
            task.cancel()
        assert await steps.settle() == 2
        steps.tasks[4].cancel()
        assert await steps.settle() == 2
        assert not steps.tasks[6].done()
        assert await steps.end() == 0


@pytest.mark.parametrize("late", [False, True])
async def test_a_waiter_that_is_cancelled_takes_nothing_with_it(late: bool) -> None:
    steps = Steps(Courtesy(1))
    with steps.courtesy.push():
        assert await steps.begin(3) == 1
        first, second, third = steps.tasks
        if late:
            # The turn of the second has come, and it does not know yet.
            first.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        second.cancel()
        first.cancel()
        assert await steps.settle() == 1
        assert not third.done()
        await steps.end()
    async with AsyncExitStack() as stack, asyncio.timeout(1):
        for _ in range(8):
            await stack.enter_async_context(steps.courtesy.step())

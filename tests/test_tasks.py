from __future__ import annotations

import asyncio
import contextlib

from replicator.tasks import cancel_all


async def test_a_task_that_swallows_cancellations_is_ended() -> None:
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while swallowed < 2:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
            swallowed += 1
        await asyncio.sleep(60)

    tasks = [asyncio.create_task(stubborn()), asyncio.create_task(asyncio.sleep(60))]
    await asyncio.sleep(0)
    await cancel_all(tasks)
    assert swallowed == 2
    assert all(task.cancelled() for task in tasks)


async def test_cancelling_nothing_succeeds() -> None:
    await cancel_all([])

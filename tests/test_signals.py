from __future__ import annotations

import asyncio
import contextlib
import os
import signal

import pytest

from replicator.tasks import graceful_shutdown, stoppable


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_cancels_a_start_and_nothing_after_it(number: signal.Signals) -> None:
    with graceful_shutdown() as shutdown:
        os.kill(os.getpid(), number)
        await asyncio.sleep(60)
    assert shutdown.requested
    async with asyncio.timeout(10):
        await asyncio.sleep(0)


async def test_a_signal_whose_cancellation_was_swallowed_is_not_forgotten() -> None:
    stopped = asyncio.Event()
    with graceful_shutdown() as shutdown:
        os.kill(os.getpid(), signal.SIGTERM)
        with contextlib.suppress(asyncio.CancelledError):  # as redis-py does at times
            await asyncio.sleep(60)
        shutdown.on_signal(stopped.set)
        async with asyncio.timeout(10):
            await stopped.wait()


async def test_after_the_start_each_signal_calls_the_callback() -> None:
    told = asyncio.Queue[None]()
    with graceful_shutdown() as shutdown:
        shutdown.on_signal(lambda: told.put_nowait(None))
        async with asyncio.timeout(10):
            for number in (signal.SIGTERM, signal.SIGINT):
                os.kill(os.getpid(), number)
                await told.get()


async def test_another_cancellation_is_passed_on() -> None:
    async def held() -> None:
        with graceful_shutdown():
            await asyncio.sleep(60)

    task = asyncio.create_task(held())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_work_that_a_signal_ends_has_no_result() -> None:
    async def ended() -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        return await asyncio.sleep(60, "done")

    assert await stoppable(ended()) is None
    assert await stoppable(asyncio.sleep(0, "done")) == "done"


async def test_the_handler_of_a_first_process_is_back_afterwards() -> None:
    def handler(*_: object) -> None:
        """As ``replicator.__main__`` sets one in a container."""

    before = signal.signal(signal.SIGTERM, handler)
    try:
        with graceful_shutdown():
            assert signal.getsignal(signal.SIGTERM) is not handler
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)

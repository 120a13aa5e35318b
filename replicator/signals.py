"""What SIGTERM and Ctrl-C do."""

from __future__ import annotations

import asyncio
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from replicator.cancelling import cancel_all

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

T = TypeVar("T")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def on_signals(action: Callable[[], None]) -> Iterator[None]:
    """Call ``action`` at each SIGTERM and SIGINT for as long as the context lasts, instead of dying of it."""
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, action)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


async def stoppable(work: Coroutine[Any, Any, T]) -> T | None:
    """Return what ``work`` does, or None when a signal ended it."""
    running = asyncio.create_task(work)

    def stop() -> None:
        running.cancel()

    try:
        with on_signals(stop):
            await asyncio.wait({running})
    finally:
        await cancel_all({running})
    return None if running.cancelled() else running.result()

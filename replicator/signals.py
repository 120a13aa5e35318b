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


class Ending:
    """What SIGTERM and Ctrl-C do to a command: cancel its task while it starts, and then what it asks for.

    Args:
        task: the command's.

    Attributes:
        asked: a signal came.
    """

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.asked = False
        self._task = task
        self._action: Callable[[], None] | None = None

    def started(self, action: Callable[[], None]) -> None:
        """Have ``action`` called at each signal from now on, and now if one came and its cancellation was swallowed."""
        self._action = action
        if self.asked:
            action()

    def signalled(self) -> None:
        """Take a signal."""
        self.asked = True
        if self._action is None:
            self._task.cancel()
        else:
            self._action()


@contextmanager
def ending_at_signals() -> Iterator[Ending]:
    """Have SIGTERM and Ctrl-C end what the context does, instead of dying of them; for the whole of a command.

    The cancellation that a signal causes ends with the context.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101 - coroutines alone have a running loop
    ending = Ending(task)
    for number in _SIGNALS:
        loop.add_signal_handler(number, ending.signalled)
    try:
        yield ending
    except asyncio.CancelledError:
        if not ending.asked:
            raise
        while task.uncancel():
            pass
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


async def stoppable(work: Coroutine[Any, Any, T]) -> T | None:
    """Return what ``work`` does, or None when a signal ended it."""
    running = asyncio.create_task(work)

    def stop() -> None:
        running.cancel()

    try:
        with ending_at_signals() as ending:
            ending.started(stop)
            await asyncio.wait({running})
    finally:
        await cancel_all({running})
    return None if running.cancelled() else running.result()

"""Ending tasks for certain.

What SIGTERM and Ctrl-C do.

Several asynchronous iterators read at once, a few at a time.

One at a time, by name, inside of one process.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections import deque
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable, Iterator

_PATIENCE = 0.5


async def cancel_all(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until they have ended.

    A cancellation that a library swallows, as redis-py's connecting does at times on Python 3.11, is repeated.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_PATIENCE)


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, None], stop: Callable[[], None], *, within: float) -> AsyncIterator[None]:
    """Have something run for as long as the context lasts.

    Args:
        work: what runs.
        stop: asks it to end.
        within: seconds after which it is cancelled, if it has not.
    """
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        stop()
        try:
            await asyncio.wait({task}, timeout=within)
        finally:
            await cancel_all({task})


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


async def merge_streams(streams: Iterable[AsyncGenerator[T, None]], at_once: int) -> AsyncGenerator[T, None]:
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


class KeyedLock:
    """Locks by name; who fails or is cancelled passes the turn on, and nothing is kept of names that nobody wants."""

    def __init__(self) -> None:
        self._wanted: dict[tuple[str, ...], _Turn] = {}

    @asynccontextmanager
    async def turn(self, *name: str) -> AsyncIterator[None]:
        """Wait for the turn, and have it for as long as the context lasts."""
        turn = self._wanted.setdefault(name, _Turn())
        turn.wanted += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.wanted -= 1
            if not turn.wanted:
                del self._wanted[name]


class _Turn:
    """A lock and how many want it, so that it can be dropped with the last."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.wanted = 0

"""Asyncio building blocks: cancellation, background and concurrent work, signals, merged streams and keyed locks."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections import deque
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from replicator.errors import ReplicatorError
from replicator.retry import MAX_PAUSE, is_transient, waiting

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable, Iterator


T = TypeVar("T")

_CANCEL_INTERVAL = 0.5
"""Seconds after which a cancellation is repeated."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


async def cancel_all(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until they have ended.

    A cancellation is repeated if a library swallows it, as redis-py's connect sometimes does on Python 3.11.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_CANCEL_INTERVAL)


def raise_if_cancelled() -> None:
    """Raise the ``CancelledError`` of this task that a library has swallowed, as `asyncio.wait_for` may on Python 3.11.

    To be called before a long wait: without it the wait would go on until the task is cancelled once more.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


@asynccontextmanager
async def background(
    coroutine: Coroutine[Any, Any, None], stop: Callable[[], None], *, within: float
) -> AsyncIterator[None]:
    """Run a coroutine in the background for as long as the context lasts.

    Args:
        coroutine: the work.
        stop: asks it to end.
        within: seconds until it is cancelled if it has not ended by then.
    """
    task = asyncio.create_task(coroutine)
    try:
        yield
    finally:
        stop()
        try:
            await asyncio.wait({task}, timeout=within)
        finally:
            await cancel_all({task})


class Shutdown:
    """Response of a command to SIGTERM and Ctrl-C: its task is cancelled while it starts, then a callback is called.

    Attributes:
        requested: a signal arrived.
    """

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.requested = False
        self._task = task
        self._callback: Callable[[], None] | None = None

    def on_signal(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` at each signal from now on.

        It is also called now if a signal arrived before and a library swallowed the cancellation.
        """
        self._callback = callback
        if self.requested:
            callback()

    def request(self) -> None:
        """Handle a signal."""
        self.requested = True
        if self._callback is None:
            self._task.cancel()
        else:
            self._callback()


@contextmanager
def graceful_shutdown() -> Iterator[Shutdown]:
    """Handle SIGTERM and Ctrl-C for as long as the context, the whole of a command, lasts.

    A cancellation that a signal caused ends at the end of the context.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101 - only coroutines have a running loop
    shutdown = Shutdown(task)
    before = signal.getsignal(signal.SIGTERM)
    for number in _SIGNALS:
        loop.add_signal_handler(number, shutdown.request)
    try:
        yield shutdown
    except asyncio.CancelledError:
        if not shutdown.requested:
            raise
        # Several signals may have cancelled the task several times.
        while task.uncancel():
            pass
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
        # The loop leaves the default, which the first process of a container ignores.
        signal.signal(signal.SIGTERM, before)


async def stoppable(coroutine: Coroutine[Any, Any, T]) -> T | None:
    """Return the result of ``coroutine``, or None if a signal ended it."""
    task = asyncio.create_task(coroutine)

    def stop() -> None:
        task.cancel()

    try:
        with graceful_shutdown() as shutdown:
            shutdown.on_signal(stop)
            await asyncio.wait({task})
    finally:
        await cancel_all({task})
    return None if task.cancelled() else task.result()


async def merge_streams(streams: Iterable[AsyncGenerator[T, None]], at_once: int) -> AsyncGenerator[T, None]:
    """Yield the items of several streams; each stream keeps its order.

    A stream is read on only after its previous item was consumed, so hardly more than ``at_once`` items are buffered.
    All tasks and streams are closed at the end, also after an error or a cancellation.

    Args:
        streams: opened one after the other, as earlier ones end.
        at_once: streams that are read concurrently.

    Raises:
        Exception: the first failure of a stream.
    """
    buffer: deque[T] = deque()
    room = asyncio.Semaphore(at_once)
    changed = asyncio.Event()
    remaining = iter(streams)

    async def read() -> None:
        for stream in remaining:
            async with contextlib.aclosing(stream):
                async for item in stream:
                    await room.acquire()
                    buffer.append(item)
                    changed.set()

    tasks = [asyncio.create_task(read()) for _ in range(at_once)]
    for task in tasks:
        task.add_done_callback(lambda _: changed.set())
    try:
        while True:
            # Cleared before the buffer is emptied, so that no item arrives unnoticed in between.
            changed.clear()
            while buffer:
                room.release()
                yield buffer.popleft()
            ended = [task for task in tasks if task.done()]
            for task in ended:
                task.result()
            if len(ended) == len(tasks):
                return
            await changed.wait()
    finally:
        await cancel_all(tasks)
        for task in tasks:
            # Only the first failure is raised; asyncio must not log the others as never retrieved.
            _ = task.cancelled() or task.exception()


class KeyedLock:
    """Locks by key within one process; an unused key takes no memory."""

    def __init__(self) -> None:
        self._locks: dict[tuple[str, ...], _CountedLock] = {}

    @asynccontextmanager
    async def hold(self, *key: str) -> AsyncIterator[None]:
        """Hold the lock of a key for as long as the context lasts."""
        counted = self._locks.setdefault(key, _CountedLock())
        counted.users += 1
        try:
            with waiting():
                await counted.lock.acquire()
            try:
                yield
            finally:
                counted.lock.release()
        finally:
            counted.users -= 1
            if not counted.users:
                del self._locks[key]


class _CountedLock:
    """Lock with the number of its holder and waiters; the last of them removes it."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0


First = TypeVar("First")
Second = TypeVar("Second")


async def gather2(one: Coroutine[Any, Any, First], other: Coroutine[Any, Any, Second]) -> tuple[First, Second]:
    """Run two coroutines concurrently; when one fails, cancel the other.

    Raises:
        Exception: the first failure.
    """
    first, second = asyncio.create_task(one), asyncio.create_task(other)
    try:
        await asyncio.gather(first, second)
        return first.result(), second.result()
    finally:
        first.cancel()
        second.cancel()
        await asyncio.gather(first, second, return_exceptions=True)


async def gather_all(coroutines: Iterable[Coroutine[Any, Any, First]]) -> list[First]:
    """Run coroutines concurrently and return their results in order; when one fails, cancel the others.

    Raises:
        Exception: the first failure.
    """
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def gather_tolerant(coroutines: Iterable[Coroutine[Any, Any, object]]) -> None:
    """Run coroutines concurrently and raise the failure that matters most.

    After a transient failure the others finish: what they copy need not be sent again by the next attempt. After any
    other failure no attempt can succeed, so the others are cancelled at once.

    Raises:
        Exception: the first failure that is not transient, else the first one.
    """
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    failures: list[BaseException] = []
    pending: set[asyncio.Task[object]] = set(tasks)
    try:
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_EXCEPTION)
            failures += [error for task in done if not task.cancelled() and (error := task.exception()) is not None]
            if any(not _passes(error) for error in failures):
                break
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if failures:
        raise next((error for error in failures if not _passes(error)), failures[0])


def _passes(error: BaseException) -> bool:
    # A Retry-After longer than MAX_PAUSE is not transient for this copy.
    return isinstance(error, ReplicatorError) and is_transient(error) and (error.retry_after or 0.0) <= MAX_PAUSE


class Shared(Generic[T]):
    """Work that runs once for all concurrent callers; it is cancelled when the last of them has gone.

    Args:
        work: does it.
    """

    def __init__(self, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._work = work
        self._task: asyncio.Task[T] | None = None
        self._waiters: set[object] = set()

    async def result(self) -> T:
        """Return the result of the work that is under way, or of a new one.

        Raises:
            Exception: its failure, the same object for all callers.
        """
        if self._task is None:
            self._task, self._waiters = asyncio.create_task(self._work()), set()
        task, waiters, waiter = self._task, self._waiters, object()
        waiters.add(waiter)
        try:
            await asyncio.wait({task})
        finally:
            waiters.discard(waiter)
            if not waiters:
                task.cancel()
            if self._task is task and (task.done() or not waiters):
                self._task = None
        return task.result()


MOST_THREADS = 32
"""Threads that `in_thread` has at once in one process."""
_REPORT_SECONDS = 0.1

_threads: set[threading.Thread] = set()


class NoThread(Exception):
    """The system has no thread left."""


def has_threads() -> bool:
    """Tell whether `in_thread` may be used."""
    return len(_threads) < MOST_THREADS


async def in_thread(work: Callable[[], T], stops: Iterable[Callable[[], None]], report: Callable[[], None]) -> T:
    """Do work in a thread of its own, which has ended when this returns, and also when this is cancelled.

    Args:
        work: the work.
        stops: they make it end at once; called in the event loop.
        report: called in the event loop, now and then and at the end.

    Raises:
        NoThread: the system allows none; the work has not begun.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - raised where the work is awaited
            errors.append(error)
        loop.call_soon_threadsafe(ended.set_result, None)

    thread = threading.Thread(target=run, name="body", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise NoThread from error
    _threads.add(thread)
    try:
        while not ended.done():
            await asyncio.wait({ended}, timeout=_REPORT_SECONDS)
            report()
    finally:
        while not ended.done():
            for stop in stops:
                stop()
            # A second cancellation does not leave it behind.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({ended})
        thread.join()
        _threads.discard(thread)
    if errors:
        raise errors[0]
    return results[0]

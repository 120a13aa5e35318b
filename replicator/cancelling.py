"""Ending tasks for certain."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable

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

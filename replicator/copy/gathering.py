"""Concurrent work with three ways to fail."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from replicator.errors import ReplicatorError
from replicator.retry import MAX_PAUSE, is_transient

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

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

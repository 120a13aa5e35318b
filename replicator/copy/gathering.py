"""Doing several things at once, and failing well."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from replicator.errors import ErrorClass, ReplicatorError
from replicator.retry import MAX_PAUSE

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

First = TypeVar("First")
Second = TypeVar("Second")


async def gather2(one: Coroutine[Any, Any, First], other: Coroutine[Any, Any, Second]) -> tuple[First, Second]:
    """Run two things at once and return both results; when one fails, the other is ended.

    Raises:
        Exception: the failure, of whichever failed first.
    """
    first, second = asyncio.create_task(one), asyncio.create_task(other)
    try:
        await asyncio.gather(first, second)
        return first.result(), second.result()
    finally:
        first.cancel()
        second.cancel()
        await asyncio.gather(first, second, return_exceptions=True)


async def gather_all(work: Iterable[Coroutine[Any, Any, First]]) -> list[First]:
    """Run everything at once and return the results in order; when one fails, the others are ended.

    Raises:
        Exception: the failure, of whichever failed first.
    """
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def gather_tolerant(work: Iterable[Coroutine[Any, Any, object]]) -> None:
    """Run everything at once and raise the most telling failure.

    A passing fault in one lets the others finish, since what they bring over need not be sent again at the next try;
    any other failure means that no try will succeed as things are, and ends the others at once.

    Raises:
        Exception: the failure; one that is not transient wins over one that is.
    """
    tasks = [asyncio.create_task(one) for one in work]
    failures: list[BaseException] = []
    waiting: set[asyncio.Task[object]] = set(tasks)
    try:
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_EXCEPTION)
            failures += [error for task in done if not task.cancelled() and (error := task.exception()) is not None]
            if any(not _passing(error) for error in failures):
                break
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if failures:
        raise next((error for error in failures if not _passing(error)), failures[0])


def _passing(error: BaseException) -> bool:
    """A registry that wants peace for longer than any request waits does not pass while the others run."""
    return (
        isinstance(error, ReplicatorError)
        and error.error_class is ErrorClass.TRANSIENT
        and (error.retry_after or 0.0) <= MAX_PAUSE
    )

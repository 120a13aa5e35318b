"""How patiently the OpenAPI is asked."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from replicator.errors import ErrorClass
from replicator.registry.errors import ConnectionFailed, RegistryError, TooManyRequests
from replicator.registry.limits import backoff

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

DEADLINE = 30.0
"""Seconds that all tries of one request have."""
_TRIES = 3
_THROTTLED = 1.0
"""Seconds to begin with after a request that was one too many: its limit is one a second."""


async def patiently(once: Callable[[], Awaitable[T]], registry: str, action: str, deadline: float) -> T:
    """Ask until there is an answer: three times at the most, and while it is throttled, for as long as there is time.

    Args:
        once: asks.
        registry: the host the rules name, for the error.
        action: the operation, for the error.
        deadline: seconds that all of it has.

    Raises:
        RegistryError: what ``once`` raised last; or there was no answer in time.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline
    attempt = 0
    try:
        async with asyncio.timeout_at(end):
            while True:
                attempt += 1
                try:
                    return await once()
                except RegistryError as error:
                    throttled = isinstance(error, TooManyRequests)
                    wait = max(backoff(attempt, base=_THROTTLED if throttled else 0.2), error.retry_after or 0.0)
                    tried = attempt >= _TRIES and not throttled
                    # Who has no time left for another try says why, rather than that there was no answer.
                    if error.error_class is not ErrorClass.TRANSIENT or tried or loop.time() + wait >= end:
                        raise
                    await asyncio.sleep(wait)
    except TimeoutError as error:
        raise ConnectionFailed(registry, action, f"the OpenAPI did not answer in {deadline:g} s") from error

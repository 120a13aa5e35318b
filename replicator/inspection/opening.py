"""The way to the queue for commands that only look: a queue that nobody has used is a mistake in the options."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from replicator.errors import ConfigError, Problem
from replicator.runtime import open_queue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from replicator.queue import Queue
    from replicator.settings import Settings


@asynccontextmanager
async def existing_queue(settings: Settings) -> AsyncIterator[Queue]:
    """Open the queue that the settings name; an embedded one at rest is started for as long as the context lasts.

    Raises:
        ConfigError: the settings can't be used, or the state directory does not exist. It is not made: what is asked
            for would be found empty, and be no one's answer.
        QueueError: the embedded server does not start.
    """
    if settings.redis_url is None and not settings.state_dir.exists():
        message = (
            "does not exist, so no replicator has run with it; run this as the user of the service and with its "
            "settings (--state-dir or REPLICATOR_STATE_DIR, or the Redis URL)"
        )
        raise ConfigError(f"state directory {settings.state_dir}", [Problem("", message)])
    async with open_queue(settings) as queue:
        yield queue

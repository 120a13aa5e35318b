"""The parts put together: what every command that copies needs, opened and closed in the right order."""

from __future__ import annotations

import asyncio
import signal
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from replicator import __version__
from replicator.copy import Copier
from replicator.queue import Lane, Queue, RetryPolicy, Worker, embedded_server
from replicator.registry import Registries, Timing
from replicator.replication import Handler, access_by

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from replicator.reference import Repository
    from replicator.registry import Access
    from replicator.rules import Rules
    from replicator.settings import Settings

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def retry_policy(settings: Settings) -> RetryPolicy:
    """Say when copies that failed are tried again."""
    return RetryPolicy(horizon=settings.retry_for, not_yet_horizon=settings.retry_for)


@asynccontextmanager
async def open_queue(settings: Settings) -> AsyncIterator[Queue]:
    """Open the queue: at the Redis that the settings name, or in an embedded server.

    Raises:
        ConfigError: the settings can't be used.
        QueueError: the embedded server does not start.
    """
    if settings.redis_url is not None:
        url = settings.redis_url.get_secret_value()
        async with await Queue.connect(url, prefix=settings.redis_prefix) as queue:
            yield queue
        return
    async with (
        embedded_server(settings.state_dir) as url,
        await Queue.connect(url, prefix=settings.redis_prefix) as queue,
    ):
        yield queue


@asynccontextmanager
async def open_registries(
    settings: Settings, access: Callable[[Repository], Access]
) -> AsyncIterator[tuple[Registries, Copier]]:
    """Open the way to the registries, and a copier over it.

    Args:
        settings: time limits and numbers at once.
        access: how each registry is reached, and as whom.
    """
    timing = Timing(
        connect=settings.connect_timeout,
        read=settings.read_timeout,
        write=settings.read_timeout,
        # A tag's write must be over before anyone else can hold the lease on its destination.
        tag=min(20.0, settings.lease * 2 / 3),
    )
    async with Registries(access, user_agent=f"replicator/{__version__}", timing=timing) as registries:
        yield registries, Copier(registries, transfers=settings.transfers)


@asynccontextmanager
async def open_worker(
    settings: Settings,
    rules: Rules,
    queue: Queue,
    *,
    concurrency: Mapping[Lane, int],
    policy: RetryPolicy | None = None,
) -> AsyncIterator[Worker]:
    """Make a worker that copies; who opens it runs it.

    Args:
        settings: time limits.
        rules: whose credentials it uses, and beyond whose hosts it goes nowhere.
        queue: where its work is.
        concurrency: copies at once, by lane.
        policy: when a failed copy is tried again.
    """
    async with open_registries(settings, access_by(rules.credentials)) as (registries, copier):
        yield Worker(
            queue,
            Handler(registries, copier),
            concurrency=concurrency,
            policy=policy or retry_policy(settings),
            lease=settings.lease,
            drain=settings.drain_timeout,
            timeout=settings.copy_timeout,
        )


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

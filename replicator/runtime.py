"""The parts put together: what every command that copies needs, opened and closed in the right order."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from replicator.queue import Lane, Queue, RetryPolicy, Worker, embedded_server
from replicator.replication import Handler
from replicator.transfer import access_by, open_registries

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from replicator.rules import Rules
    from replicator.settings import Settings


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

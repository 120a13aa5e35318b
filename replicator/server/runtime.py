"""The parts put together: what every command that copies needs, opened and closed in the right order."""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

from replicator.queue import (
    Observations,
    Queue,
    RedisBlobLocks,
    RedisSelectionStore,
    RetryPolicy,
    Worker,
    embedded_server,
)
from replicator.replication.job import Handler, describe
from replicator.replication.transfer import access_by, open_registries

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from replicator.copy import Copier
    from replicator.queue import AttemptObserver, Lane
    from replicator.registry import Registries, RequestObserver
    from replicator.rules import Rules
    from replicator.server.traces import Traces
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
async def open_copier(
    settings: Settings, rules: Rules, queue: Queue, observer: RequestObserver | None = None
) -> AsyncIterator[tuple[Registries, Copier]]:
    """Open the way to the registries that the rules name, and a copier that shares what it knows through the queue.

    Args:
        settings: time limits and numbers at once.
        rules: whose credentials are used, and beyond whose hosts nothing goes.
        queue: whose Redis the processes share.
        observer: told of every request.
    """
    async with (
        aclosing(RedisSelectionStore(queue)) as memory,
        open_registries(settings, access_by(rules.credentials), RedisBlobLocks(queue), memory, observer) as opened,
    ):
        yield opened


@asynccontextmanager
async def open_checks(queue: Queue) -> AsyncIterator[Observations]:
    """Open what this installation has seen to be right at destinations, and tell the rest of it at the end.

    Args:
        queue: whose Redis the processes share.
    """
    async with aclosing(Observations(queue)) as checks:
        yield checks


def make_worker(
    settings: Settings,
    queue: Queue,
    copier: Copier,
    *,
    concurrency: Mapping[Lane, int],
    policy: RetryPolicy | None = None,
    checks: Observations | None = None,
    observer: AttemptObserver | None = None,
    traces: Traces | None = None,
) -> Worker:
    """Make a worker that copies; who makes it runs it.

    Args:
        settings: time limits.
        queue: where its work is.
        copier: does the copies.
        concurrency: copies at once, by lane.
        policy: when a failed copy is tried again.
        checks: learns what is seen at destinations. Without it nothing is told; what others saw of a tag is void in any
            case before the tag is written.
        observer: told how tries end.
        traces: have a span for each copy; None without traces.
    """
    handler = Handler(copier, checks)
    return Worker(
        queue,
        handler if traces is None else traces.around_handler(handler),
        concurrency=concurrency,
        policy=policy or retry_policy(settings),
        lease=settings.lease,
        drain=settings.drain_timeout,
        timeout=settings.copy_timeout,
        describe=describe,
        observer=observer,
    )

"""The parts that every copying command needs, opened and closed in the right order."""

from __future__ import annotations

import asyncio
import socket
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING

from replicator.queue import (
    FIRST_SHARE,
    InForce,
    Observations,
    PushNews,
    Queue,
    RedisBlobLocks,
    RedisLogins,
    RedisRefusedStore,
    RedisSelectionStore,
    RedisSurveyStore,
    RetryPolicy,
    Worker,
    embedded_server,
    open_wait_reporter,
    sharing,
)
from replicator.queue.memory import watch_for_older_state
from replicator.queue.state_directory import Faults, Mark
from replicator.tasks import cancel_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from replicator.copy import Copier
    from replicator.queue import AttemptObserver, JsonValue, Lane, Running
    from replicator.registry import Registries, RequestObserver
    from replicator.registry.circuit import Silence
    from replicator.replication.repositories import Neighbours
    from replicator.rules import Rules
    from replicator.settings import Settings


def retry_policy(settings: Settings) -> RetryPolicy:
    """Return when failed copies are retried."""
    return RetryPolicy(horizon=settings.retry_for, not_yet_horizon=settings.retry_for)


@asynccontextmanager
async def open_queue(settings: Settings) -> AsyncIterator[Queue]:
    """Open the queue: on the Redis that the settings name, or else in an embedded server.

    Raises:
        ConfigError: the settings can't be used.
        QueueError: the embedded server does not start.
    """
    if settings.redis_url is not None:
        url = settings.redis_url.get_secret_value()
        replicas = settings.redis_replicas
        async with (
            await Queue.connect(url, prefix=settings.redis_prefix, replicas=replicas) as queue,
            watch_for_older_state(queue),
        ):
            yield queue
        return
    async with (
        embedded_server(settings.state_dir, settings.queue_server) as url,
        await Queue.connect(url, prefix=settings.redis_prefix, replicas=0) as queue,
    ):
        queue.fault = Faults(settings.state_dir)
        async with watch_for_older_state(queue, Mark(settings.state_dir, settings.redis_prefix)):
            yield queue


def origin_of(settings: Settings) -> str:
    """Return a digest of the place of the rules file: on this machine, by its directory, which edits do not replace.

    Its present content is a later version of what was there before, even if nothing of that is left.
    """
    file = settings.config or settings.images
    try:
        place = file.absolute().parent.stat() if file is not None else None
    except OSError:
        place = None
    if file is None or place is None:
        return ""
    text = f"{socket.gethostname()} {place.st_dev} {place.st_ino} {file.name}"
    return sha256(text.encode()).hexdigest()[:12]


@asynccontextmanager
async def open_copier(
    settings: Settings,
    rules: Rules,
    queue: Queue,
    observer: RequestObserver | None = None,
    neighbours: Neighbours | None = None,
    recovered: Callable[[str], None] | None = None,
) -> AsyncIterator[tuple[Registries, Copier]]:
    """Open the registries and a copier that shares locks and caches with all processes on the queue.

    Args:
        settings: timeouts and concurrency.
        rules: whose credentials are used; no other host is contacted.
        queue: whose Redis holds what is shared.
        observer: told of every request.
        neighbours: names repositories that may have blobs to mount; None for the destinations of the rules.
        recovered: see `LoginPatience`; given by processes that run for years, which also try again a login that has
            never worked.
    """
    # Imported here: commands that only look into the queue have no use for the copy engine.
    from replicator.registry import RequestObserver
    from replicator.registry.ladder import LoginPatience
    from replicator.replication.repositories import Neighbours
    from replicator.replication.transfer import Shared, access_by, open_registries, rates_of

    access, neighbours = access_by(rules.credentials), neighbours or Neighbours(rules)
    rates = rates_of(settings)
    rates.first_share = FIRST_SHARE
    async with (
        aclosing(RedisSelectionStore(queue)) as selections,
        aclosing(RedisSurveyStore(queue)) as surveys,
        aclosing(RedisLogins(queue)) as logins,
        aclosing(RedisRefusedStore(queue)) as refused,
        open_wait_reporter(queue) as waits,
        sharing(queue, rates.items) as shares,
    ):

        def silent(registry: str, silence: Silence | None) -> None:
            if silence is None:
                waits.end(registry)
            else:
                facts = {"since": silence.since, "probe_in": silence.probe_in}
                waits.begin(registry, **facts, is_open=silence.is_open, why=silence.why)

        observer = replace(observer or RequestObserver(), silent=silent)
        shared = Shared(RedisBlobLocks(queue), selections, surveys, refused)
        patience = LoginPatience(logins, shared=True, patient=recovered is not None, recovered=recovered)
        async with (
            open_registries(settings, access, shared, neighbours, observer, rates, patience) as opened,
            _push_news(queue, opened[0]),
        ):
            rates.on_start = shares.wake
            yield opened


@asynccontextmanager
async def _push_news(queue: Queue, registries: Registries) -> AsyncIterator[None]:
    """Tell the other processes of this one's pushes, and have its bulk give way to theirs, while the context lasts."""
    news = PushNews(queue, registries.note_pushes_elsewhere)
    tasks = [
        asyncio.create_task(news.hear(), name="push news"),
        asyncio.create_task(news.tell(registries.pushes), name="push news"),
    ]
    try:
        yield
    finally:
        await cancel_all(tasks)


@asynccontextmanager
async def open_checks(queue: Queue) -> AsyncIterator[Observations]:
    """Open the shared observations of destinations; the last ones are written at the end."""
    async with aclosing(Observations(queue)) as checks:
        yield checks


def make_worker(
    settings: Settings,
    queue: Queue,
    handler: Callable[[Running], Awaitable[Mapping[str, JsonValue]]],
    *,
    concurrency: Mapping[Lane, int],
    policy: RetryPolicy | None = None,
    observer: AttemptObserver | None = None,
    in_force: InForce | None = None,
) -> Worker:
    """Make a worker; the caller runs it.

    Args:
        settings: timeouts, and the retry policy unless ``policy`` is given.
        queue: holds the jobs.
        handler: does one job, see `replicator.replication.job.Handler`.
        concurrency: copies at once in each lane.
        policy: when a failed copy is retried.
        observer: told of every finished attempt.
        in_force: the rules that the handler has in force.
    """
    from replicator.replication.job import answered, describe

    return Worker(
        queue,
        handler,
        concurrency=concurrency,
        policy=policy or retry_policy(settings),
        lease=settings.lease,
        drain=settings.drain_timeout,
        timeout=settings.copy_timeout,
        describe=describe,
        answered=answered,
        observer=observer,
        configuration=lambda: "" if in_force is None else in_force.digest,
    )

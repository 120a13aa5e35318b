"""The parts that copying commands need, opened and closed in the right order; and the rules that processes accept."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import tempfile
import time
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from replicator.errors import ConfigError
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
from replicator.queue.observations import watch_for_older_state
from replicator.queue.state_directory import Faults, Mark
from replicator.tasks import cancel_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from replicator.copy import Copier
    from replicator.queue import AttemptObserver, JsonValue, Lane, Running
    from replicator.registry import Registries, RequestObserver
    from replicator.registry.circuit import Silence
    from replicator.replication.backfill import Backfill
    from replicator.replication.repositories import Neighbours
    from replicator.rules import Rules
    from replicator.rules.defaults import RulesOptions
    from replicator.rules.loading import Version
    from replicator.server.reload import Configuration
    from replicator.settings import Settings
    from replicator.tasks import Shutdown

_LAST_RESULTS_SECONDS = 1.0
"""Time for the results of the last copies to arrive after a signal."""
_ACCEPTED = "accepted-rules"
"""Name of the accepted rules in the state directory; no name of a rules file, as that may be the same directory."""


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

    Its present content is a later version of the earlier content, even if none of that is left.
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
        observer: called with every request.
        neighbours: names repositories that may have blobs to mount; None for the destinations of the rules.
        recovered: see `LoginPatience`; given by processes that run for years, which also try again a login that has
            never worked.
    """
    # Imported here: commands that only look into the queue have no use for the copy engine.
    from replicator.aliyun.acr import EDITIONS
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
        EDITIONS.shared(refused, rules.hosts),
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
        observer: called with every finished attempt.
        in_force: the rules that the handler has in force.
    """
    from replicator.replication.enqueue import answered
    from replicator.replication.job import describe

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


class AcceptedRules:
    """The last accepted versions of the rules files: for a reload in memory, for a start in the state directory.

    They may hold passwords, so they are kept where only this user can read them, and nowhere else.

    Args:
        settings: whose state directory. With a Redis elsewhere it may not be set, or can't be written to; then nothing
            is kept.
    """

    def __init__(self, settings: Settings) -> None:
        self._is_needed = settings.redis_url is None
        has_directory = self._is_needed or "state_dir" in settings.model_fields_set
        self._file = settings.state_dir / _ACCEPTED if has_directory else None
        self._accepted: Mapping[str, Version] | None = None
        self._written = b""

    def load(self, settings: Settings, options: RulesOptions, *, strict: bool = False) -> Configuration:
        """Read the rules files; of those that can't be used, take the last accepted version.

        Args:
            settings: where they are.
            options: see `settle`.
            strict: whether a file that can't be used is an error.

        Raises:
            ConfigError: no rules are left, or not all of them if ``strict``; with every problem.
        """
        # Imported here: commands that only look into the queue have no use for rules.
        from replicator.rules.document import find_files
        from replicator.rules.loading import settle
        from replicator.server.reload import Configuration, marks, watched_files

        # The marks first: a file that changes while the rules are read must be noticed as changed.
        seen = marks(watched_files(settings))
        config, paths = settings.config, (settings.config, settings.auth, settings.images)
        source = " and ".join(str(path) for path in paths if path is not None)
        # Another working directory names another file.
        place = " and ".join(str(path.absolute()) for path in paths if path is not None)
        if self._accepted is None:
            self._accepted = self._read(place)
        try:
            files, _ = find_files(config, auth=settings.auth, images=settings.images)
        except ConfigError as error:
            if strict or not self._accepted or error.source not in map(str, paths):
                raise
            files = [replace(former.file, texts={}, problems=error.problems) for former in self._accepted.values()]
        found = settle(files, source, self._accepted, options, time.time())
        if strict and found.refused:
            raise ConfigError(source, [problem for each in found.refused for problem in each.problems])
        refused = {str(config / each.file) if config and each.file else source: each for each in found.refused}
        return Configuration(
            settings,
            found.rules,
            seen,
            refused,
            len(refused) == len(files),
            lambda: self._accept(place, found.accepted),
        )

    def _accept(self, place: str, accepted: Mapping[str, Version]) -> None:
        self._accepted = accepted
        files = [
            [name, version.accepted, str((version.file.folder or Path()).absolute()), dict(version.file.texts)]
            for name, version in accepted.items()
        ]
        content = json.dumps({"rules": place, "files": files}).encode()
        if self._file is None or content == self._written:
            return
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Its mode is 0600 from the first byte on.
            number, name = tempfile.mkstemp(prefix=f".{_ACCEPTED}-", dir=self._file.parent)
            try:
                with open(number, "wb") as file:  # noqa: PTH123 - it is open
                    file.write(content)
                    file.flush()
                    os.fsync(number)
                Path(name).replace(self._file)
            except OSError:
                Path(name).unlink()
                raise
        except OSError as error:
            if self._is_needed:
                log = structlog.get_logger("replicator.reload")
                log.warning("accepted rules not kept", file=str(self._file), reason=error.strerror or str(error))
            return
        self._written = content

    def _read(self, place: str) -> dict[str, Version]:
        """Return what an earlier process has accepted under the same name."""
        from replicator.rules.document import RulesFile
        from replicator.rules.loading import Version

        try:
            content = json.loads(self._file.read_bytes()) if self._file is not None else {}
            if content.get("rules") != place:
                return {}
            return {
                name: Version(RulesFile(name, dict(texts.items()), Path(folder)), float(accepted))
                for name, accepted, folder, texts in content["files"]
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}


async def run_with_worker(worker: Worker, task: Backfill, shutdown: Shutdown) -> None:
    """Run a backfill and a worker for its copies.

    A signal stops both, and so does a failure under ``--fail-fast``; running copies get the drain timeout.
    """
    listing = asyncio.create_task(task.run())
    working = asyncio.create_task(worker.run())
    failing = asyncio.create_task(task.failed_fast.wait())

    def stop() -> None:
        task.stop()
        worker.stop()

    try:
        shutdown.on_signal(stop)
        await asyncio.wait({listing, working, failing}, return_when=asyncio.FIRST_COMPLETED)
        if failing.done() and not shutdown.requested:
            worker.stop()
        await asyncio.wait({listing, working}, return_when=asyncio.FIRST_COMPLETED)
        if not listing.done():
            # The worker has stopped, but the results of its last copies are still on their way.
            await asyncio.wait({listing}, timeout=_LAST_RESULTS_SECONDS)
            await cancel_all({listing})
        else:
            worker.stop()
        await asyncio.wait({listing, working})
    finally:
        worker.stop()
        await cancel_all({listing, failing})
        await asyncio.wait({working})
    working.result()
    if not listing.cancelled():
        listing.result()

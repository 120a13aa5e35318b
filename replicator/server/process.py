"""The long-running processes: ``serve`` is the webhook with a worker beside it, ``worker`` is a worker alone.

Both expose probes and metrics, at the webhook's address or one of their own, and take part in electing the process
that runs the scheduled reconcile.

At SIGTERM or SIGINT the worker starts no more copies and the running ones get the drain time; until then events are
still accepted, because the queue keeps them for any worker. A second signal ends the process at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import structlog

from replicator import __version__
from replicator.harbor.registration import needed_for_policies, open_registrar
from replicator.networks import shown_url
from replicator.queue import InForce, Lane, announced, hearing
from replicator.queue.connection import open_redis
from replicator.queue.move import left_behind
from replicator.registry.proxies import Proxies
from replicator.replication.job import Handler
from replicator.replication.listing import warn_of_collisions
from replicator.replication.publicity import Publicity, open_publicity
from replicator.replication.reconciler import Reconciler
from replicator.replication.repositories import Neighbours
from replicator.replication.sweep import Sweeper
from replicator.replication.transfer import access_by
from replicator.schedule import parse_interval
from replicator.server.api import Api
from replicator.server.api.images import Images
from replicator.server.app import Readiness, Webhook, create_app, create_probes_app
from replicator.server.auth import ApiAuth, PageAuth, WebhookAuth
from replicator.server.cloudevents import open_sender
from replicator.server.http import Server, certificate_of, listen
from replicator.server.metrics import Metrics
from replicator.server.notify import open_notifier
from replicator.server.page import StatusPage
from replicator.server.reload import RefusedLogins, Reloader
from replicator.server.runtime import make_worker, open_checks, open_copier, open_queue, origin_of
from replicator.server.traces import open_traces
from replicator.settings import variables
from replicator.tasks import cancel_all, graceful_shutdown

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Callable, Collection, Coroutine

    from yarl import URL

    from replicator.copy import Copier
    from replicator.harbor.registration import Registrar
    from replicator.queue import Observations, Queue, Worker
    from replicator.registry import Registries
    from replicator.rules import Rules
    from replicator.server.reload import Configuration
    from replicator.server.traces import Traces
    from replicator.settings import Settings

log = structlog.get_logger("replicator")


async def serve(first: Configuration, load: Callable[[], Configuration], *, lanes: Collection[Lane]) -> None:
    """Serve the webhook until a signal.

    Args:
        first: the configuration at the start.
        load: reads it again.
        lanes: those whose copies this process makes too; none for the webhook alone.

    Raises:
        ConfigError: there is no webhook token, webhook policies can't be registered with these settings, an address
            can't be bound, or the queue's settings are wrong.
        QueueError: the embedded queue does not start.
    """
    _ignore_sighup()
    settings, rules = first.settings, first.rules
    needed_for_policies(settings)
    auth, certificate = WebhookAuth.of(settings), certificate_of(settings)
    if auth.is_open:
        log.warning("webhook open to everyone", reason="REPLICATOR_WEBHOOK_ANONYMOUS")
    log.info("starting", version=__version__, sources=len(rules.sources()), makes_copies=bool(lanes))
    # The port first: a second instance fails here, before it opens the queue of the first.
    with (
        contextlib.closing(listen(settings.listen, "REPLICATOR_LISTEN")) as listener,
        _probes_listener(settings) as probes_listener,
        graceful_shutdown() as shutdown,
    ):
        async with _open(settings, rules, lanes) as parts, hearing(parts.queue) as arrivals:
            worker = parts.worker if lanes else None
            stopping = _Stopping(parts.queue, worker, parts.reconciler, parts.sweeper)
            webhook = Webhook(rules, parts.queue, auth, parts.metrics.deliveries.delivered, parts.trace, arrivals.note)
            page = StatusPage(parts.queue, rules, PageAuth.of(settings))
            api = Api(parts.queue, Images(parts.queue, parts.copier, parts.checks, rules), rules, ApiAuth.of(settings))

            def apply(new: Configuration) -> None:
                # Everything that can fail comes first: a configuration is applied as a whole or not at all.
                webhook_auth, page_auth = WebhookAuth.of(new.settings), PageAuth.of(new.settings)
                api_auth = ApiAuth.of(new.settings)
                if certificate is not None:
                    certificate.renew()
                parts.renew(new)
                page.renew(new.rules, page_auth)
                api.renew(new.rules, api_auth)
                webhook.renew(new.rules, webhook_auth)

            reloader = Reloader(first, load, apply)
            app = create_app(
                webhook,
                stopping.readiness,
                metrics=parts.metrics.expose if probes_listener is None else None,
                access_log=settings.access_log,
                more=[*page.routes(), *api.routes()],
            )
            if parts.traces is not None:
                app = parts.traces.around_app(app)
            server = Server(app, _log_webhook, certificate=certificate, proxies=settings.trusted_proxies)
            async with _beside("serve", settings, probes_listener, parts, stopping, reloader):
                shutdown.on_signal(stopping.stop)
                await _run(server, listener, stopping, worker)
    log.info("stopped")


async def work(first: Configuration, load: Callable[[], Configuration], *, lanes: Collection[Lane]) -> None:
    """Copy what is queued until a signal.

    Args:
        first: the configuration at the start.
        load: reads it again.
        lanes: those whose copies it makes.

    Raises:
        ConfigError: the queue's settings are wrong, webhook policies can't be registered with these settings, or the
            address of the probes can't be bound.
        QueueError: the embedded queue does not start.
    """
    _ignore_sighup()
    settings = first.settings
    needed_for_policies(settings)
    log.info("starting", version=__version__)
    with _probes_listener(settings) as probes_listener, graceful_shutdown() as shutdown:
        async with _open(settings, first.rules, lanes) as parts:
            stopping = _Stopping(parts.queue, parts.worker, parts.reconciler, parts.sweeper)
            reloader = Reloader(first, load, parts.renew)
            async with _beside("worker", settings, probes_listener, parts, stopping, reloader):
                shutdown.on_signal(stopping.stop)
                await parts.worker.run()
    log.info("stopped")


class _Stopping:
    """Stops the work of this process, and tells its readiness probe."""

    def __init__(self, queue: Queue, worker: Worker | None, *planners: Reconciler | Sweeper | None) -> None:
        self.readiness = Readiness(queue, self._problems)
        self._worker = worker
        self._planners = planners
        self.event = asyncio.Event()

    def _problems(self) -> list[str]:
        return ["this process is stopping"] if self.event.is_set() else []

    def stop(self) -> None:
        """Begin to stop; the second call stops at once."""
        log.info("stopping", at_once=self.event.is_set())
        self.event.set()
        for planner in self._planners:
            if planner is not None:
                planner.stop()
        if self._worker is not None:
            self._worker.stop()


@dataclass(frozen=True, slots=True)
class _Parts:
    """The parts of both processes."""

    queue: Queue
    metrics: Metrics
    traces: Traces | None
    registries: Registries
    copier: Copier
    checks: Observations
    worker: Worker
    reconciler: Reconciler
    sweeper: Sweeper | None
    in_force: InForce
    handler: Handler
    rules: Rules
    neighbours: Neighbours
    publicity: Publicity
    registrar: Registrar | None
    refused: RefusedLogins
    has_redis: bool

    def trace(self) -> str | None:
        """Return the current trace's ``traceparent``; None without traces."""
        return self.traces.carrier() if self.traces is not None else None

    def limits(self) -> str:
        """Say which limits of bandwidth and requests are in force."""
        return self.registries.rates.describe(datetime.now(UTC))

    def renew(self, new: Configuration) -> None:
        """Use another configuration for copies and reconciles that start from now on.

        Raises:
            ConfigError: it can't be used; nothing has changed.
        """
        # What may refuse goes first.
        proxies = Proxies.from_environ(variables())
        url = new.settings.redis_url if self.has_redis else None
        redis = open_redis(url.get_secret_value()) if url is not None else None
        if self.registrar is not None:
            self.registrar.renew(new.settings, new.rules)
        if redis is not None:
            self.queue.renew(redis)
        self.registries.renew(access_by(new.rules.credentials), proxies)
        self.registries.rates.renew(new.settings.upload_limits, new.settings.request_limits)
        self.handler.renew(new.rules)
        self.reconciler.renew(new.rules)
        if self.sweeper is not None:
            self.sweeper.renew(new.rules)
        self.neighbours.renew(new.rules)
        self.publicity.renew(new.rules)
        self.refused.renew(new.rules)
        self.metrics.add_labels(new.rules)


@contextlib.asynccontextmanager
async def _open(settings: Settings, rules: Rules, lanes: Collection[Lane]) -> AsyncIterator[_Parts]:
    """Open the parts and close them in the right order; nothing runs yet."""
    most = {Lane.EVENTS: settings.concurrency, Lane.BACKFILL: settings.backfill_concurrency}
    concurrency = {lane: most[lane] for lane in lanes}
    async with open_traces() as traces, open_queue(settings) as queue:
        metrics = Metrics(rules, queue, settings.schedule)
        if settings.redis_url is None:
            metrics.watch_disk(settings.state_dir)
        observer = metrics.requests.observer
        requests = observer if traces is None else traces.around_observer(observer)
        neighbours = Neighbours(rules)
        async with (
            contextlib.aclosing(RefusedLogins(queue, rules)) as refused,
            open_copier(settings, rules, queue, requests, neighbours, refused.recovered) as (registries, copier),
            open_checks(queue) as checks,
            open_publicity(queue, registries, rules) as publicity,
        ):
            refused.begin()

            def waiting(host: str, lane: Lane) -> int:
                return registries.waiting(host, bulk=lane is Lane.BACKFILL)

            metrics.requests.watch_waiting(waiting)
            in_force = InForce(queue, rules.digest, rules.parts, origin=origin_of(settings))
            handler = Handler(copier, checks, rules, in_force, publicity)
            worker = make_worker(
                settings,
                queue,
                handler if traces is None else traces.around_handler(handler),
                concurrency=concurrency,
                observer=metrics.attempts,
                in_force=in_force,
            )
            worker.waiting = lambda: {lane: registries.waiting(bulk=lane is Lane.BACKFILL) for lane in Lane}
            registrar = open_registrar(settings, rules, registries)
            reconciler = Reconciler(
                settings.schedule,
                rules,
                copier,
                queue,
                checks,
                registrar=registrar,
                replaces=settings.reconcile_replaces,
                lease=settings.lease,
            )
            every = parse_interval(settings.sweep)
            sweeper = Sweeper(every, rules, copier, queue, checks) if every is not None else None
            yield _Parts(
                queue=queue,
                metrics=metrics,
                traces=traces,
                registries=registries,
                copier=copier,
                checks=checks,
                worker=worker,
                reconciler=reconciler,
                sweeper=sweeper,
                in_force=in_force,
                handler=handler,
                rules=rules,
                neighbours=neighbours,
                publicity=publicity,
                registrar=registrar,
                refused=refused,
                has_redis=settings.redis_url is not None,
            )


@contextlib.asynccontextmanager
async def _beside(
    command: str,
    settings: Settings,
    probes_listener: socket.socket | None,
    parts: _Parts,
    stopping: _Stopping,
    reloader: Reloader,
) -> AsyncIterator[None]:
    """Run everything beside the webhook and the worker while the context lasts."""
    parts.metrics.watch_process(command, reloader.status, settings.tls_certificate)
    parts.metrics.watch_limits(parts.registries.rates.timetable)
    async with (
        _probes(settings, probes_listener, parts, stopping),
        open_notifier(settings, parts.queue, reloader.status),
        open_sender(settings, parts.queue, parts.metrics),
        parts.reconciler.beside(),
        parts.sweeper.beside() if parts.sweeper is not None else contextlib.nullcontext(),
        reloader.beside(),
        announced(parts.queue, command, __version__, reloader.status, parts.limits, parts.in_force),
    ):
        looking = {
            asyncio.create_task(_tell_of_left_work(settings), name="left work"),
            asyncio.create_task(warn_of_collisions(parts.rules, parts.registries), name="collisions"),
        }
        try:
            yield
        finally:
            await cancel_all(looking)


async def _tell_of_left_work(settings: Settings) -> None:
    """Say that the state directory has jobs which the queue in Redis does not know."""
    if settings.redis_url is None:
        return
    left = await left_behind(settings.state_dir, settings.redis_prefix, settings.queue_server)
    if left is not None:
        log.warning("work left in the state directory", **left.to_json(), next=left.sentence)


@contextlib.asynccontextmanager
async def _probes(
    settings: Settings, listener: socket.socket | None, parts: _Parts, stopping: _Stopping
) -> AsyncIterator[None]:
    """Serve probes and metrics on a listener of their own, if there is one, while the context lasts."""
    if listener is None:
        yield
        return
    app = create_probes_app(stopping.readiness, metrics=parts.metrics.expose, access_log=settings.access_log)
    server = Server(app, _log_probes)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await asyncio.wait({serving})
    # Outside of the finally block: it must not replace an error of the context.
    serving.result()


async def _run(server: Server, listener: socket.socket, stopping: _Stopping, worker: Worker | None) -> None:
    """Run server and worker; when one ends, so does the other."""
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    # The listener stays open until the last copy has ended or was handed back: a push during the drain time is queued.
    work: Coroutine[Any, Any, object] = worker.run() if worker is not None else stopping.event.wait()
    working = asyncio.create_task(work)
    try:
        await asyncio.wait({serving, working}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        if worker is not None and not working.done():
            worker.stop()
        server.should_exit = True
        await asyncio.wait({serving, working})
    working.result()
    serving.result()


def _ignore_sighup() -> None:
    """Ignore SIGHUP until the reloader handles it: its default action would end a process that is still starting."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _probes_listener(settings: Settings) -> contextlib.AbstractContextManager[socket.socket | None]:
    """Bind the address of the probes and metrics, if they have one of their own."""
    if settings.metrics_listen is None:
        return contextlib.nullcontext()
    return contextlib.closing(listen(settings.metrics_listen, "REPLICATOR_METRICS_LISTEN"))


def _log_webhook(url: URL) -> None:
    webhook, page = shown_url(url, "/webhooks/harbor"), shown_url(url, "/")
    log.info("listening", address=url.authority, webhook=webhook, status_page=page)


def _log_probes(url: URL) -> None:
    log.info("listening for probes", address=url.authority, metrics=shown_url(url, "/metrics"))

"""The long-running processes: ``serve``, the webhook with a worker beside it, and ``worker`` alone.

Each runs the scheduled reconcile too, when it is due and no other process on the queue does.

Both serve probes and metrics: at the webhook's address, or at one of their own.

At SIGTERM or SIGINT the worker takes no new copies and gives the running ones the drain time; until then events are
still taken, as they are durable in the queue whoever copies them. A second signal ends at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from replicator import __version__
from replicator.harbor.registration import needed_for_policies, open_registrar
from replicator.queue import Lane, LoadedConfig, announced
from replicator.replication.reconciler import Reconciler
from replicator.replication.transfer import access_by
from replicator.server.app import Webhook, create_app, create_probes_app
from replicator.server.auth import WebhookAuth
from replicator.server.http import Server, certificate_of, listen
from replicator.server.metrics import Metrics
from replicator.server.notify import open_notifier
from replicator.server.page import PageAuth, StatusPage
from replicator.server.reload import Reloader
from replicator.server.runtime import make_worker, open_checks, open_copier, open_queue
from replicator.server.traces import open_traces
from replicator.tasks import graceful_shutdown

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Callable

    from yarl import URL

    from replicator.harbor.registration import Registrar
    from replicator.queue import Queue, Worker
    from replicator.registry import Registries
    from replicator.rules import Rules
    from replicator.server.reload import Configuration
    from replicator.server.traces import Traces
    from replicator.settings import Settings

log = structlog.get_logger("replicator")


class _Process:
    """What runs in this process, and whether it is about to end. A `replicator.server.app.Liveness`."""

    def __init__(self, worker: Worker | None, reconciler: Reconciler) -> None:
        self._worker = worker
        self._reconciler = reconciler
        self.stopping = asyncio.Event()

    def problems(self) -> list[str]:
        """Tell a probe that no more work should come here."""
        return ["this process is stopping"] if self.stopping.is_set() else []

    def stop(self) -> None:
        """Begin to end; called again, end at once."""
        log.info("stopping", at_once=self.stopping.is_set())
        self.stopping.set()
        self._reconciler.stop()
        if self._worker is not None:
            self._worker.stop()


def _tell_webhook(url: URL) -> None:
    log.info("listening", address=url.authority, webhook=f"{url.origin()}/webhooks/harbor")


def _tell_metrics(url: URL) -> None:
    log.info("listening for probes", address=url.authority, metrics=f"{url.origin()}/metrics")


@dataclass(frozen=True, slots=True)
class _Parts:
    """What both processes are made of."""

    queue: Queue
    metrics: Metrics
    traces: Traces | None
    registries: Registries
    worker: Worker
    reconciler: Reconciler
    registrar: Registrar | None

    def trace(self) -> str | None:
        """Return the current trace, as it is given on to the queue's jobs; None without traces."""
        return self.traces.carrier() if self.traces is not None else None

    def renew(self, new: Configuration) -> None:
        """Go on under another configuration: what begins from now on, copies and reconciles.

        Raises:
            ConfigError: it can't be used; nothing is changed.
        """
        if self.registrar is not None:
            self.registrar.renew(new.settings, new.rules)
        self.registries.renew(access_by(new.rules.credentials))
        self.reconciler.renew(new.rules)
        self.metrics.know(new.rules)


@contextlib.asynccontextmanager
async def _open(settings: Settings, rules: Rules) -> AsyncIterator[_Parts]:
    """Open the parts, and close them in the right order. Who opens them runs them."""
    concurrency = {Lane.EVENTS: settings.concurrency, Lane.BACKFILL: settings.backfill_concurrency}
    async with open_traces() as traces, open_queue(settings) as queue:
        metrics = Metrics(rules, queue, settings.schedule)
        observer = metrics.requests.observer
        requests = observer if traces is None else traces.around_observer(observer)
        async with (
            open_copier(settings, rules, queue, requests) as (registries, copier),
            open_checks(queue) as checks,
        ):
            worker = make_worker(
                settings,
                queue,
                copier,
                concurrency=concurrency,
                checks=checks,
                observer=metrics.tries,
                traces=traces,
            )
            registrar = open_registrar(settings, rules, registries)
            reconciler = Reconciler(
                settings.schedule, rules, copier, queue, checks, registrar=registrar, lease=settings.lease
            )
            yield _Parts(queue, metrics, traces, registries, worker, reconciler, registrar)


async def serve(first: Configuration, load: Callable[[], Configuration], *, with_worker: bool) -> None:
    """Serve the webhook until a signal; with a worker in the same process or without.

    Args:
        first: what is in force from the start.
        load: reads that anew.
        with_worker: whether to copy, too.

    Raises:
        ConfigError: there is no token, policies are wanted and what they need is missing, an address can't be listened
            on, or the queue's settings are wrong.
        QueueError: the embedded queue does not start.
    """
    _nothing_to_load_anew_yet()
    settings, rules = first.settings, first.rules
    needed_for_policies(settings)
    entrance, certificate = WebhookAuth.of(settings), certificate_of(settings)
    if entrance.is_open:
        log.warning("webhook open to everyone", reason="REPLICATOR_WEBHOOK_ANONYMOUS")
    log.info("starting", version=__version__, sources=len(rules.sources()), worker=with_worker)
    with (
        contextlib.closing(listen(settings.listen, "REPLICATOR_LISTEN")) as listener,
        _probes_listener(settings) as own,
        graceful_shutdown() as shutdown,
    ):
        async with _open(settings, rules) as parts:
            worker = parts.worker if with_worker else None
            process = _Process(worker, parts.reconciler)
            webhook = Webhook(rules, parts.queue, entrance, parts.metrics.deliveries, parts.trace)
            page = StatusPage(parts.queue, rules, PageAuth.of(settings))

            def apply(new: Configuration) -> None:
                # What can fail comes first.
                entrance, door = WebhookAuth.of(new.settings), PageAuth.of(new.settings)
                if certificate is not None:
                    certificate.renew()
                parts.renew(new)
                page.renew(new.rules, door)
                webhook.renew(new.rules, entrance)

            reloader = Reloader(first, load, apply)
            parts.metrics.follow(reloader)
            app = create_app(
                webhook,
                parts.queue,
                parts=[process],
                exposition=parts.metrics if own is None else None,
                access_log=settings.access_log,
                more=page.routes(),
            )
            if parts.traces is not None:
                app = parts.traces.around_app(app)
            server = Server(app, _tell_webhook, certificate=certificate, proxies=settings.trusted_proxies)
            async with _beside(settings, own, process, parts, reloader, "serve"):
                shutdown.on_signal(process.stop)
                await _run(server, listener, process, worker)
    log.info("stopped")


async def work(first: Configuration, load: Callable[[], Configuration]) -> None:
    """Copy what is queued until a signal.

    Args:
        first: what is in force from the start.
        load: reads that anew.

    Raises:
        ConfigError: the queue's settings are wrong, policies are wanted and what they need is missing, or the probes'
            address can't be listened on.
        QueueError: the embedded queue does not start.
    """
    _nothing_to_load_anew_yet()
    settings = first.settings
    needed_for_policies(settings)
    log.info("starting", version=__version__)
    with _probes_listener(settings) as own, graceful_shutdown() as shutdown:
        async with _open(settings, first.rules) as parts:
            process = _Process(parts.worker, parts.reconciler)
            reloader = Reloader(first, load, parts.renew)
            parts.metrics.follow(reloader)
            async with _beside(settings, own, process, parts, reloader, "worker"):
                shutdown.on_signal(process.stop)
                await parts.worker.run()
    log.info("stopped")


@contextlib.asynccontextmanager
async def _beside(
    settings: Settings,
    listener: socket.socket | None,
    process: _Process,
    parts: _Parts,
    reloader: Reloader,
    command: str,
) -> AsyncIterator[None]:
    """Have all run that stands beside the work, for as long as the context lasts."""
    async with (
        _probes(settings, listener, process, parts),
        open_notifier(settings, parts.queue, reloader),
        parts.reconciler.beside(),
        reloader.beside(),
        _announced(parts.queue, command, reloader),
    ):
        yield


@contextlib.asynccontextmanager
async def _probes(
    settings: Settings, listener: socket.socket | None, process: _Process, parts: _Parts
) -> AsyncIterator[None]:
    """Serve probes and metrics at an address of their own, if there is one, for as long as the context lasts."""
    if listener is None:
        yield
        return
    app = create_probes_app(parts.queue, parts=[process], exposition=parts.metrics, access_log=settings.access_log)
    server = Server(app, _tell_metrics)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await asyncio.wait({serving})
    serving.result()


def _announced(queue: Queue, command: str, reloader: Reloader) -> contextlib.AbstractAsyncContextManager[None]:
    """Tell the other processes which configuration this one runs with."""
    return announced(queue, command, __version__, lambda: LoadedConfig(reloader.loaded, reloader.problem))


async def _run(server: Server, listener: socket.socket, process: _Process, worker: Worker | None) -> None:
    """Run server and worker; the end of one is the end of the other."""
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    # The listener stays open until the last copy has ended or was handed back.
    busy = asyncio.create_task(worker.run() if worker is not None else _until(process.stopping))
    try:
        await asyncio.wait({serving, busy}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        if worker is not None and not busy.done():
            worker.stop()
        server.should_exit = True
        await asyncio.wait({serving, busy})
    busy.result()
    serving.result()


def _nothing_to_load_anew_yet() -> None:
    """Have a SIGHUP during the start do nothing, instead of ending the process."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


async def _until(event: asyncio.Event) -> None:
    await event.wait()


def _probes_listener(settings: Settings) -> contextlib.AbstractContextManager[socket.socket | None]:
    """Bind the address of the probes and metrics, where they have one of their own."""
    if settings.metrics_listen is None:
        return contextlib.nullcontext()
    return contextlib.closing(listen(settings.metrics_listen, "REPLICATOR_METRICS_LISTEN"))

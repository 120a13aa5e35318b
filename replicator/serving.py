"""The long-running processes: ``serve``, the webhook with a worker beside it, and ``worker`` alone.

Each runs the scheduled reconcile too, when it is due and no other process on the queue does.

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
from replicator.app import Webhook, create_app
from replicator.entrance import Entrance
from replicator.listening import certificate_of, listen, make_server
from replicator.page import Door, StatusPage
from replicator.queue import InForce, Lane, announced
from replicator.reconciling import Reconciler
from replicator.reloading import Reloader
from replicator.runtime import make_worker, open_checks, open_copier, open_queue
from replicator.signals import ending_at_signals
from replicator.transfer import access_by

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Callable

    from replicator.listening import Server
    from replicator.queue import Queue, Worker
    from replicator.registry import Registries
    from replicator.reloading import Configuration
    from replicator.rules import Rules
    from replicator.settings import Settings

log = structlog.get_logger("replicator")


class _Process:
    """What runs in this process, and whether it is about to end. A `replicator.app.Liveness`."""

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


async def serve(first: Configuration, load: Callable[[], Configuration], *, with_worker: bool) -> None:
    """Serve the webhook until a signal; with a worker in the same process or without.

    Args:
        first: what is in force from the start.
        load: reads that anew.
        with_worker: whether to copy, too.

    Raises:
        ConfigError: there is no token, the address can't be listened on, or the queue's settings are wrong.
        QueueError: the embedded queue does not start.
    """
    _nothing_to_load_anew_yet()
    settings, rules = first.settings, first.rules
    entrance, certificate = Entrance.of(settings), certificate_of(settings)
    if entrance.is_open:
        log.warning("webhook open to everyone", reason="REPLICATOR_WEBHOOK_ANONYMOUS")
    log.info("starting", version=__version__, sources=len(rules.sources()), worker=with_worker)
    with contextlib.closing(listen(settings)) as listener, ending_at_signals() as ending:
        async with _parts(settings, rules) as parts:
            webhook = Webhook(rules, parts.queue, entrance)
            page = StatusPage(parts.queue, rules, Door.of(settings))

            def apply(new: Configuration) -> None:
                # What can fail comes first.
                entrance = Entrance.of(new.settings)
                if certificate is not None:
                    certificate.renew()
                webhook.renew(new.rules, entrance)
                page.renew(new.rules, Door.of(new.settings))
                parts.renew(new.rules)

            process = _Process(parts.worker if with_worker else None, parts.reconciler)
            ending.started(process.stop)
            app = create_app(webhook, parts.queue, parts=[process], more=page.routes())
            server = make_server(app, settings, certificate)
            reloader = Reloader(first, load, apply)
            async with parts.reconciler.beside(), reloader.beside(), _announced(parts.queue, "serve", reloader):
                await _run(server, listener, process, parts.worker if with_worker else None)
    log.info("stopped")


async def work(first: Configuration, load: Callable[[], Configuration]) -> None:
    """Copy what is queued until a signal.

    Args:
        first: what is in force from the start.
        load: reads that anew.

    Raises:
        ConfigError: the queue's settings are wrong.
        QueueError: the embedded queue does not start.
    """
    _nothing_to_load_anew_yet()
    log.info("starting", version=__version__)
    with ending_at_signals() as ending:
        async with _parts(first.settings, first.rules) as parts:
            ending.started(_Process(parts.worker, parts.reconciler).stop)
            reloader = Reloader(first, load, lambda new: parts.renew(new.rules))
            async with parts.reconciler.beside(), reloader.beside(), _announced(parts.queue, "worker", reloader):
                await parts.worker.run()
    log.info("stopped")


@dataclass(frozen=True, slots=True)
class _Parts:
    """What both commands run."""

    queue: Queue
    registries: Registries
    worker: Worker
    reconciler: Reconciler

    def renew(self, rules: Rules) -> None:
        """Go on under other rules: what begins from now on, copies and reconciles."""
        self.registries.renew(access_by(rules.credentials))
        self.reconciler.renew(rules)


@contextlib.asynccontextmanager
async def _parts(settings: Settings, rules: Rules) -> AsyncIterator[_Parts]:
    concurrency = {Lane.EVENTS: settings.concurrency, Lane.BACKFILL: settings.backfill_concurrency}
    async with (
        open_queue(settings) as queue,
        open_copier(settings, rules, queue) as (registries, copier),
        open_checks(queue) as checks,
    ):
        worker = make_worker(settings, queue, registries, copier, concurrency=concurrency, checks=checks)
        reconciler = Reconciler(settings.schedule, rules, registries, copier, queue, checks, lease=settings.lease)
        yield _Parts(queue, registries, worker, reconciler)


def _announced(queue: Queue, command: str, reloader: Reloader) -> contextlib.AbstractAsyncContextManager[None]:
    """Tell the other processes which configuration this one runs with."""
    return announced(queue, command, __version__, lambda: InForce(reloader.loaded, reloader.problem))


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

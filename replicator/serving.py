"""The long-running processes: ``serve``, the webhook with a worker beside it, and ``worker`` alone.

Each runs the scheduled reconcile too, when it is due and no other process on the queue does.

At SIGTERM or SIGINT the worker takes no new copies and gives the running ones the drain time; until then events are
still taken, as they are durable in the queue whoever copies them. A second signal ends at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

import structlog
import uvicorn

from replicator import __version__
from replicator.app import create_app
from replicator.connections import BoundedProtocol
from replicator.errors import ConfigError, Problem
from replicator.queue import Lane
from replicator.reconciling import Reconciler
from replicator.runtime import make_worker, open_checks, open_copier, open_queue
from replicator.signals import ending_at_signals
from replicator.webhooks.registering import needed_for_policies, open_registrar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.applications import Starlette

    from replicator.copy import Copier
    from replicator.queue import Checks, Queue, Worker
    from replicator.registry import Registries
    from replicator.rules import Rules
    from replicator.settings import Settings

log = structlog.get_logger("replicator")

_CLOSE_SECONDS = 3
"""What requests under way get to end once the listener closes; more than the queue's own deadline."""


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


class _Server(uvicorn.Server):
    """A uvicorn that leaves signals to the process, and says where it listens once it does."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            host, port = listener.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            log.info("listening", address=f"{shown}:{port}", webhook=f"http://{shown}:{port}/webhooks/harbor")


async def serve(settings: Settings, rules: Rules, *, with_worker: bool) -> None:
    """Serve the webhook until a signal; with a worker in the same process or without.

    Raises:
        ConfigError: there is no token, policies are wanted and what they need is missing, the address can't be
            listened on, or the queue's settings are wrong.
        QueueError: the embedded queue does not start.
    """
    needed_for_policies(settings)
    token = _token(settings)
    concurrency = {Lane.EVENTS: settings.concurrency, Lane.BACKFILL: settings.backfill_concurrency}
    log.info("starting", version=__version__, sources=len(rules.sources()), worker=with_worker)
    with contextlib.closing(_listen(settings)) as listener, ending_at_signals() as ending:
        async with (
            open_queue(settings) as queue,
            open_copier(settings, rules, queue) as (registries, copier),
            open_checks(queue) as checks,
        ):
            worker = make_worker(settings, queue, registries, copier, concurrency=concurrency, checks=checks)
            reconciler = _reconciler(settings, rules, registries, copier, queue, checks)
            process = _Process(worker if with_worker else None, reconciler)
            app = create_app(rules, queue, token=token, parts=[process])
            ending.started(process.stop)
            async with reconciler.beside():
                await _run(app, listener, process, worker if with_worker else None)
    log.info("stopped")


async def work(settings: Settings, rules: Rules) -> None:
    """Copy what is queued until a signal.

    Raises:
        ConfigError: the queue's settings are wrong, or policies are wanted and what they need is missing.
        QueueError: the embedded queue does not start.
    """
    needed_for_policies(settings)
    concurrency = {Lane.EVENTS: settings.concurrency, Lane.BACKFILL: settings.backfill_concurrency}
    log.info("starting", version=__version__)
    with ending_at_signals() as ending:
        async with (
            open_queue(settings) as queue,
            open_copier(settings, rules, queue) as (registries, copier),
            open_checks(queue) as checks,
        ):
            worker = make_worker(settings, queue, registries, copier, concurrency=concurrency, checks=checks)
            reconciler = _reconciler(settings, rules, registries, copier, queue, checks)
            ending.started(_Process(worker, reconciler).stop)
            async with reconciler.beside():
                await worker.run()
    log.info("stopped")


async def _run(app: Starlette, listener: socket.socket, process: _Process, worker: Worker | None) -> None:
    """Run server and worker; the end of one is the end of the other."""
    server = _Server(
        uvicorn.Config(
            app,
            http=BoundedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_CLOSE_SECONDS,
        )
    )
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


def _reconciler(
    settings: Settings, rules: Rules, registries: Registries, copier: Copier, queue: Queue, checks: Checks
) -> Reconciler:
    registrar = open_registrar(settings, rules, registries)
    return Reconciler(
        settings.schedule, rules, registries, copier, queue, checks, registrar=registrar, lease=settings.lease
    )


async def _until(event: asyncio.Event) -> None:
    await event.wait()


def _token(settings: Settings) -> str | None:
    token = settings.webhook_token.get_secret_value() if settings.webhook_token is not None else ""
    if token:
        return token
    if settings.webhook_anonymous:
        log.warning("webhook open to everyone", reason="REPLICATOR_WEBHOOK_ANONYMOUS")
        return None
    message = (
        "set it to a long random text, and give Harbor's webhook policy the same as its auth header; "
        "or set REPLICATOR_WEBHOOK_ANONYMOUS=true to take events from anyone who can reach this address"
    )
    raise ConfigError("settings", [Problem("REPLICATOR_WEBHOOK_TOKEN", message)])


def _listen(settings: Settings) -> socket.socket:
    """Bind the address before anything else is started, so that a second instance fails at once."""
    host, port = settings.listen_host, settings.listen_port
    family = socket.AF_INET6 if ":" in host or (not host and socket.has_dualstack_ipv6()) else socket.AF_INET
    dual = not host and family == socket.AF_INET6
    try:
        return socket.create_server((host, port), family=family, backlog=2048, dualstack_ipv6=dual)
    except OSError as error:
        problem = Problem("REPLICATOR_LISTEN", f"{settings.listen}: can't be listened on: {error.strerror or error}")
        raise ConfigError("settings", [problem]) from None

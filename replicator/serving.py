"""The long-running processes: ``serve``, the webhook with a worker beside it, and ``worker`` alone.

Each runs the scheduled reconcile too, when it is due and no other process on the queue does.

Both serve probes and metrics: at the webhook's address, or at one of their own.

At SIGTERM or SIGINT the worker takes no new copies and gives the running ones the drain time; until then events are
still taken, as they are durable in the queue whoever copies them. A second signal ends at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
import uvicorn

from replicator import __version__
from replicator.app import create_app, create_probes_app
from replicator.connections import BoundedProtocol
from replicator.errors import ConfigError, Problem
from replicator.metrics import Metrics
from replicator.queue import Lane
from replicator.reconciling import Reconciler
from replicator.runtime import make_worker, open_checks, open_copier, open_queue
from replicator.settings import split_address
from replicator.signals import ending_at_signals

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from starlette.types import ASGIApp

    from replicator.queue import Queue, Worker
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
    """A uvicorn that leaves signals to the process, and says where it listens once it does.

    Args:
        app: the application.
        told: is given each address, as ``host:port``.
    """

    def __init__(self, app: ASGIApp, told: Callable[[str], None]) -> None:
        super().__init__(
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
        self._told = told

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            host, port = listener.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            self._told(f"{shown}:{port}")


def _tell_webhook(address: str) -> None:
    log.info("listening", address=address, webhook=f"http://{address}/webhooks/harbor")


def _tell_metrics(address: str) -> None:
    log.info("listening for probes", address=address, metrics=f"http://{address}/metrics")


@dataclass(frozen=True, slots=True)
class _Parts:
    """What both processes are made of."""

    queue: Queue
    metrics: Metrics
    worker: Worker
    reconciler: Reconciler


@contextlib.asynccontextmanager
async def _open(settings: Settings, rules: Rules) -> AsyncIterator[_Parts]:
    """Open the parts, and close them in the right order. Who opens them runs them."""
    concurrency = {Lane.EVENTS: settings.concurrency, Lane.BACKFILL: settings.backfill_concurrency}
    async with open_queue(settings) as queue:
        metrics = Metrics(rules, queue, settings.schedule)
        async with (
            open_copier(settings, rules, queue, metrics.requests) as (registries, copier),
            open_checks(queue) as checks,
        ):
            worker = make_worker(
                settings,
                queue,
                registries,
                copier,
                concurrency=concurrency,
                checks=checks,
                observer=metrics.tries,
            )
            reconciler = Reconciler(settings.schedule, rules, registries, copier, queue, checks, lease=settings.lease)
            yield _Parts(queue, metrics, worker, reconciler)


async def serve(settings: Settings, rules: Rules, *, with_worker: bool) -> None:
    """Serve the webhook until a signal; with a worker in the same process or without.

    Raises:
        ConfigError: there is no token, the address can't be listened on, or the queue's settings are wrong.
        QueueError: the embedded queue does not start.
    """
    token = _token(settings)
    log.info("starting", version=__version__, sources=len(rules.sources()), worker=with_worker)
    with (
        contextlib.closing(_listen(settings.listen, "REPLICATOR_LISTEN")) as listener,
        _probes_listener(settings) as own,
        ending_at_signals() as ending,
    ):
        async with _open(settings, rules) as parts:
            worker = parts.worker if with_worker else None
            process = _Process(worker, parts.reconciler)
            app = create_app(
                rules,
                parts.queue,
                token=token,
                observer=parts.metrics.deliveries,
                parts=[process],
                exposition=parts.metrics if own is None else None,
                access_log=settings.access_log,
            )
            async with _probes(settings, own, process, parts), parts.reconciler.beside():
                ending.started(process.stop)
                await _run(app, listener, process, worker)
    log.info("stopped")


async def work(settings: Settings, rules: Rules) -> None:
    """Copy what is queued until a signal.

    Raises:
        ConfigError: the queue's settings are wrong, or the address of the probes can't be listened on.
        QueueError: the embedded queue does not start.
    """
    log.info("starting", version=__version__)
    with _probes_listener(settings) as own, ending_at_signals() as ending:
        async with _open(settings, rules) as parts:
            process = _Process(parts.worker, parts.reconciler)
            async with _probes(settings, own, process, parts), parts.reconciler.beside():
                ending.started(process.stop)
                await parts.worker.run()
    log.info("stopped")


@contextlib.asynccontextmanager
async def _probes(
    settings: Settings, listener: socket.socket | None, process: _Process, parts: _Parts
) -> AsyncIterator[None]:
    """Serve probes and metrics at an address of their own, if there is one, for as long as the context lasts."""
    if listener is None:
        yield
        return
    app = create_probes_app(parts.queue, parts=[process], exposition=parts.metrics, access_log=settings.access_log)
    server = _Server(app, _tell_metrics)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await asyncio.wait({serving})
    serving.result()


async def _run(app: ASGIApp, listener: socket.socket, process: _Process, worker: Worker | None) -> None:
    """Run server and worker; the end of one is the end of the other."""
    server = _Server(app, _tell_webhook)
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


def _probes_listener(settings: Settings) -> contextlib.AbstractContextManager[socket.socket | None]:
    """Bind the address of the probes and metrics, where they have one of their own."""
    if settings.metrics_listen is None:
        return contextlib.nullcontext()
    return contextlib.closing(_listen(settings.metrics_listen, "REPLICATOR_METRICS_LISTEN"))


def _listen(address: str, variable: str) -> socket.socket:
    """Bind an address before anything else is started, so that a second instance fails at once.

    Raises:
        ConfigError: it can't be listened on; the variable is in the message.
    """
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host or (not host and socket.has_dualstack_ipv6()) else socket.AF_INET
    dual = not host and family == socket.AF_INET6
    try:
        return socket.create_server((host, port), family=family, backlog=2048, dualstack_ipv6=dual)
    except OSError as error:
        problem = Problem(variable, f"{address}: can't be listened on: {error.strerror or error}")
        raise ConfigError("settings", [problem]) from None

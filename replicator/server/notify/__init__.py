"""Notifications to people, in DingTalk, Feishu, WeCom or Slack, or as JSON: each problem, and its end.

A background task sends them. Every process of an installation runs it; a lease elects the one that acts. What was
reported, and what is still to be sent, is kept in the queue's Redis, so that a restart neither repeats nor loses a
message. No copy waits for any of this.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import uuid4

import structlog
from yarl import URL

from replicator.queue import Notices, QueueUnavailable
from replicator.server.notify.decide import decide, take_snapshot
from replicator.server.notify.message import (
    Message,
    MessageState,
    NotifyState,
    NotifyTiming,
    Occasion,
    Origin,
    PendingMessage,
)
from replicator.server.notify.sending import Sender, open_messenger
from replicator.tasks import background

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from replicator.queue import LoadedConfig, Queue
    from replicator.settings import Settings

log = structlog.get_logger("replicator.notify")

_INTERVAL = 5.0
_STOP_SECONDS = 5.0
_RELEASE_SECONDS = 1.0
_ERROR_PAUSE = 60.0


class Notifier:
    """Looks at the queue every few seconds, and sends what is new.

    Args:
        queue: the queue to watch; its Redis keeps the reported state.
        sender: sends to the receivers.
        configuration: returns the state of this process's configuration.
        timing: when to report something.
        interval: seconds between two looks.
        lease: seconds after which another process takes over from one that died.
    """

    def __init__(
        self,
        queue: Queue,
        sender: Sender,
        configuration: Callable[[], LoadedConfig],
        *,
        timing: NotifyTiming,
        interval: float = _INTERVAL,
        lease: float = 60.0,
    ) -> None:
        self._queue = queue
        self._sender = sender
        self._configuration = configuration
        self._timing = timing
        self._interval = interval
        self._notices = Notices(queue, lease=lease)
        self._stopping = asyncio.Event()
        self._unavailable = False
        self._faults = _FaultReport(sender, timing)

    def beside(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Run while the context lasts."""
        # A request in progress gets time to end: if its answer is lost, the next process sends the message again.
        return background(self.run(), self.stop, within=_STOP_SECONDS)

    def stop(self) -> None:
        """Stop within moments; unsent messages are left to the next process."""
        self._stopping.set()

    async def run(self) -> None:
        """Run until :meth:`stop`, over outages of Redis. Raises nothing."""
        while not self._stopping.is_set():
            pause = self._interval
            try:
                await self.step()
                self._unavailable = False
                await self._faults.look("")
            except QueueUnavailable as error:
                if not self._unavailable:
                    log.warning("queue unavailable", error=error, waiting_for="notifications")
                self._unavailable = True
                await self._faults.look(self._queue.fault())
            except Exception:
                # A bug here must not stop the replication.
                log.exception("notifications broken")
                pause = _ERROR_PAUSE
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
        with contextlib.suppress(TimeoutError, QueueUnavailable):
            async with asyncio.timeout(_RELEASE_SECONDS):
                await self._notices.end()

    async def step(self) -> None:
        """Look once and send what is due, unless another process is the leader.

        Raises:
            QueueUnavailable: Redis is down or refuses writes. What was sent already is not sent again.
        """
        leadership = await self._notices.begin(self._configuration().problem)
        if leadership is None:
            return
        before = NotifyState.load(leadership.told)
        snapshot = await take_snapshot(self._queue, self._notices, leadership, before, self._timing)
        state, messages = decide(before, snapshot, self._timing)
        state = replace(state, pending=self._sender.with_new(state.pending, messages, snapshot.now))
        # Stored before it is sent: a process that has lost its lease fails here, and sends nothing.
        if state != before and not await self._notices.keep(state.dump()):
            return
        pending = await self._sender.send(state.pending, snapshot.now)
        if pending != state.pending:
            await self._notices.keep(replace(state, pending=pending).dump())


class _FaultReport:
    """Reports a fault of the queue's own directory, from the memory of this process: the queue keeps nothing then."""

    def __init__(self, sender: Sender, timing: NotifyTiming) -> None:
        self._sender = sender
        self._pause = int(timing.pause * 1000)
        self._pending: tuple[PendingMessage, ...] = ()
        self._since: int | None = None
        self._reported = -self._pause

    async def look(self, fault: str) -> None:
        """Report a fault that has begun or ended since the last look, and retry what was not sent.

        Args:
            fault: the present fault (`Queue.fault`); empty without one.
        """
        now = int(time.time() * 1000)
        messages = self._news(fault, now)
        if messages or self._pending:
            self._pending = await self._sender.send(self._sender.with_new(self._pending, messages, now), now)

    def _news(self, fault: str, now: int) -> list[Message]:
        if fault and self._since is None and abs(now - self._reported) >= self._pause:
            self._since = self._reported = now
            what, _, advice = fault.partition("; ")
            return [
                self._message(MessageState.TROUBLE, f"replicator: {what}", now, advice=("No event is taken.", advice))
            ]
        if not fault and self._since is not None:
            recovered = self._message(
                MessageState.RECOVERED, "replicator: recovered: the queue takes events again", now
            )
            self._since = None
            return [recovered]
        return []

    def _message(self, state: MessageState, title: str, now: int, advice: tuple[str, ...] = ()) -> Message:
        return Message(uuid4().hex, Occasion.STATE_DIRECTORY, state, title, now, since=self._since, advice=advice)


def origin_of(settings: Settings) -> Origin:
    """Return the sender of messages: the host of the webhook's URL with the status page at its root, or this host."""
    if settings.webhook_url is None:
        return Origin(socket.gethostname())
    url = URL(settings.webhook_url)
    return Origin(url.host or socket.gethostname(), f"{url.origin()}/")


@contextlib.asynccontextmanager
async def open_notifier(
    settings: Settings, queue: Queue, configuration: Callable[[], LoadedConfig]
) -> AsyncIterator[None]:
    """Notify the receivers that the settings name while the context lasts; do nothing if they name none.

    Args:
        settings: the receivers, and when copies are late.
        queue: the queue to watch.
        configuration: returns the state of this process's configuration.
    """
    receivers = settings.receivers
    if not receivers:
        yield
        return
    async with open_messenger(origin_of(settings)) as messenger:
        timing = NotifyTiming(late=settings.notify_lag)
        notifier = Notifier(queue, Sender(receivers, messenger), configuration, timing=timing)
        async with notifier.beside():
            log.info("notifications on", receivers=[receiver.host for receiver in receivers])
            yield

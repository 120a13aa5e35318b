"""Tells people what goes wrong, beside a webhook or a worker: one process of all does, and the others stand by."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import structlog
from yarl import URL

from replicator.queue import Notices, QueueUnavailable
from replicator.server.notify.decide import NotifyTiming, decide, take_snapshot
from replicator.server.notify.message import NotifyState, Origin
from replicator.server.notify.sending import Sending, open_poster
from replicator.tasks import background

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from replicator.queue import Queue
    from replicator.settings import Settings

log = structlog.get_logger("replicator.notify")

_EVERY = 5.0
_STOP_SECONDS = 5.0
_LAST_WORDS_SECONDS = 1.0
_BROKEN_PAUSE = 60.0


class ConfigurationState(Protocol):
    """What is in force; `replicator.server.reload.Reloader` is one."""

    @property
    def problem(self) -> str | None:
        """Why what the files say now is not in force; None when it is."""


class Notifier:
    """Looks at the queue every few seconds, and sends what is new.

    Args:
        queue: what is looked at, and where all processes remember what was told.
        sending: the way to the receivers.
        configuration: what this process complains of.
        pace: how fast people are told.
        every: seconds between two looks.
        lease: seconds after which another process takes the place of one that died.
    """

    def __init__(
        self,
        queue: Queue,
        sending: Sending,
        configuration: ConfigurationState,
        *,
        pace: NotifyTiming,
        every: float = _EVERY,
        lease: float = 60.0,
    ) -> None:
        self._queue = queue
        self._sending = sending
        self._configuration = configuration
        self._pace = pace
        self._every = every
        self._notices = Notices(queue, lease=lease)
        self._stopping = asyncio.Event()
        self._away = False

    def beside(self) -> contextlib.AbstractAsyncContextManager[None]:
        """Run for as long as the context lasts."""
        # A message under way is let through: who does not hear of its answer sends it again.
        return background(self.run(), self.stop, within=_STOP_SECONDS)

    def stop(self) -> None:
        """End within moments. What is to be sent is kept for whichever process is next."""
        self._stopping.set()

    async def run(self) -> None:
        """Run until :meth:`stop`. Redis away is waited for. It raises nothing of its own."""
        while not self._stopping.is_set():
            pause = self._every
            try:
                await self.step()
                self._away = False
            except QueueUnavailable as error:
                if not self._away:
                    log.warning("queue unavailable", error=str(error), waiting_for="notifications")
                self._away = True
            except Exception:
                # A fault in this must not end the copying beside it.
                log.exception("notifications broken")
                pause = _BROKEN_PAUSE
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
        with contextlib.suppress(TimeoutError, QueueUnavailable):
            async with asyncio.timeout(_LAST_WORDS_SECONDS):
                await self._notices.end()

    async def step(self) -> None:
        """Look once, and send what is due, if no other process does.

        Raises:
            QueueUnavailable: Redis is away or takes nothing. What was sent already is not sent again.
        """
        turn = await self._notices.begin(self._configuration.problem)
        if turn is None:
            return
        before = NotifyState.load(turn.told)
        seen = await take_snapshot(self._queue, self._notices, turn, before.mark)
        memory, messages = decide(before, seen, self._pace)
        memory = replace(memory, parcels=self._sending.packed(memory.parcels, messages, turn.now))
        # Kept before it is sent: what is sent is known to all, and nobody sends it who has lost the turn.
        if memory != before and not await self._notices.keep(memory.dump()):
            return
        left = await self._sending.send(memory.parcels, turn.now)
        if left != memory.parcels:
            await self._notices.keep(replace(memory, parcels=left).dump())


def origin_of(settings: Settings) -> Origin:
    """Say who tells: the host that Harbor knows, whose status page is at the root of the webhook's; else this one."""
    if settings.webhook_url is None:
        return Origin(socket.gethostname())
    url = URL(settings.webhook_url)
    return Origin(url.host or socket.gethostname(), f"{url.origin()}/")


@contextlib.asynccontextmanager
async def open_notifier(settings: Settings, queue: Queue, configuration: ConfigurationState) -> AsyncIterator[None]:
    """Tell the receivers that the settings name what goes wrong, for as long as the context lasts.

    Args:
        settings: who is told, and when copies are late. Without a receiver nothing is done.
        queue: what is looked at.
        configuration: what this process complains of.
    """
    receivers = settings.receivers
    if not receivers:
        yield
        return
    async with open_poster(origin_of(settings)) as poster:
        notifier = Notifier(
            queue, Sending(receivers, poster), configuration, pace=NotifyTiming(late=settings.notify_lag)
        )
        async with notifier.beside():
            log.info("notifications on", receivers=[receiver.host for receiver in receivers])
            yield

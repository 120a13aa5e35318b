"""CloudEvents to programs: a destination has an image, a copy failed, a reconcile has ended.

A background task sends them from the outbox in Redis. Every process of an installation runs it; a lease elects the one
that acts. No copy waits for any of this.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import structlog
from yarl import URL

from replicator.errors import ErrorText
from replicator.queue import QueueUnavailable
from replicator.queue.outbox import EventType, Outbox
from replicator.tasks import background, cancel_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from replicator.queue import Queue
    from replicator.receivers import EventReceiver
    from replicator.server.cloudevents.delivery import Delivery, Term
    from replicator.server.metrics import Metrics
    from replicator.settings import Settings

log = structlog.get_logger("replicator.cloudevents")

_RENEW = 5.0
_AWAY_PAUSE = 0.2
_STOP_SECONDS = 5.0
_RELEASE_SECONDS = 1.0
_ERROR_PAUSE = 60.0


class Sender:
    """Sends the events of all receivers while this process leads.

    Args:
        outbox: has the events.
        term: of this process.
        deliveries: makes the deliveries to all receivers, again each time that this process becomes the leader.
        hosts: of the receivers, by their keys.
        renew: seconds between two renewals of the leadership.
    """

    def __init__(
        self,
        outbox: Outbox,
        term: Term,
        deliveries: Callable[[], Sequence[Delivery]],
        hosts: Mapping[str, str],
        *,
        renew: float = _RENEW,
    ) -> None:
        self._outbox = outbox
        self._term = term
        self._make = deliveries
        self._hosts = hosts
        self._renew = renew
        self._deliveries: Sequence[Delivery] = ()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._unavailable = False

    def stop(self) -> None:
        """Stop within moments; unsent events are left to the next process."""
        self._stopping.set()
        for delivery in self._deliveries:
            delivery.stop()

    async def run(self) -> None:
        """Run until :meth:`stop`, over outages of Redis. Raises nothing."""
        try:
            while not self._stopping.is_set():
                pause = self._renew
                try:
                    await self.step()
                    # The receivers are to be registered before the first copy ends.
                    pause = _AWAY_PAUSE if self._unavailable else pause
                except Exception:
                    # A bug here must not stop the replication.
                    log.exception("events broken")
                    await self._end()
                    pause = _ERROR_PAUSE
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._stopping.wait()
            if self._tasks:
                # A request in progress gets time to end: if its answer is lost, the event is sent again.
                await asyncio.wait(self._tasks)
        finally:
            await cancel_all(self._tasks)
        with contextlib.suppress(TimeoutError, QueueUnavailable):
            async with asyncio.timeout(_RELEASE_SECONDS):
                await self._outbox.release()

    async def step(self) -> None:
        """Take or renew the leadership, and begin or end the deliveries accordingly."""
        asked = time.monotonic()
        try:
            led = await self._outbox.lead()
        except QueueUnavailable as error:
            if not self._unavailable:
                log.warning("queue unavailable", error=error, waiting_for="events")
            self._unavailable = True
            return
        self._unavailable = False
        if led is None:
            self._term.lose()
            await self._end()
            return
        now, dropped = led
        self._term.renew(asked, now)
        for key, number in dropped.items():
            if number > 0:
                self._log_dropped(self._hosts[key], number)
        for task in self._tasks:
            if task.done():
                task.result()
        if not self._tasks and not self._stopping.is_set():
            self._deliveries = self._make()
            self._tasks = {asyncio.create_task(each.run()) for each in self._deliveries}

    async def _end(self) -> None:
        tasks, self._tasks, self._deliveries = self._tasks, set(), ()
        await cancel_all(tasks)

    def _log_dropped(self, host: str, number: int) -> None:
        events = "1 event was" if number == 1 else f"{number:,} events were"
        text = ErrorText(
            f"{events} dropped, because {host} did not accept {'it' if number == 1 else 'them'}",
            "too many waited, or for too long",
            "the log line event delayed says why; replicator history and the API show the missed events",
        )
        log.warning("events dropped", receiver=host, number=number, **text.to_json())


def source_of(settings: Settings) -> str:
    """Return the installation as its events name it: the root of the webhook's URL, else the prefix in Redis."""
    if settings.webhook_url is not None:
        return f"{URL(settings.webhook_url).origin()}/"
    return f"/replicator/{settings.redis_prefix.strip('{}')}"


@contextlib.asynccontextmanager
async def open_sender(settings: Settings, queue: Queue, metrics: Metrics) -> AsyncIterator[None]:
    """Send events to the receivers that the settings name while the context lasts; do nothing if they name none.

    Args:
        settings: the receivers.
        queue: whose outbox is sent.
        metrics: count what is sent.
    """
    receivers = settings.event_receivers
    if not receivers:
        yield
        return
    # Imported here: most installations have no receiver.
    from replicator.server.cloudevents.delivery import LEASE, Delivery, Term
    from replicator.server.posting import open_poster

    wanted = {each.key: types_of(each) for each in receivers}
    outbox, term, source = Outbox(queue, wanted, lease=LEASE), Term(), source_of(settings)
    async with open_poster(reuse=True) as poster:

        def deliveries() -> list[Delivery]:
            return [Delivery(outbox, each, poster, source, term, sent=metrics.sends.sent) for each in receivers]

        hosts = {each.key: each.host for each in receivers}
        metrics.watch_outbox(hosts)
        sender = Sender(outbox, term, deliveries, hosts)
        # The receivers are registered before the first copy ends.
        await sender.step()
        async with background(sender.run(), sender.stop, within=_STOP_SECONDS):
            log.info("events on", receivers=list(hosts.values()))
            yield


def types_of(receiver: EventReceiver) -> frozenset[EventType]:
    """Return the types of events that a receiver wants."""
    return frozenset(EventType) - (frozenset() if receiver.up_to_date else {EventType.UP_TO_DATE})

"""The delivery of events to one receiver: each until it is taken, in order for each image, with growing pauses."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import structlog
from redis.exceptions import RedisError

from replicator.errors import AGAIN, ErrorText
from replicator.queue import QueueUnavailable
from replicator.server.cloudevents.models import encode, event_of
from replicator.server.posting import SECONDS, Reply
from replicator.tasks import cancel_all

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from replicator.queue.outbox import Outbox, OutboxEntry
    from replicator.receivers import EventReceiver
    from replicator.server.posting import Poster

log = structlog.get_logger("replicator.cloudevents")

LEASE = 20.0
"""Seconds after which another process sends for one that died."""
PATIENCE = 3 * 24 * 3600
"""Age from which an event is dropped, in seconds."""
MOST_IN_FLIGHT = 8
"""Requests to one receiver at a time."""
WINDOW = 256
"""The oldest events of a receiver, among which those of failing images are overtaken by others."""
MAX_PAUSE = 300.0
"""Between two attempts at an event, in seconds."""
_FAILING = 3
"""Images whose events fail in a row, after which a receiver counts as down: then one event at a time is tried."""
_HASTE_PAUSE = 60.0
"""Seconds after which a receiver that was down may be tried again with all that it has refused."""
_REFRESH_SECONDS = 30.0
_AWAY_SECONDS = 0.5


def sign(secret: bytes, event_id: str, timestamp: int, body: bytes) -> str:
    """Sign a message (Standard Webhooks, "Signature scheme").

    Args:
        secret: the key.
        event_id: the header ``webhook-id``.
        timestamp: the header ``webhook-timestamp``, in seconds since 1970.
        body: as it is sent.

    Returns:
        The header ``webhook-signature``.
    """
    signed = f"{event_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()


class Term:
    """The leadership of this process, as it was renewed last."""

    def __init__(self, lease: float = LEASE) -> None:
        self._lease = lease
        self._renewed = time.monotonic()
        self._is_lost = True
        self._now = datetime.fromtimestamp(0, UTC)

    def renew(self, asked: float, now: datetime) -> None:
        """Note a renewal: when it was asked for (`time.monotonic`), and Redis's time."""
        self._renewed, self._now, self._is_lost = asked, now, False

    def lose(self) -> None:
        """Note that another process leads."""
        self._is_lost = True

    @property
    def is_sure(self) -> bool:
        """Whether a request that begins now has ended before another process may lead."""
        return not self._is_lost and time.monotonic() - self._renewed < self._lease - SECONDS - 1

    def now(self) -> datetime:
        """Return the time by Redis's clock."""
        return self._now + timedelta(seconds=time.monotonic() - self._renewed)


@dataclass(slots=True)
class _BackOff:
    failures: int
    due: float


class Delivery:
    """Sends the events of one receiver for as long as this process leads.

    Args:
        outbox: has the events.
        receiver: gets them.
        poster: sends them.
        source: the installation, as the events name it.
        term: of this process.
        sent: called after each attempt with its success and the age of its event in seconds.
        first: seconds until the first retry; every further pause is twice as long.
    """

    def __init__(
        self,
        outbox: Outbox,
        receiver: EventReceiver,
        poster: Poster,
        source: str,
        term: Term,
        *,
        sent: Callable[[str, bool, float], None] = lambda *_: None,
        first: float = 1.0,
    ) -> None:
        self._outbox = outbox
        self._receiver = receiver
        self._poster = poster
        self._source = source
        self._term = term
        self._sent = sent
        self._first = first
        self._stopping = asyncio.Event()
        self._window: dict[str, OutboxEntry] = {}
        self._removed: set[str] = set()
        self._flights: dict[asyncio.Task[None], OutboxEntry] = {}
        self._waits: dict[str, _BackOff] = {}
        self._failing: set[str] = set()
        self._haste_at = 0.0
        self._pause_until = 0.0

    def stop(self) -> None:
        """Begin no more requests; `run` ends with those that are under way."""
        self._stopping.set()

    async def run(self) -> None:
        """Send until :meth:`stop`, over outages of Redis and of the receiver."""
        stopping = asyncio.create_task(self._stopping.wait())
        reading = None
        refresh_at = 0.0
        try:
            while not self._stopping.is_set():
                if reading is None and time.monotonic() >= refresh_at:
                    refresh_at = time.monotonic() + _REFRESH_SECONDS
                    reading = self._task(self._read(anew=True))
                elif reading is None and len(self._window) < WINDOW:
                    reading = self._task(self._read(anew=False))
                due = self._begin_due()
                awaited = {stopping, *self._flights, *({reading} if reading is not None else ())}
                # A read ends within seconds.
                look_at = due if reading is not None else min(due, refresh_at)
                pause = None if look_at == float("inf") else max(0.0, look_at - time.monotonic())
                await asyncio.wait(awaited, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                if reading is not None and reading.done():
                    reading.result()
                    reading = None
                self._reap()
            while self._flights:
                await asyncio.wait(self._flights)
                self._reap()
        finally:
            await cancel_all({stopping, *self._flights, *({reading} if reading is not None else ())})

    def _task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.create_task(work, name=f"events to {self._receiver.host}")

    def _reap(self) -> None:
        for task in [task for task in self._flights if task.done()]:
            del self._flights[task]
            task.result()

    async def _read(self, *, anew: bool) -> None:
        """Read the oldest events, or wait for those behind the known ones.

        Now and then all are read again: after a failover ids may be lower than known ones.
        """
        last = "" if anew else next(reversed(self._window), "")
        most = WINDOW - (0 if anew else len(self._window))
        if anew:
            self._removed.clear()
        try:
            read = await self._outbox.read(self._receiver.key, last, most, wait=not anew)
        except (RedisError, OSError):
            await asyncio.sleep(_AWAY_SECONDS)
            return
        under_way = {entry.id for entry in self._flights.values()} if anew else self._window.keys()
        known = {id_: entry for id_, entry in self._window.items() if id_ in under_way}
        self._window = known | {entry.id: entry for entry in read if entry.id not in self._removed}
        if anew:
            present = {entry.subject for entry in self._window.values()}
            self._waits = {subject: wait for subject, wait in self._waits.items() if subject in present}

    def _begin_due(self) -> float:
        """Begin what is due and has a place; return when to look again (`time.monotonic`)."""
        now = time.monotonic()
        if not self._term.is_sure:
            return now + 1.0
        if self._pause_until > now:
            return self._pause_until
        most = MOST_IN_FLIGHT if len(self._failing) < _FAILING else 1
        # The oldest of each subject only, so that the events of an image keep their order.
        seen = {entry.subject for entry in self._flights.values()}
        soonest = float("inf")
        for entry in self._window.values():
            if len(self._flights) >= most:
                break
            if entry.subject in seen:
                continue
            seen.add(entry.subject)
            if (wait := self._waits.get(entry.subject)) is not None and wait.due > now:
                soonest = min(soonest, wait.due)
            else:
                self._flights[self._task(self._send(entry))] = entry
        return soonest

    async def _send(self, entry: OutboxEntry) -> None:
        if (self._term.now() - entry.at).total_seconds() > PATIENCE:
            await self._remove(entry, given_up=True)
            return
        if (message := self._encode(entry)) is None:
            self._waits[entry.subject] = _BackOff(0, time.monotonic() + MAX_PAUSE)
            return
        event_id, body = message
        timestamp = int(time.time())
        headers = {
            "Content-Type": "application/cloudevents+json",
            "webhook-id": event_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(self._receiver.secret, event_id, timestamp, body),
        }
        reply = await self._poster.post(self._receiver.url, body, headers)
        taken = reply.status is not None and 200 <= reply.status < 300
        self._sent(self._receiver.host, taken, (self._term.now() - entry.at).total_seconds())
        if not taken:
            self._failed(entry, reply)
            return
        if len(self._failing) >= _FAILING and time.monotonic() >= self._haste_at:
            log.info("events taken again", receiver=self._receiver.host)
            # What failed meanwhile most likely failed for the same reason.
            self._haste_at = time.monotonic() + _HASTE_PAUSE
            for wait in self._waits.values():
                wait.due = 0.0
        self._failing.clear()
        await self._remove(entry)

    def _encode(self, entry: OutboxEntry) -> tuple[str, bytes] | None:
        try:
            event = event_of(entry, self._source)
            return None if event is None else (event.id, encode(event))
        except Exception:
            # A fault here must not stop the other events.
            log.exception("event not written", type=entry.type)
            return None

    def _failed(self, entry: OutboxEntry, reply: Reply) -> None:
        """Put off the events of an image, and all of them as long as the receiver asks for that."""
        now, host, subject = time.monotonic(), self._receiver.host, entry.subject
        tries = self._waits[subject].failures + 1 if subject in self._waits else 1
        pause = min(MAX_PAUSE, self._first * 2.0 ** min(tries - 1, 32))
        self._waits[subject] = _BackOff(tries, now + pause)
        if reply.retry_after is not None:
            self._pause_until = now + min(reply.retry_after, MAX_PAUSE)
        is_first = not self._failing
        self._failing.add(subject)
        if is_first:
            text = ErrorText(f"{host} did not accept an event", reply.failure or f"it answered {reply.status}", AGAIN)
            log.warning("event delayed", receiver=host, type=entry.type, subject=subject, **text.to_json())

    async def _remove(self, entry: OutboxEntry, *, given_up: bool = False) -> None:
        """Remove an event from the outbox, before the next one of its image is sent."""
        while True:
            try:
                if not await self._outbox.remove(self._receiver.key, [entry.id], given_up=given_up):
                    self._term.lose()
                break
            except QueueUnavailable:
                await asyncio.sleep(_AWAY_SECONDS)
        self._removed.add(entry.id)
        self._window.pop(entry.id, None)
        self._waits.pop(entry.subject, None)

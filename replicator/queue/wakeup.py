"""Hearing of something at once, over pub/sub. A message that gets lost costs no more than the next poll does."""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog
from redis.exceptions import NoPermissionError

from replicator.cancelling import cancel_all
from replicator.queue.client import FAULTS, Queue

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from redis.asyncio.client import PubSub

log = structlog.get_logger("replicator.queue")

_PROBE_SECONDS = 15.0
_FORBIDDEN_SECONDS = 60.0


async def listen(
    queue: Queue, channel: str, events: Mapping[str, asyncio.Event], *, forbidden: int = logging.WARNING
) -> None:
    """Set an event whenever its name is announced, until cancelled; and all of them when it begins to hear.

    Args:
        queue: whose Redis.
        channel: where the announcements are made.
        events: by name; the mapping may change meanwhile.
        forbidden: the level of the log line that says that the channel may not be listened to.
    """
    while True:
        subscription = queue.redis.pubsub()
        pause = 0.2
        try:
            await subscription.subscribe(channel)
            await _hear(subscription, events)
        except NoPermissionError as error:
            log.log(forbidden, "queue polled", reason=str(error), channel=channel)
            pause = _FORBIDDEN_SECONDS
        except FAULTS as error:
            # No matter for a warning: who picks jobs notices an outage too, and a cut connection harms nothing.
            log.debug("wake-up connection lost", error=str(error))
        finally:
            await subscription.aclose()  # type: ignore[no-untyped-call]  # redis-py leaves it without types
        await asyncio.sleep(pause)


class Listener:
    """Listens to a channel for as long as somebody in this process waits for a name to be announced there.

    Args:
        queue: whose Redis.
        channel: where the announcements are made.
    """

    def __init__(self, queue: Queue, channel: str) -> None:
        self._queue = queue
        self._channel = channel
        self._events: dict[str, asyncio.Event] = {}
        self._waiting: dict[str, int] = {}
        self._listening: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()

    @contextmanager
    def awaited(self, name: str) -> Iterator[asyncio.Event]:
        """Give an event that is set when ``name`` is announced, and may be set without."""
        event = self._events.setdefault(name, asyncio.Event())
        self._waiting[name] = self._waiting.get(name, 0) + 1
        if self._listening is None:
            work = listen(self._queue, self._channel, self._events, forbidden=logging.DEBUG)
            self._listening = asyncio.create_task(work)
        try:
            yield event
        finally:
            self._waiting[name] -= 1
            if not self._waiting[name]:
                del self._waiting[name], self._events[name]
            if not self._events:
                self._end(self._listening)
                self._listening = None

    def _end(self, listening: asyncio.Task[None]) -> None:
        ending = asyncio.create_task(cancel_all({listening}))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)


async def _hear(subscription: PubSub, events: Mapping[str, asyncio.Event]) -> None:
    """Read messages; return when the connection is silent although it was asked to answer."""
    probed = False
    while True:
        message = await subscription.get_message(timeout=_PROBE_SECONDS)
        if message is None:
            # A connection that a firewall has forgotten looks idle for ever.
            if probed:
                return
            await subscription.ping()
            probed = True
            continue
        probed = False
        if message["type"] == "subscribe":
            # Whatever was announced before is not heard again.
            for event in events.values():
                event.set()
        elif message["type"] == "message" and (event_ := events.get(message["data"].decode())) is not None:
            event_.set()

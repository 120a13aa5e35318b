"""Hearing of new work at once, over pub/sub. A message that gets lost costs no more than the wait for the next poll."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog
from redis.exceptions import NoPermissionError

from replicator.queue.client import FAULTS, Queue

if TYPE_CHECKING:
    from collections.abc import Mapping

    from redis.asyncio.client import PubSub

log = structlog.get_logger("replicator.queue")

_PROBE_SECONDS = 15.0
_FORBIDDEN_SECONDS = 60.0


async def listen(queue: Queue, lanes: Mapping[str, asyncio.Event]) -> None:
    """Set the event of a lane whenever work is announced for it, until cancelled.

    Args:
        queue: whose announcements.
        lanes: the event of each lane, by the lane's name.
    """
    while True:
        subscription = queue.redis.pubsub()
        pause = 0.2
        try:
            await subscription.subscribe(queue.wake_channel)
            await _hear(subscription, lanes)
        except NoPermissionError as error:
            log.warning("queue polled", reason=str(error), channel=queue.wake_channel)
            pause = _FORBIDDEN_SECONDS
        except FAULTS as error:
            # No matter for a warning: who picks jobs notices an outage too, and a cut connection harms nothing.
            log.debug("wake-up connection lost", error=str(error))
        finally:
            await subscription.aclose()  # type: ignore[no-untyped-call]  # redis-py leaves it without types
        await asyncio.sleep(pause)


async def _hear(subscription: PubSub, lanes: Mapping[str, asyncio.Event]) -> None:
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
            for event in lanes.values():
                event.set()
        elif message["type"] == "message" and (event_ := lanes.get(message["data"].decode())) is not None:
            event_.set()

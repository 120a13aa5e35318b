"""Sending messages: each to every receiver, in order, with retries for a limited time.

No part of an address appears in what is logged about it.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import structlog

from replicator.errors import AGAIN, ErrorText
from replicator.receivers import Format
from replicator.server.notify.formats import post_of
from replicator.server.notify.message import PendingMessage
from replicator.server.posting import SECONDS, open_poster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from replicator.receivers import Receiver
    from replicator.server.notify.message import Message, Origin
    from replicator.server.posting import Poster

log = structlog.get_logger("replicator.notify")

MAX_PENDING = 50
"""Messages that wait at most; the oldest are dropped if there are more."""
_FIRST_PAUSE = 5.0
_MAX_PAUSE = 300.0
_TRY = "correct the receiver, then try it with replicator notify test"


class Sender:
    """Sends the pending messages of all receivers.

    Args:
        receivers: the receivers of every message.
        messenger: sends one message to one receiver.
        patience: seconds for which a message is retried.
        first: seconds until the first retry; every further pause is twice as long.
    """

    def __init__(
        self,
        receivers: Iterable[Receiver],
        messenger: Messenger,
        *,
        patience: float = 3600.0,
        first: float = _FIRST_PAUSE,
    ) -> None:
        self._receivers = {receiver.key: receiver for receiver in receivers}
        self._messenger = messenger
        self._patience = int(patience * 1000)
        self._first = first
        # Delivered or dropped, but perhaps not yet removed from Redis, which may have been down at that moment.
        self._done: set[tuple[str, str]] = set()

    def with_new(
        self, pending: Sequence[PendingMessage], messages: Iterable[Message], now: int
    ) -> tuple[PendingMessage, ...]:
        """Return what is to be sent: the pending messages of today's receivers, and the new ones for each of them.

        Args:
            pending: as Redis has it.
            messages: the new ones.
            now: milliseconds since 1970 by Redis's clock.
        """
        self._done &= {_id(each) for each in pending}
        kept = [each for each in pending if each.receiver in self._receivers and _id(each) not in self._done]
        kept += [PendingMessage(key, message, now + self._patience) for message in messages for key in self._receivers]
        for each in kept[: max(0, len(kept) - MAX_PENDING)]:
            self._log_dropped(each, "too many are waiting")
        return tuple(kept[-MAX_PENDING:])

    async def send(self, pending: Sequence[PendingMessage], now: int) -> tuple[PendingMessage, ...]:
        """Send the oldest message of each receiver, if it is due; return what is still pending.

        Only the oldest, so that every receiver gets its messages in order.

        Args:
            pending: the oldest first.
            now: milliseconds since 1970 by Redis's clock.
        """
        oldest: dict[str, PendingMessage] = {}
        for each in pending:
            oldest.setdefault(each.receiver, each)
        # A time too far ahead was noted before the clock was set back, and counts as due.
        due = [each for each in oldest.values() if each.due <= now or each.due > now + int(_MAX_PAUSE * 2000)]
        after = await asyncio.gather(*(self._attempt(each, now) for each in due))
        changed = {_id(each): then for each, then in zip(due, after, strict=True)}
        left = (changed.get(_id(each), each) for each in pending)
        return tuple(each for each in left if each is not None)

    async def _attempt(self, pending: PendingMessage, now: int) -> PendingMessage | None:
        """Send one; return it if it is to be retried."""
        receiver = self._receivers[pending.receiver]
        result = await self._messenger.send(receiver, pending.message)
        facts: dict[str, Any] = {
            "receiver": receiver.host,
            "occasion": str(pending.message.occasion),
            "tries": pending.tries + 1,
        }
        if result.taken:
            log.info("notification sent", **facts)
            self._done.add(_id(pending))
            return None
        pause = self._pause(pending, result)
        if result.retry and now + pause < pending.until:
            parts = ErrorText(f"{receiver.host} did not accept a notification", result.words, AGAIN).to_json()
            log.warning("notification delayed", reason=result.words, wait=round(pause / 1000, 3), **facts, **parts)
            return replace(pending, due=now + pause, tries=pending.tries + 1)
        self._log_dropped(pending, result.words)
        self._done.add(_id(pending))
        return None

    def _pause(self, pending: PendingMessage, result: DeliveryResult) -> int:
        """Return the milliseconds until the next attempt: exponential back-off, or Retry-After if that is longer."""
        pause = min(_MAX_PAUSE, self._first * 2.0 ** min(pending.tries, 32))
        return int(max(pause, min(result.retry_after or 0.0, 2 * _MAX_PAUSE)) * 1000)

    def _log_dropped(self, pending: PendingMessage, reason: str) -> None:
        message, host = pending.message, self._receivers[pending.receiver].host
        log.error(
            "notification dropped",
            receiver=host,
            reason=reason,
            tries=pending.tries + 1,
            occasion=str(message.occasion),
            title=message.title,
            **ErrorText(f"{host} did not accept a notification", reason, _TRY).to_json(),
        )


def _id(pending: PendingMessage) -> tuple[str, str]:
    return pending.receiver, pending.message.id


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """How an attempt to deliver a message ended.

    Attributes:
        taken: whether the receiver accepted it.
        words: what happened, and what to do about a failure; without secrets.
        retry: whether another attempt may succeed.
        retry_after: seconds that the receiver asked to wait; None if it did not.
    """

    taken: bool
    words: str
    retry: bool = False
    retry_after: float | None = None


_CODES = {Format.DINGTALK: "errcode", Format.WECOM: "errcode", Format.FEISHU: "code"}
"""The field of a 200 answer that says whether the message was accepted: 0."""
_BUSY, _TOO_MANY = "the service is busy", "rate limited by the service"
_RETRY = {
    Format.DINGTALK: {-1: _BUSY, 130101: _TOO_MANY, 410100: _TOO_MANY},
    Format.WECOM: {-1: _BUSY, 45009: _TOO_MANY, 45033: _TOO_MANY},
    Format.FEISHU: {11232: _TOO_MANY},
}
"""Transient error codes."""
_SETUP = "check the address, the secret after #, and the robot's security settings"
_UNKNOWN_ROBOT = "unknown robot: copy its address again"
_REFUSED = {
    Format.DINGTALK: {
        300005: _UNKNOWN_ROBOT,
        300001: _UNKNOWN_ROBOT,
        310000: "refused by the robot's security settings: check the secret after #, the keyword (replicator) or the "
        "allowed addresses",
        430101: "the robot does not allow links",
    },
    Format.WECOM: {93000: _UNKNOWN_ROBOT},
    Format.FEISHU: {
        19001: _UNKNOWN_ROBOT,
        19021: "wrong signature: check the secret after #, and this machine's clock",
        19022: "this machine's address is not in the bot's allow list",
        19024: "the bot requires a keyword: set it to replicator",
    },
}
"""Permanent error codes. The explanations are ours: the service's own text may repeat the address or the secret."""


def interpret(form: Format, status: int, body: bytes, retry_after: float | None = None) -> DeliveryResult:
    """Interpret an answer.

    Args:
        form: the receiver's format.
        status: the HTTP status.
        body: the beginning of the body.
        retry_after: seconds from the ``Retry-After`` header.
    """
    if 300 <= status < 400:
        return DeliveryResult(False, f"{status}: redirects are not followed: configure the final address")
    if status == 429 or status >= 500:
        return DeliveryResult(False, f"{status}: temporarily unavailable", retry=True, retry_after=retry_after)
    if not 200 <= status < 300:
        return DeliveryResult(False, f"{status}: refused: {_SETUP}")
    if form not in _CODES:
        return DeliveryResult(True, f"{status}: accepted")
    code = _code(body, _CODES[form])
    if code == 0:
        return DeliveryResult(True, f"{status}: accepted")
    if code is None:
        return DeliveryResult(False, f"{status}, but not an answer of {form}: is it the robot's address?")
    if (words := _RETRY[form].get(code)) is not None:
        return DeliveryResult(False, f"code {code}: {words}", retry=True)
    return DeliveryResult(False, f"code {code}: {_REFUSED[form].get(code, _SETUP)}")


def _code(body: bytes, name: str) -> int | None:
    try:
        answer = json.loads(body)
        # Feishu's older answers call it StatusCode.
        code = answer[name] if name in answer else answer["StatusCode"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return code if isinstance(code, int) else None


class Messenger:
    """Sends one message to one receiver at a time, see `open_messenger`."""

    def __init__(self, poster: Poster, origin: Origin) -> None:
        self._poster = poster
        self._origin = origin

    async def send(self, receiver: Receiver, message: Message) -> DeliveryResult:
        """Send a message once, in bounded time. Raises nothing."""
        post = post_of(receiver, message, self._origin, time.time())
        reply = await self._poster.post(post.url, post.body, post.headers)
        if reply.status is None:
            return DeliveryResult(False, reply.failure, retry=True)
        return interpret(receiver.format, reply.status, reply.body, reply.retry_after)


@asynccontextmanager
async def open_messenger(origin: Origin, seconds: float = SECONDS) -> AsyncIterator[Messenger]:
    """Open a `Messenger`.

    Args:
        origin: the sender of the messages.
        seconds: for one request and its answer.

    Raises:
        ConfigError: the environment names a proxy that can't be used.
    """
    async with open_poster(seconds) as poster:
        yield Messenger(poster, origin)

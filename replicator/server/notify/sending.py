"""Sending messages: each to every receiver, in order, with retries for a limited time.

A request goes to no other host than the receiver's, is bounded in time and size, and no part of an address appears in
what is logged about it.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import aiohttp
import structlog

from replicator import __version__
from replicator.errors import AGAIN, ErrorText
from replicator.networks import Format
from replicator.registry.client import ProxyConnector
from replicator.registry.connection_errors import proxy_error
from replicator.registry.proxies import Proxies
from replicator.server.notify.formats import post_of
from replicator.server.notify.message import PendingMessage
from replicator.settings import variables

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from replicator.networks import Receiver
    from replicator.server.notify.message import Message, Origin

log = structlog.get_logger("replicator.notify")

MAX_PENDING = 50
"""Messages that wait at most; the oldest are dropped if there are more."""
SECONDS = 10.0
"""For one request and its answer."""
_FIRST_PAUSE = 5.0
_MAX_PAUSE = 300.0
_MAX_ANSWER = 16 * 1024
_MAX_RETRY_AFTER = 3600.0
_TRY = "correct the receiver, then try it with replicator notify test"


class Sender:
    """Sends the pending messages of all receivers.

    Args:
        receivers: who gets every message.
        poster: sends one message to one receiver.
        patience: seconds for which a message is retried.
        first: seconds until the first retry; every further pause is twice as long.
    """

    def __init__(
        self, receivers: Iterable[Receiver], poster: Poster, *, patience: float = 3600.0, first: float = _FIRST_PAUSE
    ) -> None:
        self._receivers = {receiver.key: receiver for receiver in receivers}
        self._poster = poster
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
        result = await self._poster.send(receiver, pending.message)
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
            parts = ErrorText(f"{receiver.host} has not taken a notification", result.words, AGAIN).to_json()
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
            **ErrorText(f"{host} has not taken a notification", reason, _TRY).to_json(),
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


class Poster:
    """Sends one message to one receiver at a time, over a session of `open_poster`."""

    def __init__(self, session: aiohttp.ClientSession, origin: Origin, seconds: float, proxies: Proxies) -> None:
        self._session = session
        self._proxies = proxies
        self._origin = origin
        self._seconds = seconds

    async def send(self, receiver: Receiver, message: Message) -> DeliveryResult:
        """Send a message once, in bounded time. Raises nothing."""
        try:
            async with asyncio.timeout(self._seconds):
                return await self._send(receiver, message)
        except TimeoutError:
            return DeliveryResult(False, f"no answer within {self._seconds:g} s", retry=True)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # Not the library's own text: it may quote the address.
            proxy = self._proxies.find(receiver.url)
            failed = proxy_error(receiver.url, error, proxy) if proxy is not None else None
            return DeliveryResult(False, str(failed) if failed is not None else _failure(error), retry=True)

    async def _send(self, receiver: Receiver, message: Message) -> DeliveryResult:
        post = post_of(receiver, message, self._origin, time.time())
        proxy = self._proxies.find(receiver.url)
        login = proxy.credentials if proxy is not None else {}
        async with self._session.post(
            post.url,
            data=post.body,
            headers={**post.headers, **(login if receiver.url.scheme == "http" else {})},
            allow_redirects=False,
            proxy=proxy.url if proxy is not None else None,
            proxy_headers=login,
        ) as response:
            if response.status == 407 and proxy is not None:
                return DeliveryResult(False, str(proxy.refusal(receiver.url, 407)), retry=True)
            body = bytearray()
            while len(body) < _MAX_ANSWER and (part := await response.content.read(_MAX_ANSWER - len(body))):
                body += part
            retry_after = _seconds(response.headers.get("Retry-After"))
            return interpret(receiver.format, response.status, bytes(body), retry_after)


@asynccontextmanager
async def open_poster(origin: Origin, seconds: float = SECONDS) -> AsyncIterator[Poster]:
    """Open a `Poster`.

    Args:
        origin: who sends the messages.
        seconds: for one request and its answer.

    Raises:
        ConfigError: the environment names a proxy that can't be used.
    """
    proxies = Proxies.from_environ(variables())
    async with aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(),
        # A compressed answer is left compressed: unpacked it could be huge.
        headers={"User-Agent": f"replicator/{__version__}", "Accept-Encoding": "identity"},
        auto_decompress=False,
        connector=ProxyConnector(force_close=True),
    ) as session:
        yield Poster(session, origin, seconds, proxies)


def _seconds(text: str | None) -> float | None:
    return min(float(text), _MAX_RETRY_AFTER) if text is not None and text.isascii() and text.isdecimal() else None


def _failure(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its TLS certificate is not trusted here: SSL_CERT_FILE can name a private authority"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the host name can't be resolved"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return "the server does not speak TLS: is it plain http://?"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "can't connect: is the host reachable from here?"
    return f"the connection broke: {type(error).__name__}"

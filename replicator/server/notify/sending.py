"""Messages on their way: each to every receiver, in order, again after a failure, and not for ever.

What a receiver's answer means, in our own words: theirs may repeat a secret.

One request to one receiver: bounded in time and size, to no other host, and with no secret in what is told of it.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import aiohttp
import structlog

from replicator import __version__
from replicator.receivers import Format
from replicator.server.notify.formats import post_of
from replicator.server.notify.message import PendingMessage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

    from replicator.receivers import Receiver
    from replicator.server.notify.message import Message, Origin

log = structlog.get_logger("replicator.notify")

MOST = 50
"""Parcels that wait at the most; the oldest go first when there are more."""
_FIRST_PAUSE = 5.0
_LONGEST_PAUSE = 300.0


class Sending:
    """The way to the receivers.

    Args:
        receivers: who gets every message.
        poster: sends one to one.
        patience: seconds for which a message is tried.
        first: seconds until a second try; they double with every further one.
    """

    def __init__(
        self, receivers: Iterable[Receiver], poster: Poster, *, patience: float = 3600.0, first: float = _FIRST_PAUSE
    ) -> None:
        self._receivers = {receiver.key: receiver for receiver in receivers}
        self._poster = poster
        self._patience = int(patience * 1000)
        self._first = first
        # What Redis was not told of yet.
        self._done: set[tuple[str, str]] = set()

    def packed(
        self, waiting: Sequence[PendingMessage], messages: Iterable[Message], now: int
    ) -> tuple[PendingMessage, ...]:
        """Return what is to be sent: what waits already, and new messages; what nobody waits for is left out.

        Args:
            waiting: as all processes know it.
            messages: new ones.
            now: milliseconds since 1970 by Redis's clock.
        """
        known = {_name(parcel) for parcel in waiting}
        self._done &= known
        kept = [parcel for parcel in waiting if parcel.receiver in self._receivers and _name(parcel) not in self._done]
        kept += [PendingMessage(key, message, now + self._patience) for message in messages for key in self._receivers]
        for parcel in kept[: max(0, len(kept) - MOST)]:
            self._lost(parcel, "too many are waiting")
        return tuple(kept[-MOST:])

    async def send(self, parcels: Sequence[PendingMessage], now: int) -> tuple[PendingMessage, ...]:
        """Send the oldest of each receiver, if it is due.

        Args:
            parcels: what waits.
            now: milliseconds since 1970 by Redis's clock.

        Returns:
            What still waits.
        """
        oldest: dict[str, PendingMessage] = {}
        for parcel in parcels:
            oldest.setdefault(parcel.receiver, parcel)
        # A clock that was set back does not put a try off for longer than it would have been.
        due = [each for each in oldest.values() if each.due <= now or each.due > now + int(_LONGEST_PAUSE * 2000)]
        after = await asyncio.gather(*(self._try(parcel, now) for parcel in due))
        changed = {_name(parcel): then for parcel, then in zip(due, after, strict=True)}
        left = (changed.get(_name(parcel), parcel) for parcel in parcels)
        return tuple(parcel for parcel in left if parcel is not None)

    async def _try(self, parcel: PendingMessage, now: int) -> PendingMessage | None:
        """Send one; return it if it is to be tried again."""
        receiver = self._receivers[parcel.receiver]
        verdict = await self._poster.send(receiver, parcel.message)
        about = {"receiver": receiver.host, "occasion": str(parcel.message.occasion), "tries": parcel.tries + 1}
        if verdict.taken:
            log.info("notification sent", **about)
            self._done.add(_name(parcel))
            return None
        pause = self._pause(parcel, verdict)
        if verdict.again and now + pause < parcel.until:
            log.warning("notification delayed", reason=verdict.words, wait=round(pause / 1000, 3), **about)
            return replace(parcel, due=now + pause, tries=parcel.tries + 1)
        self._lost(parcel, verdict.words)
        self._done.add(_name(parcel))
        return None

    def _pause(self, parcel: PendingMessage, verdict: DeliveryResult) -> int:
        pause = min(_LONGEST_PAUSE, self._first * 2.0 ** min(parcel.tries, 32))
        return int(max(pause, min(verdict.retry_after or 0.0, 2 * _LONGEST_PAUSE)) * 1000)

    def _lost(self, parcel: PendingMessage, reason: str) -> None:
        message = parcel.message
        receiver = self._receivers[parcel.receiver].host
        about: Mapping[str, object] = {"occasion": str(message.occasion), "title": message.title}
        log.error("notification dropped", receiver=receiver, reason=reason, tries=parcel.tries + 1, **about)


def _name(parcel: PendingMessage) -> tuple[str, str]:
    return parcel.receiver, parcel.message.id


_CODES = {Format.DINGTALK: "errcode", Format.WECOM: "errcode", Format.FEISHU: "code"}
"""Where an answer of 200 says whether the message was taken: 0."""
_AGAIN = {
    Format.DINGTALK: {-1: "it is busy", 130101: "too many messages", 410100: "too many messages"},
    Format.WECOM: {-1: "it is busy", 45009: "too many messages", 45033: "too many messages"},
    Format.FEISHU: {11232: "too many messages"},
}
"""Codes of what passes."""
_SETUP = "check the address, the secret behind #, and the robot's security settings"
_REFUSED = {
    Format.DINGTALK: {
        300005: "the robot is not known: copy its address anew",
        300001: "the robot is not known: copy its address anew",
        310000: "its security settings refuse it: secret behind #, keyword (replicator) or sender's address",
        430101: "a link is not allowed there",
    },
    Format.WECOM: {93000: "the robot is not known: copy its address anew"},
    Format.FEISHU: {
        19001: "the bot is not known: copy its address anew",
        19021: "the signature does not fit: check the secret behind #, and this machine's clock",
        19022: "the sender's address is not among those that the bot takes",
        19024: "the bot wants a keyword: make it replicator",
    },
}


@dataclass(frozen=True, slots=True)
class DeliveryResult:
    """What became of a message.

    Attributes:
        taken: whether the receiver has it.
        words: what happened; of a failure, with what to do. No secret is in it.
        again: whether another try may go better.
        retry_after: seconds that the receiver asked to wait; None if it did not.
    """

    taken: bool
    words: str
    again: bool = False
    retry_after: float | None = None


def judge(form: Format, status: int, body: bytes, retry_after: float | None = None) -> DeliveryResult:
    """Say what an answer means.

    Args:
        form: what the receiver understands.
        status: HTTP's.
        body: the beginning of it.
        retry_after: what the answer says of it, in seconds.
    """
    if 300 <= status < 400:
        return DeliveryResult(False, f"{status}: it leads elsewhere, which is not followed: give the final address")
    if status == 429 or status >= 500:
        return DeliveryResult(False, f"{status}: it can't take it now", again=True, retry_after=retry_after)
    if not 200 <= status < 300:
        return DeliveryResult(False, f"{status}: refused: {_SETUP}")
    if form not in _CODES:
        return DeliveryResult(True, f"{status}: taken")
    code = _code(body, _CODES[form])
    if code == 0:
        return DeliveryResult(True, f"{status}: taken")
    if code is None:
        return DeliveryResult(False, f"{status}, but no answer of {form}: is it the robot's address?")
    if (words := _AGAIN[form].get(code)) is not None:
        return DeliveryResult(False, f"code {code}: {words}", again=True)
    return DeliveryResult(False, f"code {code}: {_REFUSED[form].get(code, _SETUP)}")


def _code(body: bytes, name: str) -> int | None:
    try:
        answer = json.loads(body)
        # Feishu's older answers have it under another name.
        code = answer[name] if name in answer else answer["StatusCode"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return code if isinstance(code, int) else None


SECONDS = 10.0
"""What a request may take in all."""
_MAX_ANSWER = 16 * 1024
_MAX_RETRY_AFTER = 3600.0


class Poster:
    """Sends messages.

    Args:
        session: an open client session.
        origin: who tells them.
        seconds: what a request may take in all.
    """

    def __init__(self, session: aiohttp.ClientSession, origin: Origin, seconds: float = SECONDS) -> None:
        self._session = session
        self._origin = origin
        self._seconds = seconds

    async def send(self, receiver: Receiver, message: Message) -> DeliveryResult:
        """Send a message once, and say what became of it. It raises nothing, and takes bounded time."""
        try:
            async with asyncio.timeout(self._seconds):
                return await self._send(receiver, message)
        except TimeoutError:
            return DeliveryResult(False, f"no answer within {self._seconds:g} s", again=True)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # The client library's own words may quote the address.
            return DeliveryResult(False, _failure(error), again=True)

    async def _send(self, receiver: Receiver, message: Message) -> DeliveryResult:
        post = post_of(receiver, message, self._origin, time.time())
        async with self._session.post(
            post.url, data=post.body, headers=post.headers, allow_redirects=False
        ) as response:
            body = bytearray()
            while len(body) < _MAX_ANSWER and (part := await response.content.read(_MAX_ANSWER - len(body))):
                body += part
            return judge(receiver.format, response.status, bytes(body), _seconds(response.headers.get("Retry-After")))


@asynccontextmanager
async def open_poster(origin: Origin, seconds: float = SECONDS) -> AsyncIterator[Poster]:
    """Open a `Poster`; what it takes is said there."""
    async with aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(),
        # Nothing is to be compressed, and what is all the same is not unpacked: it could be huge then.
        headers={"User-Agent": f"replicator/{__version__}", "Accept-Encoding": "identity"},
        auto_decompress=False,
        connector=aiohttp.TCPConnector(force_close=True),
    ) as session:
        yield Poster(session, origin, seconds)


def _seconds(text: str | None) -> float | None:
    return min(float(text), _MAX_RETRY_AFTER) if text is not None and text.isascii() and text.isdecimal() else None


def _failure(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its TLS certificate is not trusted here: SSL_CERT_FILE can name its authority"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the host's name can't be resolved"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return "no TLS there: is it plain http://?"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "can't connect: is it reachable from here?"
    return f"the connection broke: {type(error).__name__}"

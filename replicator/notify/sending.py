"""Messages on their way: each to every receiver, in order, again after a failure, and not for ever."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from replicator.notify.memory import Parcel

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from replicator.notify.message import Message
    from replicator.notify.posting import Poster
    from replicator.notify.verdicts import Verdict
    from replicator.receivers import Receiver

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

    def packed(self, waiting: Sequence[Parcel], messages: Iterable[Message], now: int) -> tuple[Parcel, ...]:
        """Return what is to be sent: what waits already, and new messages; what nobody waits for is left out.

        Args:
            waiting: as all processes know it.
            messages: new ones.
            now: milliseconds since 1970 by Redis's clock.
        """
        known = {_name(parcel) for parcel in waiting}
        self._done &= known
        kept = [parcel for parcel in waiting if parcel.receiver in self._receivers and _name(parcel) not in self._done]
        kept += [Parcel(key, message, now + self._patience) for message in messages for key in self._receivers]
        for parcel in kept[: max(0, len(kept) - MOST)]:
            self._lost(parcel, "too many are waiting")
        return tuple(kept[-MOST:])

    async def send(self, parcels: Sequence[Parcel], now: int) -> tuple[Parcel, ...]:
        """Send the oldest of each receiver, if it is due.

        Args:
            parcels: what waits.
            now: milliseconds since 1970 by Redis's clock.

        Returns:
            What still waits.
        """
        oldest: dict[str, Parcel] = {}
        for parcel in parcels:
            oldest.setdefault(parcel.receiver, parcel)
        # A clock that was set back does not put a try off for longer than it would have been.
        due = [each for each in oldest.values() if each.due <= now or each.due > now + int(_LONGEST_PAUSE * 2000)]
        after = await asyncio.gather(*(self._try(parcel, now) for parcel in due))
        changed = {_name(parcel): then for parcel, then in zip(due, after, strict=True)}
        left = (changed.get(_name(parcel), parcel) for parcel in parcels)
        return tuple(parcel for parcel in left if parcel is not None)

    async def _try(self, parcel: Parcel, now: int) -> Parcel | None:
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

    def _pause(self, parcel: Parcel, verdict: Verdict) -> int:
        pause = min(_LONGEST_PAUSE, self._first * 2.0 ** min(parcel.tries, 32))
        return int(max(pause, min(verdict.retry_after or 0.0, 2 * _LONGEST_PAUSE)) * 1000)

    def _lost(self, parcel: Parcel, reason: str) -> None:
        message = parcel.message
        receiver = self._receivers[parcel.receiver].host
        about: Mapping[str, object] = {"occasion": str(message.occasion), "title": message.title}
        log.error("notification dropped", receiver=receiver, reason=reason, tries=parcel.tries + 1, **about)


def _name(parcel: Parcel) -> tuple[str, str]:
    return parcel.receiver, parcel.message.id

"""Rates: how many bytes or requests a second go to one host, pushes before backfills.

A rate is a token bucket of a quarter of a second. Tokens that are not used within that time are lost, so the average
over any longer span is the limit. A caller asks, and asks again after the pause in the answer. Nothing is promised
ahead, so a push that comes in between goes first. Event loops and threads use the same object.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

from replicator.retry import waiting
from replicator.timetable import UNLIMITED, HostTimetables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from replicator.timetable import Timetable

_BURST_SECONDS = 0.25
_PIECE_SECONDS = 0.05
_LEAST_PIECE, _MOST_PIECE = 2 * 1024, 64 * 1024
"""Bytes that go at once. A slow rate takes smaller pieces, so that bodies move smoothly."""
_FLOOR_SECONDS = 8.0
"""Time in which a body of a backfill that is held back for pushes still moves 64 KiB (and a request goes), so that no
proxy takes its connection for idle."""
_FLOOR_SHARE = 0.2
"""What all such bodies take of the rate at most."""
_ASK_AGAIN = 0.05
"""Seconds after which a backfill's body asks again while pushes go first."""
_LONGEST_PAUSE, _SHORTEST_PAUSE = 1.0, 0.001
_LATE_SECONDS = 0.1
_IDLE_SECONDS = 2.0
_HELD_BACK = 0.2
"""Bodies that wait on average, from which on a rate counts as the bottleneck."""
_LEAST_SHARE = 0.001


class Load(NamedTuple):
    """The use of a rate since the last question.

    Attributes:
        active: something asked for a turn in the last seconds.
        events: how many bodies or requests of pushes waited for their turn, on average.
        bulk: the same of backfills.
        used_events: usage by pushes, as a fraction of the limit.
        used_bulk: the same of backfills.
    """

    active: bool
    events: float
    bulk: float
    used_events: float
    used_bulk: float


@dataclass(slots=True)
class _Class:
    """Pushes, or backfills: the waiting turns, and the usage since the last `Rate.load`."""

    line: dict[Turn, None] = field(default_factory=dict)
    waited: float = 0.0
    used: float = 0.0

    def load(self, seconds: float) -> float:
        held_back = self.waited / seconds
        return held_back if held_back >= _HELD_BACK else 0.0


class Rate:
    """The rate of one host, or of one process's share of it.

    Args:
        timetable: its limit over time.
        least: the minimum that goes at once, however slow it is: 1 for requests.
        most: the maximum that goes at once.
        clock: a monotonic clock, in seconds.
        wall: the time of day, in seconds since 1970.
        on_start: called when something asks after a pause of seconds; it must not block.
        share: the first share of this process in the limit, from 0 to 1.

    Attributes:
        timetable: its limit over time, of all processes together; see `renew`.
    """

    def __init__(  # each with a default
        self,
        timetable: Timetable = UNLIMITED,
        *,
        least: int = _LEAST_PIECE,
        most: int = _MOST_PIECE,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        on_start: Callable[[], None] = lambda: None,
        share: float = 1.0,
    ) -> None:
        self._lock = threading.Lock()
        self._least, self._most = least, most
        self._clock, self._wall = clock, wall
        self._on_start = on_start
        self._share = share
        self._classes = (_Class(), _Class())
        self._level = 0.0
        self._stamp = self._asked = self._loaded = self._noted = clock()
        self._asked -= _IDLE_SECONDS
        self._floor_free = float("-inf")
        self.timetable, self._is_unlimited = timetable, timetable.is_unlimited
        self._limit: float | None = None
        self._rate: float | None = None
        self._known = (0.0, 0.0)
        self._look_up()

    def renew(self, timetable: Timetable) -> None:
        """Use another timetable from now on, for bodies that are under way too."""
        with self._lock:
            self.timetable, self._is_unlimited = timetable, timetable.is_unlimited
            self._known = (0.0, 0.0)
            self._refill()

    def set_share(self, fraction: float) -> None:
        """Set what this process may use of the limit, from 0 to 1; a little is always left to it."""
        with self._lock:
            self._refill()
            self._share = min(max(fraction, _LEAST_SHARE), 1.0)
            self._rate = None if self._limit is None else self._limit * self._share

    @property
    def piece(self) -> int | None:
        """How much is to be asked for at once; None for no bound."""
        rate = self._rate
        return None if rate is None else int(min(max(rate * _PIECE_SECONDS, self._least), self._most))

    async def passes(self, size: int, *, bulk: bool) -> None:
        """Wait until ``size`` bytes or requests may go, and account for them.

        Args:
            size: at most `piece`; more goes as well, and is waited for afterwards.
            bulk: they are a backfill's.
        """
        if pause := self.ask(size, bulk=bulk):
            with waiting(), self.turn(size, bulk=bulk) as turn:
                while pause:
                    await asyncio.sleep(pause)
                    pause = turn.delay()

    def ask(self, size: int, *, bulk: bool) -> float:
        """Ask without standing in line.

        Args:
            size: how much is to go.
            bulk: it is a backfill's.

        Returns:
            0 if it may go now (it is then accounted for); else an estimate of the seconds until it may, if it waits in
            line (`turn`) meanwhile, and nothing is accounted for.
        """
        if self._is_unlimited:
            # Nothing to account for: a limit that is set later (`renew`) begins with an empty account.
            self._asked = self._clock()
            return 0.0
        with self._lock:
            now = self._refill()
            starts, self._asked = now - self._asked >= _IDLE_SECONDS, now
            pause = self._take(now, size, bulk, None)
        self._note_start(starts)
        return pause

    @contextmanager
    def turn(self, size: int, *, bulk: bool) -> Iterator[Turn]:
        """Wait in line for as long as the context lasts: backfills wait behind every waiting push.

        A thread does as `passes`, with ``time.sleep``.
        """
        turn, line = Turn(self, size, bulk, self._clock()), self._classes[bulk].line
        with self._lock:
            self._note_waiting()
            line[turn] = None
        try:
            yield turn
        finally:
            with self._lock:
                self._note_waiting()
                del line[turn]

    def ask_again(self, turn: Turn, *, bulk: bool) -> float:
        """Ask for a waiter in line; see `Turn.delay`."""
        with self._lock:
            now = self._asked = self._refill()
            return self._take(now, turn.size, bulk, turn)

    def spent(self, size: int, *, bulk: bool = False) -> None:
        """Account for bytes that were or will be sent without waiting; the next ones wait for them."""
        with self._lock:
            self._refill()
            self._classes[bulk].used += size
            if self._rate is not None:
                self._level -= size

    def load(self) -> Load:
        """Return the usage since the last call."""
        with self._lock:
            now = self._refill()
            self._note_waiting()
            seconds = max(now - self._loaded, 1e-3)
            self._loaded = now
            events, bulk = self._classes
            active = now - self._asked < _IDLE_SECONDS or bool(events.line or bulk.line)
            if self._limit is None:
                # Without waiters all senders count alike, and a window that begins finds their shares in place.
                found = Load(active, float(events.used > 0), float(bulk.used > 0), 0.0, 0.0)
            else:
                most = self._limit * seconds
                used = (kind.used / most for kind in self._classes)
                found = Load(active, events.load(seconds), bulk.load(seconds), *used)
            for kind in self._classes:
                kind.used = kind.waited = 0.0
            return found

    def _note_start(self, starts: bool) -> None:
        # Without the lock: it may ask for the load at once.
        if starts and not self.timetable.is_unlimited:
            self._on_start()

    def _take(self, now: float, size: int, bulk: bool, turn: Turn | None) -> float:
        """Let it go and return 0, or return the seconds after which to ask again."""
        rate, kind = self._rate, self._classes[bulk]
        if rate is None:
            kind.used += size
            return 0.0
        first = next(iter(kind.line), None)
        # The first in line may not ask, because its thread is held up; it must not delay the others.
        if first is not None and first is not turn and now < first.asks + _LATE_SECONDS:
            ahead = sum(other.size for other in takewhile(lambda other: other is not turn, kind.line))
            return self._pause(turn, now, (ahead + size - self._level) / rate, _LONGEST_PAUSE)
        needed = min(float(size), self._capacity(rate))
        if bulk and self._classes[0].line:
            due = turn is not None and now - turn.since >= _FLOOR_SECONDS * min(1.0, size / self._most)
            # The pushes take what there is at once, so this goes on credit.
            if not due or self._floor_free > now or self._level <= -self._capacity(rate):
                return self._pause(turn, now, _ASK_AGAIN, _ASK_AGAIN)
            self._floor_free = now + size / (rate * _FLOOR_SHARE)
        elif self._level < needed:
            return self._pause(turn, now, (needed - self._level) / rate, _LONGEST_PAUSE)
        self._level -= size
        kind.used += size
        return 0.0

    @staticmethod
    def _pause(turn: Turn | None, now: float, seconds: float, most: float) -> float:
        pause = min(max(seconds, _SHORTEST_PAUSE), most)
        if turn is not None:
            turn.asks = now + pause
        return pause

    def _capacity(self, rate: float) -> float:
        return max(rate * _BURST_SECONDS, float(self._least))

    def _refill(self) -> float:
        """Bring the bucket up to the present, and return that."""
        now, wall = self._clock(), self._wall()
        if not self._known[0] <= wall < self._known[1]:
            self._look_up()
        if self._rate is not None:
            self._level = min(self._level + (now - self._stamp) * self._rate, self._capacity(self._rate))
        self._stamp = now
        return now

    def _look_up(self) -> None:
        """Look into the timetable, at the start and at the edges of its windows."""
        wall = self._wall()
        moment = datetime.fromtimestamp(wall, UTC)
        change = self.timetable.change_after(moment)
        # Not for longer than a day: a timetable looks a week ahead.
        self._known = (wall, min(wall + 86_400.0, change.timestamp() if change is not None else float("inf")))
        before, self._limit = self._limit, self.timetable.at(moment).rate
        self._rate = None if self._limit is None else self._limit * self._share
        if before is None:
            self._level = 0.0

    def _note_waiting(self) -> None:
        now = self._clock()
        for kind in self._classes:
            kind.waited += len(kind.line) * (now - self._noted)
        self._noted = now


class Turn:
    """A place in line; see `Rate.turn`.

    Attributes:
        size: how much is to go.
        since: when it came.
        asks: when it asks next.
    """

    __slots__ = ("_bulk", "_rate", "asks", "since", "size")

    def __init__(self, rate: Rate, size: int, bulk: bool, since: float) -> None:
        self._rate, self._bulk = rate, bulk
        self.size, self.since, self.asks = size, since, since + _LONGEST_PAUSE

    def delay(self) -> float:
        """Ask: 0 if it may go now, which is accounted for; else the seconds after which to ask again."""
        return self._rate.ask_again(self, bulk=self._bulk)


class Rates:
    """The rates of all hosts that one process sends to; safe to share between threads.

    Args:
        upload: bytes a second of request bodies.
        requests: requests a second.

    Attributes:
        on_start: called when something begins to send to a host whose rate may be limited; it must not block.
        first_share: the first share of this process in each limit; less than 1 if processes share them.
    """

    def __init__(self, upload: HostTimetables | None = None, requests: HostTimetables | None = None) -> None:
        self._timetables = {"upload": upload or HostTimetables(), "requests": requests or HostTimetables()}
        self._rates: dict[tuple[str, str], Rate] = {}
        self.on_start: Callable[[], None] = lambda: None
        self.first_share = 1.0

    def upload(self, host: str) -> Rate:
        """Return the rate of uploads to a host, in bytes a second."""
        return self._rate("upload", host, _LEAST_PIECE, _MOST_PIECE)

    def requests(self, host: str) -> Rate:
        """Return the rate of requests to a host, in requests a second."""
        return self._rate("requests", host, 1, 1)

    def renew(self, upload: HostTimetables, requests: HostTimetables) -> None:
        """Use other limits from now on, for transfers under way too."""
        self._timetables = {"upload": upload, "requests": requests}
        for (kind, host), rate in self._rates.items():
            rate.renew(self._timetables[kind].of(host))
        # What is under way may have had no limit, and so no share.
        self.on_start()

    def items(self) -> list[tuple[str, Rate]]:
        """List the rates that may be limited, each with a name that all processes have for it."""
        # A copy, as another thread may add one.
        found = list(self._rates.items())
        return [(f"{kind} {host}", rate) for (kind, host), rate in found if not rate.timetable.is_unlimited]

    def timetable(self, kind: str, host: str) -> Timetable:
        """Return the limit of a host over time: ``kind`` is ``upload`` or ``requests``."""
        return self._timetables[kind].of(host)

    def describe(self, now: datetime) -> str:
        """Describe in a line the limits in force at a moment; empty if there is never one."""
        words = {"upload": "upload", "requests": "requests a second"}
        found = ((words[kind], table.describe(now)) for kind, table in self._timetables.items())
        return "; ".join(f"{word} {text}" for word, text in found if text)

    def _rate(self, kind: str, host: str, least: int, most: int) -> Rate:
        key = (kind, host.lower())
        if key not in self._rates:
            share, timetable = self.first_share, self._timetables[kind].of(host)
            rate = Rate(timetable, least=least, most=most, on_start=self._started, share=share)
            self._rates.setdefault(key, rate)
        return self._rates[key]

    def _started(self) -> None:
        self.on_start()

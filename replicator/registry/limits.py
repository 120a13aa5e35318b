"""Limits of one host: its budget of requests, pauses it asks for, deadlines, and the features it supports."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cachetools import TTLCache

from replicator.errors import Wait
from replicator.registry.circuit import Circuit
from replicator.registry.errors import TooManyRequests
from replicator.registry.flow import Flow, Line
from replicator.registry.places import Budget, Slot, is_bulk, promoted_by
from replicator.registry.rate import Rate
from replicator.registry.streams import Streams
from replicator.retry import MAX_PAUSE, waiting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager

    from replicator.registry.circuit import Silence
    from replicator.registry.errors import RegistryError

_SHRINK_SECONDS = 1.0
"""Seconds between two cuts of the budget: requests in flight together get the same 429 together."""
_THROTTLE_DEFAULT = 1.0
"""Seconds that a host is left alone after a 429 or 503 without a Retry-After."""
_SLOWEST = 0.5
"""Requests a second below which no rate is cut."""
_UNLIMITED = 1000.0
"""Requests a second from which on a rate is not bounded any more."""
_REFUSALS, _REFUSED_SHARE = 3, 0.15
"""A host is overloaded from so many 502, 503 and 504 on, if they are this share of its recent answers. Fewer may come
from a single repository, which must not slow the others."""
_RECENT_SECONDS, _RECENT = 2.0, 15
"""Recent answers are those of so many seconds, but at least so many: at a low rate there are few in any time."""
_CIRCUITS = 16
"""Hosts of one registry whose silence is remembered."""
_MOST_CLOSED, _CLOSED_SECONDS = 1000, 3600.0
"""Repositories that are remembered to be closed to one login, and for how many seconds."""


class HostLimits(Budget):
    """The budget of one host, shared by all its clients, for tags, manifests and blobs alike.

    It halves when the host answers that it is overloaded, and grows by one for every budget's worth of answers, as
    TCP's congestion window does. On a fast line a budget of one is still hundreds of requests a second, so a rate is
    bounded in the same way. A transfer holds a place at both its ends: see `transfer`.

    Args:
        most: requests and transfers in flight at most.
        registry: the host that the rules name.
        on_silence: called with the registry and its `Silence` when it stalls or falls silent, and with None when it
            answers again; the caller then hands work back to a queue, see `Circuit`.
        streams: bodies in flight to the host at most, see `Streams`.
        upload: bytes of request bodies a second; None for no limit.
        requests: requests a second; None for no limit.

    Attributes:
        line: the bodies on their way from the host and to it.
        streams: how many of those to it are in flight at once.
    """

    def __init__(
        self,
        most: int = 32,
        registry: str = "",
        on_silence: Callable[[str, Silence | None], None] | None = None,
        *,
        streams: int = 24,
        upload: Rate | None = None,
        requests: Rate | None = None,
    ) -> None:
        super().__init__(most)
        self.line = Line()
        self.streams = Streams(streams, lambda: self.line.total)
        self.upload = upload or Rate()
        self.requests = requests or Rate()
        self._registry = registry
        self._on_silence = on_silence
        self._circuits: dict[str, Circuit] = {}
        self._was_silent = False
        self._most = most
        self._allowed = float(most)
        self._quiet_until = 0.0
        self._shrunk = float("-inf")
        self._rate: float | None = None
        self._searching = True
        self._grown = 0.0
        self._turn_at = 0.0
        self._turns = asyncio.Lock()
        self._answers: deque[float] = deque(maxlen=int(_UNLIMITED))
        self._outcomes: deque[tuple[float, bool]] = deque(maxlen=int(_UNLIMITED))

    def slot(self, size: int = 0, *, places: int = 1) -> AbstractAsyncContextManager[None]:
        """Hold a place, after any pause that the host asked for."""
        # With the place held: after the pause no more than the budget starts at once.
        return Slot(self, size, places, self.pause)

    async def pause(self) -> None:
        """Wait until the host's pause, if any, is over."""
        while (left := self._quiet_until - time.monotonic()) > 0:
            # Jitter spreads the restart, so that not everything comes back in one instant.
            with waiting():
                await asyncio.sleep(left + random.uniform(0, min(left, 1.0) / 4))  # noqa: S311 - no secret

    async def ready(self) -> None:
        """Wait until the host's pause, if any, is over and its rate allows one more request, which is then used up."""
        await self.requests.passes(1, bulk=is_bulk())
        await self.pause()

    async def admit(self, size: int, *, waited: bool = False) -> None:
        """Wait until the host's rates allow one more short request.

        Args:
            size: bytes of its body.
            waited: it has waited, see `ready`; its body goes at once and is made up for by others.
        """
        if waited:
            self.upload.spent(size)
            return
        await self.requests.passes(1, bulk=is_bulk())
        if size:
            await self.upload.passes(size, bulk=is_bulk())

    async def turn(self) -> None:
        """Wait for the turn of one HTTP request, if the host's rate is bounded."""
        if self._rate is None:
            return
        # One after the other, and each from the moment of the one before: a turn that comes late delays the next one,
        # where a host that counts strictly would refuse two in a row.
        with waiting():
            async with self._turns:
                while (left := self._turn_at - time.monotonic()) > 0:
                    await asyncio.sleep(left)
                if self._rate is not None:
                    self._turn_at = time.monotonic() + 1 / self._rate

    def throttle(self, seconds: float, *, cut: bool = True) -> None:
        """Pause the whole host for ``seconds`` (at most ``MAX_PAUSE``), and cut its budget and its rate.

        Args:
            seconds: the pause.
            cut: False to pause only.
        """
        now = time.monotonic()
        self._quiet_until = max(self._quiet_until, now + min(seconds, MAX_PAUSE))
        if cut and now >= self._shrunk + _SHRINK_SECONDS:
            # From the end of the pause: what was in flight before it is no sign that the smaller budget is too large.
            self._shrunk = self._quiet_until
            self._allowed = max(1.0, self._allowed / 2)
            self.resize(int(self._allowed))
            self._slow_down(now)

    def overloaded(self, error: RegistryError) -> bool:
        """Note an answer, slow down if it is too much for the host, and return whether it may be.

        The work then waits in the queue, if it has to, without the loss of an attempt. A ``Retry-After`` pauses the
        host; a 429 cuts its budget and rate, and so do 502, 503 and 504 in numbers.
        """
        tells = isinstance(error, TooManyRequests)
        if not tells and error.status not in (502, 503, 504):
            return False
        now = time.monotonic()
        self._outcomes.append((now, True))
        # A proxy may refuse with 503 where a registry does with 429. But a broken repository is answered so as well.
        cut = tells or self._refuses_much(now)
        if not cut and error.status != 503 and error.retry_after is None:
            return False
        error.wait = Wait("", time.time(), error.retry_after or 0.0)
        if cut or error.retry_after is not None:
            # A bounded rate is a pause of its own.
            default = _THROTTLE_DEFAULT if self._rate is None else _THROTTLE_DEFAULT / 4
            self.throttle(error.retry_after if error.retry_after is not None else default, cut=cut)
        return True

    def _refuses_much(self, now: float) -> bool:
        recent = [
            refused
            for number, (at, refused) in enumerate(reversed(self._outcomes))
            if number < _RECENT or at > now - _RECENT_SECONDS
        ]
        return sum(recent) >= max(_REFUSALS, _REFUSED_SHARE * len(recent))

    def answered(self) -> None:
        """Note an answer that did not ask for fewer requests."""
        if self._allowed < self._most:
            self._allowed = min(float(self._most), self._allowed + 1 / self._allowed)
            self.resize(int(self._allowed))
        now = time.monotonic()
        self._answers.append(now)
        self._outcomes.append((now, False))
        if self._rate is not None:
            # Threefold a second until the host refuses again, then slowly, from below the rate that it accepted.
            # During a pause the last growth lies ahead: answers to earlier requests neither raise nor cut the rate.
            passed = min(1.0, max(0.0, now - self._grown))
            self._grown = max(self._grown, now)
            self._rate *= (3.0 if self._searching else 1.08) ** passed
            if self._rate > _UNLIMITED:
                self._rate = None

    def _slow_down(self, now: float) -> None:
        if self._rate is None:
            recent = sum(1 for at in self._answers if at > now - 1.0)
            self._rate, self._searching = max(2.0, 0.7 * recent), True
        else:
            self._rate, self._searching = max(_SLOWEST, 0.8 * self._rate), False
        self._grown = self._turn_at = self._quiet_until

    def circuit(self, host: str = "") -> Circuit:
        """Return the circuit of a host.

        Args:
            host: the registry's token server or storage; empty for the registry itself.
        """
        if (circuit := self._circuits.get(host)) is None:
            if len(self._circuits) >= _CIRCUITS:
                # A storage may have a name for every bucket. For a host that answers there is nothing to remember.
                self._circuits = {
                    name: known for name, known in self._circuits.items() if not name or known.silence is not None
                }
            hands_back = self._on_silence is not None
            circuit = Circuit(self._registry, host or self._registry, self._circuit_changed, hands_back=hands_back)
            if len(self._circuits) < _CIRCUITS:
                self._circuits[host] = circuit
        return circuit

    @property
    def silence(self) -> Silence | None:
        """The silence of the registry or of a host that it needs, an open circuit first; None if all answer."""
        silences = [found for circuit in self._circuits.values() if (found := circuit.silence) is not None]
        return min(silences, key=lambda silence: (not silence.is_open, silence.since), default=None)

    def _circuit_changed(self) -> None:
        silence = self.silence
        if self._on_silence is not None and (silence is not None or self._was_silent):
            self._on_silence(self._registry, silence)
        self._was_silent = silence is not None


@asynccontextmanager
async def transfer(source: HostLimits, destination: HostLimits, size: int) -> AsyncIterator[Flow]:
    """Hold a place at both ends of a blob's transfer; the flow says when its bytes may go.

    Args:
        source: the limits of the host to read from.
        destination: the limits of the host to write to; they may be the same.
        size: the blob's bytes.
    """
    if source is destination:
        async with source.slot(size, places=2):
            with body(source, destination, size) as flow:
                yield flow
        return
    # In one order everywhere: two transfers in opposite directions can't wait for each other.
    first, second = sorted((source, destination), key=id)
    async with first.slot(size), second.slot(size):
        with body(source, destination, size) as flow:
            yield flow


@contextmanager
def body(source: HostLimits, destination: HostLimits, size: int) -> Iterator[Flow]:
    """Have a body under way between two hosts, without a place at either; the flow says when its bytes may go."""
    with Flow(source.line, destination.line, size, bulk=is_bulk()) as flow, promoted_by(flow.promote):
        yield flow


@dataclass(frozen=True, slots=True)
class Timing:
    """Deadlines in seconds, and the number of attempts.

    Attributes:
        connect: to open a connection, TLS included.
        read: for the next 64 KiB of a blob from the other side, and for the first byte of an answer.
        write: for the other side to take the next 64 KiB of a blob.
        commit: for the answer once a body has been sent, since a registry may first move it to its object storage;
            and for a short request in all, its answer included.
        tag: for one attempt to write a tag: login, request and answer. A caller that guards the tag by a lease needs
            it well below the time of the lease.
        attempts: how often a request without a streamed body is sent in all.
    """

    connect: float = 10.0
    read: float = 60.0
    write: float = 60.0
    commit: float = 300.0
    tag: float = 20.0
    attempts: int = 4


@dataclass(slots=True)
class Abilities:
    """What one registry supports for one login; None until it has been observed.

    Attributes:
        heads: it answers HEAD for a manifest with the digest; if not, the manifest is read instead.
        mounts: it mounts a blob from another of its repositories (``POST ?mount=D&from=OTHER``).
        mounts_in_place: ``POST ?mount=D&from=SAME`` answers 201 for a blob that is there and opens an upload for a
            missing one: a HEAD and the start of an upload in one request.
        mounts_anywhere: ``POST ?mount=D`` without ``from`` answers 201 for a blob of another repository: it looks for
            the blob by itself.
        mounts_hold: its 201 to a mount of any kind is trusted; False once a refused manifest has disproved one.
        resumes: it takes the rest of an upload that broke; False once it kept a session and refused the rest.
        redirects: its redirect of a blob's HEAD to storage is trusted to mean that the blob is there; False once a
            refused manifest has disproved one.
        referrers: it has the referrers API.
        closed: repositories from which it lets this login mount nothing; forgotten after a while.
    """

    heads: bool | None = None
    mounts: bool | None = None
    mounts_in_place: bool | None = None
    mounts_anywhere: bool | None = None
    mounts_hold: bool = True
    resumes: bool | None = None
    redirects: bool | None = None
    referrers: bool | None = None
    closed: TTLCache[str, None] = field(default_factory=lambda: TTLCache(_MOST_CLOSED, _CLOSED_SECONDS))


def _ignore(*_: object) -> None:
    """The default of every callback."""


@dataclass(frozen=True, slots=True)
class RequestObserver:
    """Callbacks for requests as they happen; they must not block and must not raise.

    ``registry`` is always the host the rules name: a request to its token server, or to the storage that it redirects
    to, counts as a request to the registry.

    Attributes:
        answered: the head of an answer arrived, or there was none: ``(registry, method, status, seconds)``; status is
            None without an answer, and seconds include the sending of the request's body.
        received: bytes of an answer's body arrived: ``(registry, size)``.
        sent: bytes of a request's body were sent: ``(registry, size)``.
        throttled: an answer asks for fewer requests, 429 or 503, or 502 and 504 come in numbers or with a
            ``Retry-After``: ``(registry)``.
        silent: the registry stalled or fell silent, or answers again (None): ``(registry, silence)``. If it is given,
            the caller hands work back to a queue that waits for the answer, so it is not repeated in vain before.
        refused: a copy failed because a registry refuses it for good: ``(registry, reason)``.
        challenged: a token challenge of the registry names its ``service``: ``(registry, service)``.
        certified: a TLS connection was opened to any server: ``(name without port, end of its certificate)``, in Unix
            time. Not called where certificates are not verified.
    """

    answered: Callable[[str, str, int | None, float], None] = _ignore
    received: Callable[[str, int], None] = _ignore
    sent: Callable[[str, int], None] = _ignore
    throttled: Callable[[str], None] = _ignore
    silent: Callable[[str, Silence | None], None] | None = None
    refused: Callable[[str, str], None] = _ignore
    challenged: Callable[[str, str], None] = _ignore
    certified: Callable[[str, float], None] = _ignore

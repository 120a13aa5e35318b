"""The circuit of one host: whether it answers, and one probe at a time while it does not.

After a few silences in a row the circuit opens. A request then fails at once, but for one probe at a time, with growing
pauses between them; the first answer closes the circuit. Silence is no connection in time, no byte in time, or a
connection that is refused. Any HTTP answer is an answer, and so is a certificate that is not trusted.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self, TypeVar

from replicator.errors import Wait
from replicator.registry.errors import ConnectionFailed, HostSilent, RegistryError
from replicator.retry import waiting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from types import TracebackType

_SILENCES = 3
"""Silences in a row that open the circuit. Requests that were in flight together count as one."""
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
"""Seconds between two probes at most."""
STALL = 3.0
"""Seconds without a sign of life, while a short request waits, after which a host counts as stalled."""
SLOW_STALL = 8.0
"""The same for a request with a body: a registry may have to store a blob first. A short request is sent to see."""
_LOOK_SECONDS = 1.0
_UNPROVEN = 4
"""Requests in flight at most to a host that has not answered yet, or not any more."""
_STALL_PAUSE = 10.0
"""Seconds until a stalled host is probed, although requests to it are still in flight."""
_SILENT_ATTEMPT, _REFUSED_ATTEMPT = 60.0, 5.0
"""Seconds of waiting for a host that count as one attempt, for work whose attempts are limited."""

Error = TypeVar("Error", bound=RegistryError)


@dataclass(frozen=True, slots=True)
class Silence:
    """A host that does not answer.

    Attributes:
        host: its name.
        since: when the oldest request without an answer began, in seconds since 1970.
        is_open: the circuit is open; otherwise requests only wait for unusually long.
        probe_in: seconds until the next probe.
        why: how the last request ended, or that a short one waits for its answer. Empty as long as no more than a body
            waits, since a registry may only take long to store it.
    """

    host: str
    since: float
    is_open: bool
    probe_in: float
    why: str


class Contact:
    """A request in flight; a context that ends with an answer or an error.

    Args:
        circuit: of its host.

    Attributes:
        patience: seconds without a sign of life after which the host counts as stalled.
        began: by the event loop's clock; moves with the bytes of a request's body.
        probes: it is the one probe of an open circuit.
        waits: for the host. False while this side has to act.
    """

    __slots__ = ("_circuit", "_sent", "began", "patience", "probes", "waits")

    def __init__(self, circuit: Circuit, patience: float, began: float, *, probes: bool) -> None:
        self._circuit = circuit
        self._sent = began
        self.patience = patience
        self.began = began
        self.probes = probes
        self.waits = True

    def __enter__(self) -> Self:
        self._circuit.begun(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if isinstance(error, ConnectionFailed):
                if error.silent:
                    self._circuit.silent(error, time.monotonic() - self._sent, self)
            elif error is None or isinstance(error, RegistryError):
                # A certificate that is not trusted, or an address that is refused: somebody is there.
                self._circuit.heard()
        finally:
            self._circuit.ended(self)

    def moved(self, *, waits: bool) -> None:
        """Note that a part of the body moved, and whether the host has to act now."""
        self.began = time.monotonic()
        self.waits = waits

    async def watch(self, body: AsyncIterator[bytes | memoryview]) -> AsyncIterator[bytes | memoryview]:
        """Pass a request's body on, and note when the host has to act: not while the next bytes are fetched."""
        self.moved(waits=False)
        async for chunk in body:
            self.moved(waits=True)
            yield chunk
            self.moved(waits=False)
        self.moved(waits=True)


class Circuit:
    """Whether one host answers.

    Args:
        key: the registry that the rules name; work that can't be done without the host waits under it.
        host: the host itself, which may be a registry's token server or storage.
        changed: called when the host stalls, falls silent, or answers again.
        hands_back: the caller hands work back to a queue that hears of the first answer, so that one silence ends an
            attempt, instead of a few.
    """

    def __init__(
        self, key: str, host: str, changed: Callable[[], None] | None = None, *, hands_back: bool = False
    ) -> None:
        self._key = key
        self._host = host
        self._changed = changed or (lambda: None)
        self._hands_back = hands_back
        self._silences = 0
        self._counted = float("-inf")
        self._since: float | None = None
        self._why = ""
        self._refused = False
        self._pause = _FIRST_PAUSE
        self._probe_at = 0.0
        self._probing = False
        self._heard = 0.0
        self._contacts: set[Contact] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._news: asyncio.Event | None = None

    @property
    def is_open(self) -> bool:
        """Whether requests fail at once."""
        return self._silences >= _SILENCES

    @property
    def silence(self) -> Silence | None:
        """The present silence; None while the host answers."""
        if self._since is None:
            return None
        # Short requests in flight are probes already.
        probe_in = _STALL_PAUSE if self._short else 0.0
        if self.is_open:
            probe_in = max(0.0, self._probe_at - time.monotonic())
        return Silence(self._host, self._since, self.is_open, probe_in, self._why)

    @property
    def _short(self) -> int:
        """The number of short requests in flight."""
        return sum(1 for contact in self._contacts if contact.patience < SLOW_STALL)

    @property
    def probe_timeout(self) -> float:
        """Seconds that a probe waits for the first byte: longer from probe to probe, for a host that is only slow."""
        return max(10.0, self._pause)

    async def admit(self) -> None:
        """Wait while a few short requests are in flight to a host that has not answered yet, or not any more.

        So such a host blocks few slots that other work could use; the other copies continue with the first answer.

        Raises:
            HostSilent: the few got no answer for a while; only if work is handed back (``hands_back``).
        """
        while self._hands_back and (self._since is not None or not self._heard) and self._short >= _UNPROVEN:
            if self._since is not None:
                raise self._failure()
            self._news = self._news or asyncio.Event()
            with waiting():
                await self._news.wait()

    def _tell(self) -> None:
        if self._news is not None:
            self._news.set()
            self._news = None

    def contact(self, patience: float = STALL) -> Contact:
        """Return the context in which to send a request, which ends with an answer or an error.

        Raises:
            HostSilent: the circuit is open, and this request is not the next probe.
        """
        now = time.monotonic()
        if self.is_open and (self._probing or now < self._probe_at):
            raise self._failure()
        return Contact(self, patience, now, probes=self.is_open)

    def begun(self, contact: Contact) -> None:
        """Count a request, for `Contact`."""
        self._probing = self._probing or contact.probes
        self._contacts.add(contact)
        self._watch()

    def ended(self, contact: Contact) -> None:
        """Count a request no longer, for `Contact`."""
        self._contacts.discard(contact)
        self._tell()
        if contact.probes:
            self._probing = False

    @contextmanager
    def reading(self) -> Iterator[Contact]:
        """Wait in this block for the next bytes of an answer that has begun."""
        contact = Contact(self, SLOW_STALL, time.monotonic(), probes=False)
        self._contacts.add(contact)
        self._watch()
        try:
            yield contact
            self.heard()
        finally:
            self._contacts.discard(contact)

    def silent(self, error: Error, waited: float, contact: Contact | None = None) -> Error:
        """Count a silence, and return its error, with the key to wait for if another attempt is pointless.

        Args:
            error: the error of the request.
            waited: seconds without a sign of life.
            contact: the request; None for a body.
        """
        now = time.monotonic()
        if now - self._heard < waited / 2:
            # Others were answered meanwhile: it is this request that got lost, and not the host.
            return error
        was_open = self.is_open
        if now - waited >= self._counted:
            self._silences += 1
            self._counted = now
        if self._since is None:
            self._since = time.time() - waited
        self._why = error.why
        self._refused = isinstance(error, ConnectionFailed) and error.refused
        if self.is_open and (not was_open or (contact is not None and contact.probes)):
            self._pause = min(_LONGEST_PAUSE, self._pause * 2) if was_open else _FIRST_PAUSE
            self._probe_at = now + self._pause * random.uniform(0.8, 1.0)  # noqa: S311 - no secret
        # A refusal costs nothing, and a body that stopped can be resumed: both are tried again before work waits.
        ends = self._hands_back and contact is not None and not self._refused
        if self.is_open or ends:
            error.wait = self._wait()
        self._changed()
        return error

    def heard(self) -> None:
        """Note a sign of life; it closes the circuit."""
        self._heard = time.monotonic()
        self._tell()
        if self._since is not None:
            self._silences, self._since, self._why = 0, None, ""
            self._pause = _FIRST_PAUSE
            self._changed()

    def _failure(self) -> HostSilent:
        since = datetime.fromtimestamp(self._since or time.time(), UTC)
        why = f"{self._host} has not answered since {since:%Y-%m-%d %H:%M} UTC"
        last = f" ({self._why})" if self._why else ""
        error = HostSilent(why + last, "it is probed at least once a minute; is it up, and reachable from here?")
        error.wait = self._wait()
        return error.at(self._key)

    def _wait(self) -> Wait:
        silence = self.silence
        assert silence is not None  # noqa: S101 - a programming error
        patience = _REFUSED_ATTEMPT if self._refused else _SILENT_ATTEMPT
        return Wait(self._key, silence.since, silence.probe_in, patience)

    def _watch(self) -> None:
        # Not cancelled with the last contact: a timer for every request would cost more than one that fires in vain.
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._timer = None
        if not self._contacts:
            return
        self._watch()
        if self._why:
            return
        now = time.monotonic()
        stalled = {
            each: began
            for each in self._contacts
            if each.waits and now - (began := max(each.began, self._heard)) >= each.patience
        }
        if any(each.patience < SLOW_STALL for each in stalled):
            self._why = "no answer yet"
        if stalled and (self._since is None or self._why):
            if self._since is None:
                self._since = time.time() - (now - min(stalled.values()))
            self._tell()
            self._changed()

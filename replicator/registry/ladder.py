"""The ladder of a refused login: it is sent again in a few steps, one request each, over all processes.

A refusal may be temporary: Harbor takes a good robot for anonymous while its database is away, and locks a
user's name for 1.5 s after a wrong password by anybody. But each refusal counts at a directory, which locks an account
after a few. So the ladder belongs to the login: while it is refused, all work that needs it waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import threading
import time
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

from replicator.errors import Wait
from replicator.registry.errors import AskedLoginOnHold, AskedLoginRefused, LoginOnHold, LoginRefused, RegistryError
from replicator.retry import waiting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from replicator.registry.credentials import Access

PAUSES = (2.0, 20.0, 60.0, 300.0)
"""Seconds between the refusals of a login: they outlast a lock of 1.5 s and a database that is restarted."""
REFUSALS = len(PAUSES) + 1
"""Refusals of one login within `WINDOW`, by all processes: directories lock an account after a few."""
WINDOW = 1800.0
_SURE_SECONDS = 1.0
"""Seconds for which a login that was accepted is sent again without a look at its record."""
_CLAIM_SECONDS = 10.0
"""Seconds for the answer to the one request of a login that is not known to be good; then another may send it."""
_REFUSED_SECONDS = 30.0
"""Seconds for which a login that was refused for good is not sent again."""
_SPARED_SECONDS = WINDOW / REFUSALS
"""Seconds for which a login that is taken for none is left out where none is needed."""
_LOOK_SECONDS = 0.1
_REMEMBER_SECONDS = 86_400.0
"""Age from which the note that a login works is renewed: Redis keeps it for 30 days."""


_one_fingerprint = threading.Lock()
"""Held for the slow hash, which takes 4 MiB: a thread that waits for it finds the result in the cache."""


def fingerprint(registry: str, access: Access) -> str:
    """Tell one login at a registry from another one there, also after a restart; it takes 50 ms.

    It is stored in Redis, so it must not give the password away. 12 bits of a slow hash can't: each of them fits one
    guess in 4,096, so a dictionary that was tried against it still leaves thousands, and none is certain. A changed
    login looks like the old one as rarely, which costs a retry by hand. A login that is requested on demand has no
    secret of its own here.
    """
    if access.logins is not None or access.username is None:
        return f"{registry} -"
    with _one_fingerprint:
        return f"{registry} {_slow_hash(f'replicator login {registry} {access.username}', access.password or '')}"


@lru_cache(maxsize=256)
def _slow_hash(salt: str, password: str) -> str:
    # p=2 in 4 MiB takes as long as p=1 in 8 MiB, which would be the peak of memory of an idle process.
    return hashlib.scrypt(password.encode(), salt=salt.encode(), n=2**12, r=8, p=2).hex()[:3]


@dataclass(frozen=True, slots=True)
class LoginRecord:
    """The shared record of a login; times in seconds since 1970.

    Attributes:
        worked: when it was accepted, about; 0 if never.
        refusals: the last ones since then.
        claimed: until when one request with it may be under way, and no other is sent.
        ended: the ladder is at its end: each further refusal is final.
        why: the words of the last refusal.
        spared: until when it is left out: it has never worked, was taken for none, and a public project needs none.
    """

    worked: float = 0.0
    refusals: tuple[float, ...] = ()
    claimed: float = 0.0
    ended: bool = False
    why: str = ""
    spared: float = 0.0

    @property
    def is_good(self) -> bool:
        """Whether it has worked and was not refused since."""
        return bool(self.worked) and not self.refusals

    def due(self, *, sparing: bool) -> float:
        """Return when it may be sent again.

        Args:
            sparing: after the end of the ladder `REFUSALS` and `WINDOW` bind too.
        """
        if not self.refusals:
            return 0.0
        if not self.ended:
            return self.refusals[-1] + PAUSES[min(len(self.refusals), len(PAUSES)) - 1]
        full = self.refusals[-REFUSALS] + WINDOW if sparing and len(self.refusals) >= REFUSALS else 0.0
        return max(full, self.refusals[-1] + _REFUSED_SECONDS)

    def refused(self, now: float, why: str, sent: int = 1, *, patient: bool, step: bool) -> LoginRecord:
        """Return the record after a refusal.

        Args:
            now: the time.
            why: the words of the refusal.
            sent: how often the login was sent for it.
            patient: a login that has never worked is tried again as well.
            step: it was the one request of a step, and not one of several that were under way together.
        """
        recent = (*(at for at in self.refusals if now - at < WINDOW), *[now] * sent)[-REFUSALS:]
        goes_on = bool(self.worked) or patient
        ended = self.ended or not goes_on or (step and len(recent) >= REFUSALS)
        return LoginRecord(self.worked, recent, 0.0, ended, why)


class LoginStore(Protocol):
    """Where the records of logins are kept."""

    async def swap(self, name: str, before: str, after: str, resume: str = "") -> tuple[float, str, bool]:
        """Replace a text, if it is still the one that was read.

        Args:
            name: of the record.
            before: the text that was read; empty for none.
            after: the new text; empty to read only.
            resume: the key (`Wait`) whose jobs go on if it is replaced; empty for none.

        Returns:
            The time, the text that is there now, and whether it was replaced.
        """


class LocalLogins:
    """A `LoginStore` for one process."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._texts: dict[str, str] = {}

    async def swap(self, name: str, before: str, after: str, resume: str = "") -> tuple[float, str, bool]:
        """See `LoginStore`."""
        replaced = bool(after) and self._texts.get(name, "") == before
        if replaced:
            self._texts[name] = after
        return self._clock(), self._texts.get(name, ""), replaced


@dataclass(frozen=True, slots=True)
class LoginPatience:
    """How refused logins are treated in a process.

    Attributes:
        store: of their records.
        shared: the store is that of an installation: jobs wait in its queue for a refused login.
        patient: a login that has never worked is tried again as well, since a start may meet an outage.
        recovered: called with the `fingerprint` of a login that works again after its ladder had ended.
    """

    store: LoginStore = field(default_factory=LocalLogins)
    shared: bool = False
    patient: bool = False
    recovered: Callable[[str], None] | None = None


class LoginLadder:
    """The steps by which one login at one registry is sent again after a refusal: one request each, over all processes.

    A refusal may be temporary: Harbor takes a good robot for anonymous while its database is away, and locks
    a user's name for 1.5 s after a wrong password by anybody. So work waits, and the login is sent again after each of
    `PAUSES`.

    Args:
        registry: the host the rules name.
        access: with the login.
        patience: of the process.

    Attributes:
        spares: whether requests go without the login for now, as `admit` has found (`LoginRecord.spared`).
    """

    def __init__(self, registry: str, access: Access, patience: LoginPatience) -> None:
        self._registry = registry
        self._access = access
        self._patience = patience
        account = "" if access.logins is not None else access.username or ""
        self._key = f"{LOGIN}{registry}/{quote(account, safe='')}"
        self.spares = False
        self._name: str | None = None
        self._last = LoginRecord()
        self._claims = self._keeps = False
        self._proven = float("-inf")
        self._news = asyncio.Event()
        self._changing: set[asyncio.Task[tuple[float, LoginRecord]]] = set()
        # Few at once: those under way when a login is refused are refused with it.
        self._places = asyncio.Semaphore(2)

    @property
    def has_worked(self) -> bool:
        """Whether the login has been accepted before, as far as it is known."""
        return bool(self._last.worked)

    @property
    def is_good(self) -> bool:
        """Whether the login has worked and was not refused since, as far as it is known."""
        return self._last.is_good

    def proven_since(self, moment: float) -> bool:
        """Tell whether the login was accepted after a moment (`time.monotonic`)."""
        return self._proven > moment

    async def fingerprint(self) -> str:
        """Return the `fingerprint` of the login; empty where nothing is kept for longer than a process lives."""
        return await asyncio.to_thread(fingerprint, self._registry, self._access) if self._patience.shared else ""

    @asynccontextmanager
    async def attempt(self, *, admitted: bool = False) -> AsyncIterator[None]:
        """Send the login in this block, with the one claim that there is if it is not known to be good.

        Args:
            admitted: `admit` was called already.

        Raises:
            LoginOnHold, LoginRefused: it must not be sent; see `admit`.
        """
        async with self._places:
            if not admitted:
                await self.admit()
            try:
                yield
            finally:
                if not self._keeps:
                    await self.release()
                self._keeps = False

    def keep_claim(self) -> None:
        """Keep the claim after the present `attempt`, until `worked`, `refused` or `release`."""
        self._keeps = True

    async def admit(self, *, claim: bool = True) -> bool:
        """Wait until the login may be sent, and return whether it was refused the last time.

        Args:
            claim: send a login that nothing is known of alone, too, and not only one that was refused.

        Raises:
            LoginOnHold: it may not yet.
            LoginRefused: it was refused for good.
        """
        if time.monotonic() - self._proven < _SURE_SECONDS:
            return False
        while True:
            now, text, _ = await self._swap("", "")
            record = self._last = _read(text)
            self.spares = record.spared > now
            if self.spares or record.is_good or not (claim or record.refusals):
                return False
            if self._due(record) > now:
                raise self._failure(record, now)
            if record.claimed <= now:
                claimed = _write(replace(record, claimed=now + _CLAIM_SECONDS))
                *_, is_ours = await self._swap(text, claimed)
                if is_ours:
                    self._claims = True
                    return bool(record.refusals)
            self._news.clear()
            with waiting(), contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._news.wait()

    async def worked(self) -> None:
        """Note that the login was accepted; all waiting work continues."""
        self._proven, self.spares = time.monotonic(), False
        if not self._claims and self._last.is_good and time.time() - self._last.worked < _REMEMBER_SECONDS:
            return
        ended = self._last.ended
        await self._change(lambda _, now: LoginRecord(worked=now))
        if ended and self._patience.recovered is not None:
            self._patience.recovered(await self.fingerprint())

    async def refused(self, error: RegistryError, sent: int = 1) -> RegistryError:
        """Note that the login was refused, and return the error for it: on hold, or refused for good.

        Args:
            error: of the refusal.
            sent: how often the login was sent for it.
        """
        step, patient, why = self._claims, self._patience.patient, error.why
        self._proven = float("-inf")
        now, record = await self._change(lambda record, now: record.refused(now, why, sent, patient=patient, step=step))
        error.login = await self.fingerprint()
        return error if record.ended else self._failure(record, now).at(error.registry, error.request)

    async def release(self, *, spare: bool = False) -> None:
        """Let others send the login, since what became of this request says nothing about it; or ``spare`` it."""
        if self._claims and spare:
            await self.spare()
        elif self._claims:
            await self._change(lambda record, _: replace(record, claimed=0.0))

    async def spare(self) -> None:
        """Leave the login out for a while, since it was taken for none and none was needed."""
        self.spares = True
        await self._change(lambda record, now: replace(record, claimed=0.0, spared=now + _SPARED_SECONDS))

    async def need(self) -> None:
        """Leave the login out no longer; another process may have said so already."""
        now, text, _ = await self._swap("", "")
        if _read(text).spared > now:
            await self._change(lambda record, _: replace(record, claimed=0.0, spared=0.0))
        self.spares = False

    async def _change(self, change: Callable[[LoginRecord, float], LoginRecord]) -> tuple[float, LoginRecord]:
        """Change the record, even if the caller is cancelled: what was sent counts. Return the time and the record."""
        self._claims = False
        changing = asyncio.create_task(self._change_record(change))
        self._changing.add(changing)
        changing.add_done_callback(self._changing.discard)
        return await asyncio.shield(changing)

    async def _change_record(self, change: Callable[[LoginRecord, float], LoginRecord]) -> tuple[float, LoginRecord]:
        now, text, _ = await self._swap("", "")
        while True:
            record = change(_read(text), now)
            goes_on = record.is_good or record.ended
            now, text, replaced = await self._swap(text, _write(record), self._key if goes_on else "")
            if replaced:
                self._last = record
                self._news.set()
                return now, record

    async def _swap(self, before: str, after: str, resume: str = "") -> tuple[float, str, bool]:
        if self._name is None:
            mark = (await self.fingerprint()).rpartition(" ")[2]
            self._name = f"{self._key} {mark or id(self)}"
        return await self._patience.store.swap(self._name, before, after, resume)

    def _due(self, record: LoginRecord) -> float:
        # No directory knows a login that is issued on demand, and the next one is another.
        return record.due(sparing=self._access.logins is None)

    def _failure(self, record: LoginRecord, now: float) -> RegistryError:
        due, number = self._due(record), len(record.refusals)
        left = max(0.0, due - now)
        login = f"{self._registry} {(self._name or '').rpartition(' ')[2]}" if self._patience.shared else ""
        if record.ended:
            kind = LoginRefused if self._access.logins is None else AskedLoginRefused
            at = datetime.fromtimestamp(due, UTC)
            ended: RegistryError = kind(record.why, f"it is not sent again before {at:%H:%M:%S} UTC", status=401)
            ended.login = login
            return ended.at(self._registry)
        on_hold = LoginOnHold if self._access.logins is None else AskedLoginOnHold
        # A time of day: the text is kept for longer than the pause.
        at = datetime.fromtimestamp(max(due, now), UTC)
        waits = on_hold(record.why, f"it is sent again at {at:%H:%M:%S} UTC, refused {number} of {REFUSALS} times")
        waits.login = login
        if self._patience.shared:
            # Jobs whose attempts are limited wait to the end of the ladder, too.
            waits.wait = Wait(self._key, record.refusals[0], left, WINDOW)
        else:
            waits.retry_after = left
        return waits.at(self._registry)


LOGIN = "login:"
"""Prefix of the keys (`Wait`) of logins; a host and an account follow."""


def _read(text: str) -> LoginRecord:
    try:
        facts = json.loads(text)
        return LoginRecord(**{**facts, "refusals": tuple(facts["refusals"])})
    except (ValueError, TypeError, KeyError):
        return LoginRecord()


def _write(record: LoginRecord) -> str:
    return json.dumps(asdict(record), separators=(",", ":"))

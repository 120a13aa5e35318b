"""A bounded history of recent copies, reconciles and actions of people, kept in the queue's Redis for people to read.

The step that ends a job writes its entry (``finish``), so an entry costs no request of its own, and a result that
Redis did not take has none. Each lane has a list of its own, so that a large backfill does not push the events out.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import socket
from collections.abc import Callable, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from weakref import WeakSet

import structlog

from replicator.console import iso, printable
from replicator.errors import ErrorClass, ErrorText, ReplicatorError
from replicator.queue.client import FAULTS
from replicator.queue.job import JsonValue, Lane
from replicator.queue.reconciles import ReconcileResult
from replicator.queue.records import EPOCH, Moment, decode, encode, milliseconds, moment
from replicator.queue.traffic import LagSpan, RateSpan, read_lags, read_rates
from replicator.tasks import cancel_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from replicator.queue.attempt import Ending, StartedJob
    from replicator.queue.client import Queue

Describe: TypeAlias = Callable[[Lane, Mapping[str, Any], Mapping[str, JsonValue] | None], "Description | None"]
"""Takes a job's lane, payload and outcome (None when it failed for good), and returns what the history keeps."""

log = structlog.get_logger("replicator.queue")

MOST_JOBS = 1000
"""Jobs that are kept, a lane (``chronicle``); one takes 0.3 to 6 KB."""
MOST_RECONCILES = 30
"""Reconciles that are kept."""
MOST_ACTIONS = 1000
"""Actions of people that are kept; one takes 0.1 to 1 KB."""
LAG_KEPT = timedelta(hours=48)
"""How long lags are kept, and the numbers of results by hour."""
_MOST_BYTES = 600
_MOST_WORDS = 300
_MOST_NAMED = 3
_LOG_SECONDS = 5.0
_OPTIONAL = ("replaced", "digest", "parts", "pushed")
"""Fields of an `Ended` that are left out where they say nothing."""
_LOGGING: WeakSet[Queue] = WeakSet()
"""The queues of this process whose actions it logs for all to see."""


@dataclass(frozen=True, slots=True)
class Description:
    """A job in the words of its owner.

    Attributes:
        result: how it ended, in a word or two.
        source: where it copied from.
        rule: the rule that asked for it.
        note: the reason for the result, if the result does not say it.
        bytes: how much was sent.
        arrived: whether the tag is in place now, so that the time it took is the wait of its sender.
        replaced: the previous digest of the destination, if it was another one; else empty.
        digest: of the image at the destination now; empty if it is not known.
        parts: how many manifests and blobs it took, by kind.
        kept: whether the history keeps it; if not, only receivers of events get it.
    """

    result: str
    source: str = ""
    rule: str = ""
    note: str = ""
    bytes: int = 0
    arrived: bool = True
    replaced: str = ""
    digest: str = ""
    parts: Mapping[str, int] = field(default_factory=dict)
    kept: bool = True


@dataclass(frozen=True, slots=True)
class Ended:
    """A job that was done, or became a dead letter.

    Attributes:
        at: when, by Redis's clock (UTC).
        lane: whose slot it took.
        result: how it ended, in a word or two.
        source: where it copied from; empty when that was lost.
        rule: the rule that asked for it; empty when that was lost.
        note: the error of a dead letter, as `replicator.errors.ErrorText.stored`; else the reason for the result, where
            that does not say it.
        error_class: class of the failure; None when it went well.
        bytes: how much was sent.
        seconds: how long the last attempt took.
        lag: seconds from the push to the end; None where no push asked for it, or its time is unknown.
        tries: number of attempts.
        replaced: the previous digest of the destination, if it was another one; else empty.
        digest: of the image at the destination now; empty if it is not known.
        parts: how many manifests and blobs it took, by kind.
        pushed: time of the push that asked for it, by its sender's clock (UTC); None where no push did.
    """

    at: Moment
    id: str
    lane: Lane
    result: str
    source: str
    rule: str
    note: str
    error_class: ErrorClass | None
    bytes: int
    seconds: float
    lag: float | None
    tries: int
    replaced: str = ""
    digest: str = ""
    parts: Mapping[str, int] = field(default_factory=dict)
    pushed: Moment | None = None


Entry = TypeVar("Entry")


@dataclass(frozen=True, slots=True)
class EndedFilter:
    """A filter for ended jobs: all fields must match; None matches any.

    Attributes:
        lane: of this one.
        source: copied from this reference, or from any that it is the beginning of.
        destination: the same for their ids.
        rule: asked for by this rule.
        result: ended with this word.
        failed: whether they failed for good.
    """

    lane: Lane | None = None
    source: str | None = None
    destination: str | None = None
    rule: str | None = None
    result: str | None = None
    failed: bool | None = None

    def suits(self, job: Ended) -> bool:
        """Tell whether a job is one of them."""
        return (
            job.id.startswith(self.destination or "")
            and job.source.startswith(self.source or "")
            and self.rule in (None, job.rule)
            and self.result in (None, job.result)
            and self.failed in (None, job.error_class is not None)
        )


@dataclass(frozen=True, slots=True)
class EndedPage:
    """Jobs that ended, the newest first, and where the next page begins (`read_ended`); None at the end."""

    jobs: tuple[Ended, ...]
    following: int | None


async def read_ended(
    queue: Queue, wanted: EndedFilter | None = None, *, before: int | None = None, most: int = 100
) -> EndedPage:
    """Read a page of the jobs that ended lately: of the last `MOST_JOBS` of each lane.

    Args:
        queue: whose.
        wanted: only these.
        before: `EndedPage.following` of the page before; None for the first.
        most: how many; a page has more where several ended in the same millisecond.

    Raises:
        QueueUnavailable: Redis does not answer.
    """
    wanted = wanted or EndedFilter()
    lanes = list(Lane) if wanted.lane is None else [wanted.lane]
    # A filter may leave little of a step, so that it reads all at once.
    step = most if wanted == EndedFilter(wanted.lane) else MOST_JOBS * len(lanes)
    following, *texts = await queue.ask("history_page", "" if before is None else str(before), step, *lanes)
    read = (_read_entry(Ended, text) for text in texts)
    found = [job for job in read if job is not None and wanted.suits(job)]
    if len(found) > most:
        last = found[most - 1].at
        shown = tuple(job for job in found if job.at >= last)
        return EndedPage(shown, milliseconds(last) if following or len(shown) < len(found) else None)
    return EndedPage(tuple(found), following or None)


@dataclass(frozen=True, slots=True)
class Action:
    """An action of a person, on the status page or with a command.

    Attributes:
        at: when, by Redis's clock (UTC).
        action: a verb, such as ``retry`` or ``pause``.
        what: the object of the action.
        by: the person who did it, see `system_user`; on the status page the name with which the browser logged in.
    """

    at: Moment
    action: str
    what: str
    by: str


@dataclass(frozen=True, slots=True)
class History:
    """All that the history holds.

    Attributes:
        now: the time of Redis (UTC).
        ended: jobs, the newest first.
        lags: the quarters of an hour of the last 48 hours in which something arrived, the oldest first.
        reconciles: their results, the newest first.
        actions: the actions of people, the newest first.
        rates: the hours of the last 48 hours in which jobs ended, the oldest first.
    """

    now: datetime
    ended: tuple[Ended, ...] = ()
    lags: tuple[LagSpan, ...] = ()
    reconciles: tuple[ReconcileResult, ...] = ()
    actions: tuple[Action, ...] = ()
    rates: tuple[RateSpan, ...] = ()

    @classmethod
    async def read(cls, queue: Queue) -> History:
        """Ask the queue. Entries in the form of another version of this program are left out.

        Raises:
            QueueUnavailable: it does not answer.
        """
        now, events, backfill, lags, reconciles, actions, rates = await queue.ask("history")
        ended = [entry for text in [*events, *backfill] if (entry := _read_entry(Ended, text)) is not None]
        results = [result for text in reconciles if (result := ReconcileResult.read(text)) is not None]
        spans = sorted(read_lags(lags), key=lambda span: span.start)
        oldest = moment(now) - LAG_KEPT
        return cls(
            moment(now),
            tuple(sorted(ended, key=lambda entry: entry.at, reverse=True)),
            tuple(span for span in spans if span.start > oldest),
            tuple(results),
            tuple(action for text in actions if (action := _read_entry(Action, text)) is not None),
            tuple(span for span in read_rates(rates) if span.start > oldest),
        )


async def note_action(queue: Queue | None, *, action: str, what: str, by: str) -> None:
    """Log what a person did, and keep it in the history. The log of ``serve`` also has the actions of commands.

    Call it once the action is done: an action does not fail because its trace can't be kept, which is only logged.

    Args:
        queue: where the history is; None only to log it.
        action: a verb, such as ``retry`` or ``pause``.
        what: the object of the action, see `named`.
        by: the person who did it.
    """
    entry = Action(EPOCH, _cut(action), _cut(what), _cut(by))
    log.info("operator action", action=entry.action, what=entry.what, by=entry.by)
    if queue is not None:
        try:
            await queue.ask("note_action", encode(entry, without={"at"}), int(queue not in _LOGGING))
        except ReplicatorError as error:
            log.warning("operator action not kept", action=entry.action, subject=entry.what, error=error)


@asynccontextmanager
async def logging_actions(queue: Queue) -> AsyncIterator[None]:
    """Log the actions of commands, each in one process, for as long as the context lasts.

    The log of a command goes to its own output, and no system collects that.
    """

    async def log_them() -> None:
        while True:
            with suppress(*FAULTS):
                for text in reversed(await queue.run_script("actions_to_log")):
                    if (entry := _read_entry(Action, text)) is not None:
                        facts = {"action": entry.action, "what": entry.what, "by": entry.by, "at": iso(entry.at)}
                        log.info("operator action", **facts)
            await asyncio.sleep(_LOG_SECONDS)

    _LOGGING.add(queue)
    logging = asyncio.create_task(log_them())
    try:
        yield
    finally:
        await cancel_all({logging})


def named(names: Collection[str]) -> str:
    """Name the first few of many things, for `note_action`."""
    first = ", ".join(islice(names, _MOST_NAMED))
    more = len(names) - _MOST_NAMED
    return f"{first} and {more:,} more" if more > 0 else first


def system_user() -> str:
    """Return the user of this process: ``user@host``, and the user before sudo."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name; before Python 3.13 that is a KeyError
        user = f"uid {os.getuid()}"
    former = os.environ.get("SUDO_USER", user)
    return f"{user}@{socket.gethostname()}{f' (sudo by {former})' if former != user else ''}"


def describe_end(describe: Describe | None, lane: Lane, ending: Ending) -> Description | None:
    """Ask what the history shall keep of an attempt; None when it is not the job's last."""
    if describe is None or ending.how not in ("done", "dead"):
        return None
    try:
        return describe(lane, ending.payload or {}, ending.outcome)
    except Exception:
        # A fault in a description must not keep the job from its end.
        log.exception("job not described")
        return None


def encode_entry(
    job: StartedJob, lane: Lane, ending: Ending, seconds: float, description: Description | None
) -> str | bytes:
    """Give the entry of the history and the outbox for a job that ended; empty for none.

    Args:
        job: what ended.
        lane: whose slot it took.
        ending: how it ended.
        seconds: how long the last attempt took.
        description: the job in the words of its owner.

    Returns:
        JSON of an `Ended`; with a ``-`` in front if the history does not keep it.
    """
    if description is None:
        return ""
    failure, note = ending.failure, _cut(description.note)
    if failure is not None:
        note = ErrorText.parse(failure.message).bounded(_MOST_WORDS).stored
    entry = Ended(
        at=EPOCH,  # left out: Redis puts its own time in front
        id=job.id,
        lane=lane,
        result=description.result,
        source=_cut(description.source),
        rule=_cut(description.rule),
        note=note,
        error_class=None if failure is None else failure.error_class,
        bytes=description.bytes,
        seconds=round(seconds, 3),
        lag=None if ending.lag is None else round(ending.lag, 3),
        tries=job.failures + 1,
        replaced=_cut(description.replaced),
        digest=_cut(description.digest),
        parts=description.parts,
        pushed=job.record.pushed,
    )
    data = encode(entry, without={"at", *(name for name in _OPTIONAL if not getattr(entry, name))})
    return data if description.kept else b"-" + data


def lag_ms(lane: Lane, ending: Ending, seconds: float, description: Description | None) -> str | int:
    """Return how long a push waited for its arrival, in milliseconds; empty if no push did, or nothing arrived."""
    if lane is not Lane.EVENTS or ending.how != "done" or description is None or not description.arrived:
        return ""
    return int((seconds if ending.lag is None else ending.lag) * 1000)


def _cut(text: str) -> str:
    """Bound a text by its bytes in JSON: a control character would take six of them there."""
    return printable(text).encode(errors="replace")[:_MOST_BYTES].decode(errors="ignore")


def _read_entry(kind: type[Entry], text: bytes) -> Entry | None:
    milliseconds, _, record = text.partition(b" ")
    try:
        return decode(kind, record, at=float(milliseconds))
    except ValueError:
        return None

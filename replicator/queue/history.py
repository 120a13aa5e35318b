"""What ended lately, kept in the queue's Redis for a person to look at: bounded, and never the reason of a failure.

The step that ends a job notes it (``finish``), so it costs no request of its own, and one that was not taken is
not in it. Events and backfills have their own part, so that a large backfill does not push the events out.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

import structlog

from replicator.console import printable
from replicator.errors import ErrorClass
from replicator.queue.job import JsonValue, Lane, dump_json, load_json
from replicator.queue.reconciles import ReconcileResult, read_result
from replicator.queue.snapshot import moment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

    from replicator.queue.attempt import Claim, Ending
    from replicator.queue.client import Queue

    Describe: TypeAlias = Callable[[Lane, Mapping[str, Any], Mapping[str, JsonValue] | None], "Description | None"]
    """Takes a job's lane, payload and outcome (None when it was given up), and says what is kept; None for nothing."""

log = structlog.get_logger("replicator.queue")

MOST_JOBS = 1000
"""Jobs that are kept, a lane (``chronicle``); one takes 0.3 to 6 KB."""
MOST_RECONCILES = 30
"""Reconciles that are kept."""
LAG_SPAN = timedelta(minutes=15)
"""The length of one :class:`LagSpan`."""
LAG_KEPT = timedelta(hours=48)
"""How long lags are kept."""
_MOST_BYTES = 600


@dataclass(frozen=True, slots=True)
class Description:
    """What a job was about, in the words of whom it belongs to.

    Attributes:
        result: how it ended, in a word or two.
        source: where from.
        rule: why it was done.
        note: why it ended so, where the result does not say it.
        bytes: how much was sent.
        arrived: whether what was asked for is in place now, so that the time it took is the wait of whoever asked.
    """

    result: str
    source: str = ""
    rule: str = ""
    note: str = ""
    bytes: int = 0
    arrived: bool = True


@dataclass(frozen=True, slots=True)
class Ended:
    """A job that ended: was done or given up.

    Attributes:
        at: when, by Redis's clock (UTC).
        id: the job's.
        lane: whose slot it took.
        result: how it ended, in a word or two.
        source: where from; empty when that was lost.
        rule: why it was done; empty when that was lost.
        note: the error of one that was given up; else why it ended so, where the result does not say it.
        error_class: the failure's class; None when it went well.
        bytes: how much was sent.
        seconds: how long the last try took.
        lag: seconds from the push to the end; None where no push asked for it, or its time is not known.
        tries: how many there were.
    """

    at: datetime
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


@dataclass(frozen=True, slots=True)
class LagSpan:
    """How long pushes waited that were served within a quarter of an hour.

    Attributes:
        start: when it began (UTC).
        number: how many copies for events arrived.
        mean: seconds from the push to its arrival on average; of one whose time is not known, those of its last try.
        longest: the most of them.
    """

    start: datetime
    number: int
    mean: float
    longest: float


@dataclass(frozen=True, slots=True)
class History:
    """What is known of the past.

    Attributes:
        now: the time of Redis (UTC).
        ended: jobs, the newest first.
        lags: the quarters of an hour of the last 48 hours in which something arrived, the oldest first.
        reconciles: how they ended, the newest first.
    """

    now: datetime
    ended: tuple[Ended, ...] = ()
    lags: tuple[LagSpan, ...] = ()
    reconciles: tuple[ReconcileResult, ...] = ()

    @classmethod
    async def read(cls, queue: Queue) -> History:
        """Ask the queue. What another version of this program noted in another form is left out.

        Raises:
            QueueUnavailable: it does not answer.
        """
        now, events, backfill, lags, reconciles = await queue.ask("history")
        ended = [entry for text in [*events, *backfill] if (entry := _read_entry(text)) is not None]
        results = [result for text in reconciles if (result := read_result(text)) is not None]
        spans = sorted(_read_lags(lags), key=lambda span: span.start)
        oldest = moment(now) - LAG_KEPT
        return cls(
            moment(now),
            tuple(sorted(ended, key=lambda entry: entry.at, reverse=True)),
            tuple(span for span in spans if span.start > oldest),
            tuple(results),
        )


def describe_end(describe: Describe | None, lane: Lane, verdict: Ending) -> Description | None:
    """Ask what the history shall keep of a try that ended; nothing when it is not the job's last."""
    if describe is None or verdict.how not in ("done", "dead"):
        return None
    try:
        return describe(lane, verdict.payload or {}, verdict.outcome)
    except Exception:
        # A fault in this must not keep the job from its end.
        log.exception("job not described")
        return None


def encode_entry(
    claim: Claim, lane: Lane, verdict: Ending, seconds: float, description: Description | None
) -> str | bytes:
    """Give the form in which the history keeps a job that ended; empty when it keeps none.

    Args:
        claim: the job.
        lane: whose slot it took.
        verdict: how it ended.
        seconds: how long the last try took.
        description: what it was about.
    """
    if description is None:
        return ""
    note = load_json(verdict.note)["message"] if verdict.how == "dead" else description.note
    return dump_json(
        {
            "id": claim.id,
            "lane": lane,
            "result": description.result,
            "source": _cut(description.source),
            "rule": _cut(description.rule),
            "note": _cut(str(note)),
            "error_class": verdict.error_class,
            "bytes": description.bytes,
            "seconds": round(seconds, 3),
            "lag": None if verdict.lag is None else round(verdict.lag, 3),
            "tries": claim.failures + 1,
        }
    )


def lag_ms(lane: Lane, verdict: Ending, seconds: float, description: Description | None) -> str | int:
    """Say how long someone waited for what arrived, in milliseconds; empty where nobody did, or nothing arrived."""
    if lane is not Lane.EVENTS or verdict.how != "done" or description is None or not description.arrived:
        return ""
    return int((seconds if verdict.lag is None else verdict.lag) * 1000)


def _cut(text: str) -> str:
    """Bound a text by what it takes in JSON, where a control character takes six bytes."""
    return printable(text).encode(errors="replace")[:_MOST_BYTES].decode(errors="ignore")


def _read_entry(text: bytes) -> Ended | None:
    milliseconds, _, record = text.partition(b" ")
    try:
        fields = load_json(record)
        error_class = fields["error_class"]
        return Ended(
            at=moment(int(milliseconds)),
            id=str(fields["id"]),
            lane=Lane(fields["lane"]),
            result=str(fields["result"]),
            source=str(fields["source"]),
            rule=str(fields["rule"]),
            note=str(fields["note"]),
            error_class=None if error_class is None else ErrorClass(error_class),
            bytes=int(fields["bytes"]),
            seconds=float(fields["seconds"]),
            lag=None if fields["lag"] is None else float(fields["lag"]),
            tries=int(fields["tries"]),
        )
    except (ValueError, KeyError, TypeError, OverflowError, OSError):
        return None


def _read_lags(reply: list[bytes]) -> Iterable[LagSpan]:
    for name, text in zip(reply[::2], reply[1::2], strict=True):
        try:
            number, total, longest = (int(part) for part in text.split())
            start = moment(int(name) * LAG_SPAN.total_seconds() * 1000)
            yield LagSpan(start, number, total / number / 1000, longest / 1000)
        except (ValueError, ArithmeticError, OSError):
            continue

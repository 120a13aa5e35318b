"""What became of every tag, as rows and counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum


class RowOutcome(StrEnum):
    """What became of a tag."""

    COPIED = "copied"
    UP_TO_DATE = "up to date"
    SKIPPED = "skipped"
    SOURCE_GONE = "source gone"
    FAILED = "failed"
    WOULD_COPY = "would copy"
    """A dry run: it differs or is missing at the destination."""
    QUEUED = "queued"
    """It is in the queue, and the run has ended: whichever worker is there next copies it."""
    NOT_BEGUN = "not begun"
    """The run ended before it was compared."""


@dataclass(frozen=True, slots=True)
class Row:
    """One tag's fate.

    Attributes:
        source: where from; of something that could not be listed, that.
        destination: where to; empty where it is not known.
        outcome: what became of it.
        digest: what the destination's tag names now, where that is known.
        error: why it failed.
        bytes: blob bytes that were sent.
        seconds: how long the copy took.
        note: what was left out of the image, or why it was skipped.
        warnings: what was refused, or does not hold, without making the copy fail.
    """

    source: str
    destination: str
    outcome: RowOutcome
    digest: str | None = None
    error: str | None = None
    bytes: int = 0
    seconds: float = 0.0
    note: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(slots=True)
class Report:
    """All rows of a run, and what the rules had wrong.

    Attributes:
        rows: a row a tag, in the order they ended.
        warnings: what is allowed but most likely not meant.
        listed: how many tags the rules name so far.
        seconds: how long the run took.
        interrupted: it was ended before its time.
        failed_fast: a failed copy ended it before its time.
        broken_off: an error of its own did, such as a queue that takes nothing.
    """

    rows: list[Row] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    listed: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    failed_fast: bool = False
    broken_off: bool = False
    counts: Counter[RowOutcome] = field(default_factory=Counter)
    bytes: int = 0

    def add(self, row: Row) -> None:
        """Take in a row."""
        self.rows.append(row)
        self.counts[row.outcome] += 1
        self.bytes += row.bytes

    @property
    def failures(self) -> list[Row]:
        """The rows that failed."""
        return [row for row in self.rows if row.outcome is RowOutcome.FAILED]

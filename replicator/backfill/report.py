"""What became of every tag, as rows, counts and a file."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from replicator.errors import ConfigError, Problem, ReplicatorError

if TYPE_CHECKING:
    from pathlib import Path


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
        failed_fast: a failure ended it before its time.
    """

    rows: list[Row] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    listed: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    failed_fast: bool = False
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

    def write(self, file: Path) -> None:
        """Write the rows as JSON: a list with an object a tag.

        Raises:
            ReplicatorError: the file can't be written.
        """
        content = json.dumps([asdict(row) for row in self.rows], indent=1, ensure_ascii=False)
        try:
            file.write_text(content + "\n", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise ReplicatorError(f"the report is lost: {file}: {error.strerror or error}") from None


def check_writable(file: Path) -> None:
    """Make sure, before hours of copying, that a report can be written.

    Raises:
        ConfigError: it can't.
    """
    try:
        with file.open("a", encoding="utf-8"):
            pass
    except OSError as error:
        raise ConfigError("command line", [Problem("--report", f"{file}: {error.strerror or error}")]) from None

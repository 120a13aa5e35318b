"""What became of every tag, as rows and counts.

Rows put aside until the end of a run, and then read in order, in little memory.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from replicator.errors import ReplicatorError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_FAILURES = 1000
"""Failures that are kept to be told at the end; all the others are in the counts, and in a report that is asked for."""


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
        size: bytes of the whole image at the source, where Harbor's list told.
        bytes: blob bytes that were sent.
        seconds: how long the copy took.
        note: what was left out of the image, why it was skipped, or why it was not asked for.
        warnings: what was refused, or does not hold, without making the copy fail.
    """

    source: str
    destination: str
    outcome: RowOutcome
    digest: str | None = None
    error: str | None = None
    size: int | None = None
    bytes: int = 0
    seconds: float = 0.0
    note: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(slots=True)
class Report:
    """What is known of a run: counts, and what a person must hear of. It does not grow with the number of tags.

    Attributes:
        warnings: what is allowed but most likely not meant.
        listed: how many tags the rules name so far.
        complete: whether everything that was meant has been listed to its end.
        older: how many of the tags were set before the time that was asked for; they are not among ``listed``.
        trusted: how many were up to date without asking their destination.
        drift: how many tags were seen to differ from their destination, and were not in the queue already.
        seconds: how long the run took.
        interrupted: it was ended before its time.
        failed_fast: a failed copy ended it before its time.
        broken_off: an error of its own did, such as a queue that takes nothing.
        counts: tags by what became of them.
        bytes: blob bytes that were sent.
        failures: the first rows that failed.
    """

    warnings: list[str] = field(default_factory=list)
    listed: int = 0
    complete: bool = False
    older: int = 0
    trusted: int = 0
    drift: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    failed_fast: bool = False
    broken_off: bool = False
    counts: Counter[RowOutcome] = field(default_factory=Counter)
    bytes: int = 0
    failures: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Take in a row."""
        self.counts[row.outcome] += 1
        self.bytes += row.bytes
        if row.outcome is RowOutcome.FAILED and len(self.failures) < MAX_FAILURES:
            self.failures.append(row)

    @property
    def ended(self) -> int:
        """How many tags something became of."""
        return self.counts.total()


_CACHE_KIBIBYTES = 4096


class SortedRows:
    """A pile of texts, each under a source and a destination.

    It stands in a temporary file that SQLite keeps once it is larger than a few megabytes (``TMPDIR`` says where), and
    that is gone with it, however the process ends.
    """

    def __init__(self) -> None:
        # No name: a temporary database (https://www.sqlite.org/inmemorydb.html, "Temporary Databases").
        self._error: sqlite3.Error | None = None
        self._database = sqlite3.connect("", isolation_level=None)
        for statement in (
            f"PRAGMA cache_size=-{_CACHE_KIBIBYTES}",
            "PRAGMA journal_mode=OFF",
            "PRAGMA synchronous=OFF",
            "CREATE TABLE pile (source TEXT, destination TEXT, content TEXT)",
            "BEGIN",
        ):
            self._database.execute(statement)

    def add(self, source: str, destination: str, content: str = "") -> None:
        """Put a text aside. What goes wrong is told by `read`."""
        if self._error is None:
            try:
                self._database.execute("INSERT INTO pile VALUES (?, ?, ?)", (source, destination, content))
            except sqlite3.Error as error:
                self._error = error

    def read(self) -> Iterator[tuple[str, str, str]]:
        """Give source, destination and text of everything, sorted, what is wholly the same once.

        Raises:
            ReplicatorError: there was no room for all of it, or is none for sorting it.
        """
        try:
            if self._error is not None:
                raise self._error
            yield from self._database.execute(
                "SELECT DISTINCT source, destination, content FROM pile ORDER BY source, destination, content"
            )
        except sqlite3.Error as error:
            message = f"no room for rows in the directory of temporary files (TMPDIR): {error}"
            raise ReplicatorError(message) from None

    def close(self) -> None:
        """Forget everything."""
        self._database.close()

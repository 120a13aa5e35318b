"""The report of a backfill: a row for each tag, counts, and rows kept on disk until they can be sorted."""

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
"""Failed rows that a report keeps; further ones are in the counts, and in the report file if one is asked for."""
_CACHE_KIBIBYTES = 4096


class RowOutcome(StrEnum):
    """What became of a tag."""

    COPIED = "copied"
    UP_TO_DATE = "up to date"
    SKIPPED = "skipped"
    SOURCE_GONE = "source gone"
    FAILED = "failed"
    WOULD_COPY = "would copy"
    """In a dry run: it differs, or is missing at the destination."""
    QUEUED = "queued"
    """The run has ended, and the copy is in the queue for the next worker."""
    NOT_BEGUN = "not begun"
    """The run ended before the tag was compared."""


@dataclass(frozen=True, slots=True)
class Row:
    """The result for one tag.

    Attributes:
        source: the tag; or the repository, project or pattern that could not be listed.
        destination: empty if it is not known.
        digest: of the destination's tag, if it is known.
        error: why it failed.
        size: bytes of the whole image at the source, if Harbor's list has it.
        bytes: blob bytes sent.
        seconds: duration of the copy.
        note: what was left out of the image, why it was skipped, or why it was not compared.
        warnings: problems that did not make the copy fail, such as a refused signature.
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
    """Counts, warnings and the first failures of a run; its size does not grow with the number of tags.

    Attributes:
        warnings: what is allowed but most likely not intended.
        listed: tags that the rules name so far.
        complete: whether the listing came to its end.
        older: tags that ``since`` skipped; not counted as listed.
        trusted: tags that were taken as up to date without a comparison.
        drift: tags that were seen to differ from their destination, and were not in the queue already.
        seconds: duration of the run.
        interrupted: the run was cancelled.
        failed_fast: a failed copy ended the run.
        broken_off: an error of the run itself ended it, such as a queue that takes nothing.
        bytes: blob bytes sent.
        failures: the first rows that failed, `MAX_FAILURES` at the most.
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
        """Count a row."""
        self.counts[row.outcome] += 1
        self.bytes += row.bytes
        if row.outcome is RowOutcome.FAILED and len(self.failures) < MAX_FAILURES:
            self.failures.append(row)

    @property
    def ended(self) -> int:
        """How many tags have a row."""
        return self.counts.total()


class SortedRows:
    """Rows of text, each with a source and a destination, that are read back in order.

    They are in a temporary database, which SQLite moves to a file once it is larger than a few megabytes (``TMPDIR``
    says where). The file has no name, so it is gone with the process however that ends.
    """

    def __init__(self) -> None:
        self._error: sqlite3.Error | None = None
        # An empty name makes a temporary database (https://www.sqlite.org/inmemorydb.html, "Temporary Databases").
        # It is never opened again, so it needs no journal and no sync.
        self._database = sqlite3.connect("", isolation_level=None)
        for statement in (
            f"PRAGMA cache_size=-{_CACHE_KIBIBYTES}",
            "PRAGMA journal_mode=OFF",
            "PRAGMA synchronous=OFF",
            "CREATE TABLE rows (source TEXT, destination TEXT, content TEXT)",
            "BEGIN",
        ):
            self._database.execute(statement)

    def add(self, source: str, destination: str, content: str = "") -> None:
        """Add a row. An error is raised later, by `read`, so that a full disk does not end the copies."""
        if self._error is None:
            try:
                self._database.execute("INSERT INTO rows VALUES (?, ?, ?)", (source, destination, content))
            except sqlite3.Error as error:
                self._error = error

    def read(self) -> Iterator[tuple[str, str, str]]:
        """Yield source, destination and content of all rows, sorted, equal rows once.

        Raises:
            ReplicatorError: there was no room for the rows, or there is none to sort them.
        """
        try:
            if self._error is not None:
                raise self._error
            yield from self._database.execute(
                "SELECT DISTINCT source, destination, content FROM rows ORDER BY source, destination, content"
            )
        except sqlite3.Error as error:
            message = f"no room for rows in the directory of temporary files (TMPDIR): {error}"
            raise ReplicatorError(message) from None

    def close(self) -> None:
        """Delete all rows."""
        self._database.close()

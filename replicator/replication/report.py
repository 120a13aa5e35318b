"""The report of a backfill: a row for each tag, counts, rows kept on disk until they can be sorted, and its files.

Rows are written to a file as they arrive, so a report of any length takes no memory and can be followed while it grows.
"""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from itertools import groupby, islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Protocol

from replicator.console import TextFile
from replicator.errors import ErrorText, ReplicatorError, error_fields
from replicator.registry.kinds import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

MAX_FAILURES = 1000
"""Failed rows that a report keeps; further ones are in the counts, and in the report file if one is asked for."""
_CACHE_KIBIBYTES = 4096

OTHER_KIND = "other"
"""The kind of all artifacts that have no kind of their own."""


class RowOutcome(StrEnum):
    """The outcome of a tag."""

    COPIED = "copied"
    UP_TO_DATE = "up to date"
    SKIPPED = "skipped"
    SOURCE_GONE = "source gone"
    FAILED = "failed"
    CANCELLED = "cancelled"
    """Somebody deleted it from the queue (``replicator queue cancel``)."""
    NOT_LISTED = "not listed"
    """No tag: a repository, project or pattern that could not be listed to its end."""
    WOULD_COPY = "would copy"
    QUEUED = "queued"
    """The run has ended, and the copy is in the queue for the next worker."""
    NOT_BEGUN = "not begun"
    """The run ended before the tag was compared."""
    HELD = "held"
    """The destination's tag names another image, and the number of replacements needs an approval."""


TROUBLE = frozenset({RowOutcome.FAILED, RowOutcome.NOT_LISTED})


# Not frozen, although no code changes one: there is one for each tag, and a frozen one costs three times as much.
@dataclass(slots=True, unsafe_hash=True)
class Row:
    """The result for one tag.

    Attributes:
        source: the tag; or the repository, project or pattern that could not be listed.
        destination: empty if it is not known.
        digest: of the destination's tag, if it is known.
        error: why it failed, as `replicator.errors.ErrorText.stored`.
        size: bytes of the whole image at the source, if Harbor's list has it.
        bytes: blob bytes sent.
        seconds: duration of the copy.
        note: what was left out of the image, why it was skipped, or why it was not compared.
        warnings: problems that did not make the copy fail, such as a refused signature.
        replaced: the digest of another image that the destination's tag named before, or names before a copy that is
            yet to be made; None for none.
        still_holds: the digest that the destination's tag still has, although the source's tag was skipped.
        refused: the kind of an artifact that was skipped because the destination refuses it, such as ``chart``.
        source_digest: of the source's tag when it was compared or copied, if it is known.
        present: the digest that the destination's tag names, if it was asked and there is such a tag.
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
    replaced: str | None = None
    still_holds: str | None = None
    refused: str = ""
    source_digest: str | None = None
    present: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values: its fields, and ``what``, ``why`` and ``do`` of the error, null without one."""
        error = None if self.error is None else str(ErrorText.parse(self.error))
        return asdict(self) | {"error": error} | error_fields(self.error)


@dataclass(slots=True)
class Report:
    """Counts, warnings and the first failures of a run; its size does not grow with the number of tags.

    Attributes:
        warnings: allowed settings that are most likely not intended.
        listed: tags that the rules name so far; at the end, the sum of ``counts`` without `RowOutcome.NOT_LISTED`.
        complete: whether the listing came to its end.
        older: tags that ``since`` skipped; not counted as listed.
        trusted: tags that were taken as up to date without a comparison.
        drift: tags that were seen to differ from their destination, and were not in the queue already.
        stale: tags that were skipped or are gone, while their destination still holds an old image.
        refused: skipped tags by the kind that their destination refuses.
        lost: tags that were missing at their destination although this installation had seen them there.
        lost_examples: the first of these destinations.
        seconds: duration of the run.
        interrupted: the run was cancelled.
        failed_fast: a failed copy ended the run.
        broken_off: an error of the run itself ended it.
        collisions: failed tags whose destination is that of another source too.
        bytes: blob bytes sent.
        replaced: tags that named another image before they were copied, or would name one in a dry run.
        failures: the first rows that failed, could not be listed or were held back, at most `MAX_FAILURES`.
    """

    warnings: list[str] = field(default_factory=list)
    listed: int = 0
    complete: bool = False
    older: int = 0
    trusted: int = 0
    drift: int = 0
    stale: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    lost_examples: list[str] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = False
    failed_fast: bool = False
    broken_off: bool = False
    collisions: int = 0
    counts: Counter[RowOutcome] = field(default_factory=Counter)
    bytes: int = 0
    replaced: int = 0
    failures: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Count a row."""
        self.counts[row.outcome] += 1
        self.bytes += row.bytes
        self.replaced += row.replaced is not None
        self.stale += row.still_holds is not None
        if row.refused:
            # The number of kinds to show is bounded, even if a source invents names.
            self.refused[row.refused if row.refused in KINDS else OTHER_KIND] += 1
        if (row.outcome in TROUBLE or row.outcome is RowOutcome.HELD) and len(self.failures) < MAX_FAILURES:
            self.failures.append(row)

    @property
    def ended(self) -> int:
        """How many tags have a row."""
        return self.counts.total() - self.counts[RowOutcome.NOT_LISTED]

    @property
    def troubles(self) -> int:
        """How many rows failed or could not be listed."""
        return sum(self.counts[outcome] for outcome in TROUBLE)


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


IN_PLACE = frozenset({RowOutcome.COPIED, RowOutcome.UP_TO_DATE})
"""The outcomes that leave the destination as it should be."""

_SOURCES_A_CHUNK = 500
"""Sources that are serialised to YAML at once."""


class RowFormat(StrEnum):
    """The format of a file of rows."""

    JSON = "json"
    """A list with one object for each row."""
    JSON_LINES = "jsonl"
    """One object for each line."""
    CSV = "csv"
    """A line with the names of the columns, then one line for each row (RFC 4180)."""

    @classmethod
    def of(cls, file: Path) -> RowFormat:
        """Return the format that the suffix of a file names; `JSON` for any other suffix."""
        suffix = file.suffix.lower().removeprefix(".")
        return cls(suffix) if suffix in list(cls) else cls.JSON


class ListFormat(StrEnum):
    """The format of a list of images."""

    JSON = "json"
    YAML = "yaml"


class Output(Protocol):
    """A file, or a text on the terminal, that is made from the rows of a run."""

    def check(self) -> None:
        """Check that it can be written, before the run starts.

        Raises:
            ConfigError: it can't be written.
        """

    def row(self, row: Row) -> None:
        """Take a row. An error is raised later, by `end`."""

    def end(self) -> None:
        """Complete it.

        Raises:
            ReplicatorError: it could not be written.
        """


class RowsFile:
    """A file with every row.

    Args:
        row_format: None for the format that the file's suffix names.
    """

    def __init__(self, file: Path, row_format: RowFormat | None = None) -> None:
        self._format = row_format or RowFormat.of(file)
        self._text = TextFile("--report", file)
        self._rows = 0

    def check(self) -> None:
        """See `Output`."""
        self._text.check()

    def row(self, row: Row) -> None:
        """See `Output`."""
        self._start()
        if self._format is RowFormat.CSV:
            values = row.to_json() | {"warnings": "; ".join(row.warnings)}
            self._text.write(_csv_line(values[name] for name in _COLUMNS))
        else:
            text = json.dumps(row.to_json(), ensure_ascii=False)
            separator = ",\n " if self._rows else "\n "
            self._text.write(f"{text}\n" if self._format is RowFormat.JSON_LINES else f"{separator}{text}")
        self._rows += 1

    def end(self) -> None:
        """See `Output`."""
        self._start()
        if self._format is RowFormat.JSON:
            self._text.write("\n]\n" if self._rows else "]\n")
        self._text.close()

    def _start(self) -> None:
        if not self._rows and self._format is RowFormat.CSV:
            self._text.write(_csv_line(_COLUMNS))
        elif not self._rows and self._format is RowFormat.JSON:
            self._text.write("[")


_COLUMNS = (*(field.name for field in fields(Row)), *error_fields(None))


def _csv_line(values: Iterable[Any]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(values)
    return text.getvalue()


class ImagesFile:
    """A file that maps each source to its destinations, as image-syncer writes it.

    It can be given to ``--images``, where the digest of a destination follows from the source; so it is left out here.
    What could not be listed has no destination and is left out as well.

    Args:
        option: the option that asks for the file, for errors.
        outcomes: the rows to write.
    """

    def __init__(self, option: str, file: Path, outcomes: Iterable[RowOutcome], list_format: ListFormat) -> None:
        self._text = TextFile(option, file)
        self._outcomes = frozenset(outcomes)
        self._format = list_format
        self._sorted = SortedRows()

    def check(self) -> None:
        """See `Output`."""
        self._text.check()

    def row(self, row: Row) -> None:
        """See `Output`."""
        if row.outcome in self._outcomes and row.destination:
            self._sorted.add(row.source, row.destination.partition("@")[0])

    def end(self) -> None:
        """See `Output`."""
        try:
            for text in _json_list(self._images()) if self._format is ListFormat.JSON else _yaml_list(self._images()):
                self._text.write(text)
        finally:
            self._sorted.close()
        self._text.close()

    def _images(self) -> Iterator[tuple[str, list[str]]]:
        for source, rows in groupby(self._sorted.read(), key=itemgetter(0)):
            yield source, [destination for _, destination, _ in rows]


def _json_list(images: Iterator[tuple[str, list[str]]]) -> Iterator[str]:
    start = "{"
    for source, destinations in images:
        # The part between the braces of an object with one member.
        yield start + json.dumps({source: destinations}, indent=1, ensure_ascii=False)[1:-2]
        start = ","
    yield "{}\n" if start == "{" else "\n}\n"


def _yaml_list(images: Iterator[tuple[str, list[str]]]) -> Iterator[str]:
    # Imported here: few backfills write such a list.
    import yaml

    chunk = dict(islice(images, _SOURCES_A_CHUNK))
    if not chunk:
        yield "{}\n"
    while chunk:
        # Block mappings that follow each other are one mapping.
        yield yaml.safe_dump(chunk, allow_unicode=True, width=10_000)
        chunk = dict(islice(images, _SOURCES_A_CHUNK))


def end_all(outputs: Iterable[Output]) -> None:
    """Complete all files, even if one of them fails.

    Raises:
        ReplicatorError: one of them could not be written; with all reasons.
    """
    lost: list[str] = []
    for output in outputs:
        try:
            output.end()
        except ReplicatorError as error:
            lost.append(str(error))
    if lost:
        raise ReplicatorError("; ".join(lost))

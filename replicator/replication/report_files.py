"""The files that a backfill leaves behind: its rows in several formats, and lists of images like image-syncer's.

Rows are written as they come, so that a report of any length takes no memory and can be followed while it grows.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, fields
from enum import StrEnum
from itertools import groupby, islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Protocol, TextIO

import yaml

from replicator.errors import ConfigError, Problem, ReplicatorError
from replicator.replication.report import Row, RowOutcome, SortedRows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

IN_PLACE = frozenset({RowOutcome.COPIED, RowOutcome.UP_TO_DATE})
"""What became of an image whose destination is as it should be."""

_SOURCES_A_TIME = 500
"""Sources that are put into YAML at once."""


class RowFormat(StrEnum):
    """How rows are written."""

    JSON = "json"
    """A list with an object a row."""
    JSON_LINES = "jsonl"
    """An object a line."""
    CSV = "csv"
    """A line with the names of the columns, then a line a row (RFC 4180)."""

    @classmethod
    def of(cls, file: Path) -> RowFormat:
        """Return the format that a file's ending names; `JSON` for any other."""
        ending = file.suffix.lower().removeprefix(".")
        return cls(ending) if ending in list(cls) else cls.JSON


class ListFormat(StrEnum):
    """How lists of images are written."""

    JSON = "json"
    YAML = "yaml"


class Output(Protocol):
    """Something that is made of the rows of a run."""

    def check(self) -> None:
        """Make sure, before anything is started, that it can be made.

        Raises:
            ConfigError: it can't.
        """

    def row(self, row: Row) -> None:
        """Take a row. What goes wrong is told by `end`."""

    def end(self) -> None:
        """Complete it.

        Raises:
            ReplicatorError: it is lost.
        """


class _Sheet:
    """A text file that is written piece by piece; what goes wrong is told once, at its end."""

    def __init__(self, option: str, file: Path) -> None:
        self._option = option
        self._file = file
        self._open: TextIO | None = None
        self._error: OSError | None = None

    def check(self) -> None:
        try:
            with self._file.open("a", encoding="utf-8"):
                pass
        except OSError as error:
            raise ConfigError(
                "command line", [Problem(self._option, f"{self._file}: {error.strerror or error}")]
            ) from None

    def write(self, text: str) -> None:
        if self._error is not None:
            return
        try:
            if self._open is None:
                # As it is: in CSV the line ends are part of the format.
                self._open = self._file.open("w", encoding="utf-8", errors="backslashreplace", newline="")
            self._open.write(text)
        except OSError as error:
            self._error = error

    def close(self) -> None:
        self.write("")
        try:
            if self._open is not None:
                self._open.close()
        except OSError as error:
            self._error = self._error or error
        if self._error is not None:
            reason = self._error.strerror or self._error
            raise ReplicatorError(f"the report is lost: {self._file}: {reason}") from None


class RowsFile:
    """A file with every row.

    Args:
        file: where.
        row_format: how; None for what the file's ending says.
    """

    def __init__(self, file: Path, row_format: RowFormat | None = None) -> None:
        self._format = row_format or RowFormat.of(file)
        self._sheet = _Sheet("--report", file)
        self._rows = 0

    def check(self) -> None:
        """See `Output`."""
        self._sheet.check()

    def row(self, row: Row) -> None:
        """See `Output`."""
        self._begin()
        if self._format is RowFormat.CSV:
            values: dict[str, Any] = {name: getattr(row, name) for name in _COLUMNS}
            self._sheet.write(_csv_line((values | {"warnings": "; ".join(row.warnings)}).values()))
        else:
            text = json.dumps(asdict(row), ensure_ascii=False)
            before = ",\n " if self._rows else "\n "
            self._sheet.write(f"{text}\n" if self._format is RowFormat.JSON_LINES else f"{before}{text}")
        self._rows += 1

    def end(self) -> None:
        """See `Output`."""
        self._begin()
        if self._format is RowFormat.JSON:
            self._sheet.write("\n]\n" if self._rows else "]\n")
        self._sheet.close()

    def _begin(self) -> None:
        if not self._rows and self._format is RowFormat.CSV:
            self._sheet.write(_csv_line(_COLUMNS))
        elif not self._rows and self._format is RowFormat.JSON:
            self._sheet.write("[")


_COLUMNS = tuple(field.name for field in fields(Row))


def _csv_line(values: Iterable[Any]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(values)
    return text.getvalue()


class ImagesFile:
    """A file that says where each source went, as image-syncer writes it: a mapping from a source to its destinations.

    It can be given to ``--images``. So a destination by digest is written without: there it follows from the source.
    What could not be listed has no destination, and is left out.

    Args:
        option: the option that asks for it.
        file: where.
        outcomes: of which images.
        list_format: how.
    """

    def __init__(self, option: str, file: Path, outcomes: Iterable[RowOutcome], list_format: ListFormat) -> None:
        self._sheet = _Sheet(option, file)
        self._outcomes = frozenset(outcomes)
        self._format = list_format
        self._spool = SortedRows()

    def check(self) -> None:
        """See `Output`."""
        self._sheet.check()

    def row(self, row: Row) -> None:
        """See `Output`."""
        if row.outcome in self._outcomes and row.destination:
            self._spool.add(row.source, row.destination.partition("@")[0])

    def end(self) -> None:
        """See `Output`."""
        try:
            for text in _json_list(self._images()) if self._format is ListFormat.JSON else _yaml_list(self._images()):
                self._sheet.write(text)
        finally:
            self._spool.close()
        self._sheet.close()

    def _images(self) -> Iterator[tuple[str, list[str]]]:
        for source, rows in groupby(self._spool.read(), key=itemgetter(0)):
            yield source, [destination for _, destination, _ in rows]


def _json_list(images: Iterator[tuple[str, list[str]]]) -> Iterator[str]:
    before = "{"
    for source, destinations in images:
        # What stands between the braces of an object of one.
        yield before + json.dumps({source: destinations}, indent=1, ensure_ascii=False)[1:-2]
        before = ","
    yield "{}\n" if before == "{" else "\n}\n"


def _yaml_list(images: Iterator[tuple[str, list[str]]]) -> Iterator[str]:
    part = dict(islice(images, _SOURCES_A_TIME))
    if not part:
        yield "{}\n"
    while part:
        # Mappings one after the other are one mapping.
        yield yaml.safe_dump(part, allow_unicode=True, width=10_000)
        part = dict(islice(images, _SOURCES_A_TIME))


def end_all(outputs: Iterable[Output]) -> None:
    """Complete files, each whatever becomes of the others.

    Raises:
        ReplicatorError: one is lost.
    """
    lost: list[str] = []
    for output in outputs:
        try:
            output.end()
        except ReplicatorError as error:
            lost.append(str(error))
    if lost:
        raise ReplicatorError("; ".join(lost))

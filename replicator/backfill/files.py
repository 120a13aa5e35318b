"""The files that a backfill leaves behind: its rows in several formats, and lists of images like image-syncer's."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import yaml

from replicator.backfill.report import Row, RowOutcome
from replicator.errors import ConfigError, Problem, ReplicatorError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from replicator.backfill.report import Report

IN_PLACE = frozenset({RowOutcome.COPIED, RowOutcome.UP_TO_DATE})
"""What became of an image whose destination is as it should be."""


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


@dataclass(frozen=True, slots=True)
class Output:
    """One file, written when the run has ended.

    Attributes:
        option: the option that asked for it.
        file: where.
        render: makes its content.
    """

    option: str
    file: Path
    render: Callable[[Report], str]

    def check(self) -> None:
        """Make sure, before hours of copying, that it can be written.

        Raises:
            ConfigError: it can't.
        """
        try:
            with self.file.open("a", encoding="utf-8"):
                pass
        except OSError as error:
            raise ConfigError(
                "command line", [Problem(self.option, f"{self.file}: {error.strerror or error}")]
            ) from None

    def write(self, report: Report) -> None:
        """Write it.

        Raises:
            ReplicatorError: that is not possible.
        """
        try:
            # As it is: in CSV the line ends are part of the format.
            with self.file.open("w", encoding="utf-8", errors="backslashreplace", newline="") as opened:
                opened.write(self.render(report))
        except OSError as error:
            raise ReplicatorError(f"the report is lost: {self.file}: {error.strerror or error}") from None


def rows_output(file: Path, row_format: RowFormat | None = None) -> Output:
    """Ask for every row.

    Args:
        file: where.
        row_format: how; None for what the file's ending says.
    """
    chosen = row_format or RowFormat.of(file)
    return Output("--report", file, lambda report: render_rows(report.rows, chosen))


def images_output(option: str, file: Path, outcomes: Iterable[RowOutcome], list_format: ListFormat) -> Output:
    """Ask for the images of some outcomes.

    Args:
        option: the option that asks.
        file: where.
        outcomes: which images.
        list_format: how.
    """
    wanted = frozenset(outcomes)

    def render(report: Report) -> str:
        return render_images((row for row in report.rows if row.outcome in wanted), list_format)

    return Output(option, file, render)


def write_all(outputs: Iterable[Output], report: Report) -> None:
    """Write files, each whatever becomes of the others.

    Raises:
        ReplicatorError: one can't be written.
    """
    lost: list[str] = []
    for output in outputs:
        try:
            output.write(report)
        except ReplicatorError as error:
            lost.append(str(error))
    if lost:
        raise ReplicatorError("; ".join(lost))


def render_rows(rows: Iterable[Row], row_format: RowFormat) -> str:
    """Write rows as text."""
    if row_format is RowFormat.CSV:
        return _csv(rows)
    if row_format is RowFormat.JSON_LINES:
        return "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)
    return json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False) + "\n"


def _csv(rows: Iterable[Row]) -> str:
    names = [field.name for field in fields(Row)]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(names)
    for row in rows:
        values: dict[str, Any] = {name: getattr(row, name) for name in names}
        writer.writerow((values | {"warnings": "; ".join(row.warnings)}).values())
    return text.getvalue()


def render_images(rows: Iterable[Row], list_format: ListFormat) -> str:
    """Write where each source went, as image-syncer does: a mapping from a source to the list of its destinations.

    It can be given to ``--images``. So a destination by digest is written without: there it follows from the source.
    What could not be listed has no destination, and is left out.
    """
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.destination:
            found.setdefault(row.source, []).append(row.destination.partition("@")[0])
    images = {source: sorted(destinations) for source, destinations in sorted(found.items())}
    if list_format is ListFormat.JSON:
        return json.dumps(images, indent=1, ensure_ascii=False) + "\n"
    text: str = yaml.safe_dump(images, allow_unicode=True, width=10_000)
    return text

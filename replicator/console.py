"""Output for people: times and ages, lines and tables, questions, and foreign text made safe to print.

rich is imported when something is printed: the queue and the server only need the words.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import sys
from typing import TYPE_CHECKING, Any, TextIO

from replicator.errors import ConfigError, ErrorText, Problem, ReplicatorError

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

_WIDE = 1000
"""Columns without a terminal. A reference that is broken into two lines can't be searched for."""
_COLUMNS = re.compile(r"(?<=\S) {2,}(?=\S)")
"""The gap between two columns; text from outside has no such spaces."""
_COLOURS = ("FORCE_COLOR", "TTY_COMPATIBLE")
"""Variables by which rich takes a pipe for a terminal."""
_LEAST = 30
"""Columns that the longest column of a table needs, or it would be a tower of syllables."""
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))


def iso(moment: datetime) -> str:
    """Format a UTC time as RFC 3339 with milliseconds, e.g. ``2026-01-01T00:00:00.000Z``."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def local(moment: datetime) -> str:
    """Format a time in this machine's time zone, to the second, e.g. ``2026-01-01 20:00:00+08:00``."""
    return moment.astimezone().isoformat(" ", "seconds")


def age(seconds: float) -> str:
    """Format a duration in its largest unit, e.g. ``5 min``; a negative one, from clocks that differ, is ``0 s``."""
    for length, unit in _UNITS:
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"


def short(digest: str) -> str:
    """Shorten a digest, e.g. to ``sha256:0123456789ab``."""
    algorithm, _, characters = digest.partition(":")
    return f"{algorithm}:{characters[:12]}"


def printable(text: str) -> str:
    """Replace control characters and those that change the direction of text by spaces."""
    return text if text.isprintable() else "".join(letter if letter.isprintable() else " " for letter in text)


def plain(text: str) -> Text:
    """Make foreign text safe to print: a registry's message may contain markup, newlines or terminal commands."""
    from rich.text import Text

    return Text(printable(text), overflow="fold")


def error_lines(stored: str) -> list[Text]:
    """Return a text of an error (`replicator.errors.ErrorText.stored`) as lines for a person, three at most."""
    return [plain(line) for line in ErrorText.parse(stored).lines]


def stderr() -> Console:
    """Return the console for progress and failures."""
    from rich.console import Console

    return Console(stderr=True)


def say(text: str, out: Console | None = None, *, label: str = "", style: str = "", indent: int = 0) -> None:
    """Print a line that is never wrapped. Foreign text is safe in it.

    Args:
        text: the line; markup in it has no effect.
        out: the console; stdout by default.
        label: a first word that is printed in ``style``, e.g. ``Warning:``.
        style: a style of rich, e.g. ``red``.
        indent: spaces before the line.
    """
    if out is None and sys.stdout is not None and not (sys.stdout.isatty() or any(map(os.environ.get, _COLOURS))):
        # A line without colours does not need rich: its import takes a tenth of a small command.
        print(" " * indent + " ".join(filter(None, (label, printable(text)))))  # noqa: T201 - what it is for
        return
    from rich.console import Console
    from rich.text import Text

    line = Text(" " * indent)
    if label:
        line.append(label, style).append(" " if text else "")
    (out or Console()).print(line.append_text(plain(text)), soft_wrap=True)


def page(renderable: RenderableType, out: Console) -> None:
    """Print tables: as wide as the terminal; without one each row is a line, with a tab between its columns.

    On a terminal that is too narrow for a table, each of its cells is a line.
    """
    if out.is_terminal:
        out.print(_fitted(renderable, out))
        return
    from rich.console import Console

    paper = Console(file=io.StringIO(), width=_WIDE, color_system=None)
    with paper.capture() as drawn:
        paper.print(renderable)
    text = "\n".join(_COLUMNS.sub("\t", line.rstrip()) for line in drawn.get().rstrip("\n").split("\n"))
    _print_raw(text, out)


def _fitted(renderable: RenderableType, out: Console) -> RenderableType:
    """Return what to print: a line for each cell in place of a table that leaves its longest column too few letters."""
    from rich.console import Group
    from rich.measure import Measurement
    from rich.table import Table

    if isinstance(renderable, Group):
        return Group(*(_fitted(each, out) for each in renderable.renderables))
    if not isinstance(renderable, Table):
        return renderable
    options = out.options.update(width=_WIDE)
    widths = [
        max(Measurement.get(out, options, cell).maximum for cell in (column.header, *column.cells))
        for column in renderable.columns
    ]
    needed = sum(widths) + 2 * (len(widths) - 1)
    if needed <= out.width or needed - max(widths) + min(max(widths), _LEAST) <= out.width:
        return renderable
    return Group(*_cells(renderable))


def _cells(table: Table) -> Iterator[RenderableType]:
    """Yield the cells of a table row by row, behind the names of their columns; the first of a row has none."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    for row in zip(*(column.cells for column in table.columns), strict=True):
        for number, (column, cell) in enumerate(zip(table.columns, row, strict=True)):
            name = str(column.header) if number else ""
            if cell == "" or (isinstance(cell, Text) and not cell.plain):
                continue
            if name and isinstance(cell, str | Text):
                cell = Text(f"{name}: ", overflow="fold").append(cell)  # noqa: PLW2901 - the cell with its name
            elif name:
                cell = Group(f"{name}:", cell)  # noqa: PLW2901 - the same
            yield Padding(cell, (0, 0, 0, 2 if number else 0))


def page_rows(names: Sequence[str], rows: Iterable[Sequence[str]], out: Console, *, right: Container[str] = ()) -> None:
    """Print a table of foreign text like `page`, a line for each row.

    rich takes half a millisecond for a row of a table, and its result is the same where every row fits on its line.

    Args:
        names: of the columns.
        rows: their cells.
        out: the console.
        right: the names of columns that are aligned to the right.
    """
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    lines = [tuple(map(printable, row)) for row in rows]
    if not out.is_terminal:
        text = "\n".join("\t".join(line).rstrip() for line in (tuple(names), *lines))
        _print_raw(text, out)
        return
    widths = [max(map(cell_len, column)) for column in zip(names, *lines, strict=True)]
    if sum(widths) + 2 * (len(widths) - 1) > out.width:
        table = Table(box=None, pad_edge=False)
        for name in names:
            table.add_column(name, overflow="fold", justify="right" if name in right else "left")
        for line in lines:
            table.add_row(*map(plain, line))
        page(table, out)
        return

    def aligned(line: Sequence[str]) -> str:
        spaces = [" " * (width - cell_len(cell)) for cell, width in zip(line, widths, strict=True)]
        cells = zip(names, line, spaces, strict=True)
        return "  ".join(space + cell if name in right else cell + space for name, cell, space in cells).rstrip()

    body = "".join(f"\n{aligned(line)}" for line in lines)
    out.print(Text.assemble((aligned(names), "table.header"), body), soft_wrap=True)


def record(values: Mapping[str, Any], out: Console) -> None:
    """Print facts off a terminal: a line ``key: value`` for each that there is, and an empty one at the end."""
    lines: list[str] = []
    for key, value in values.items():
        for each in value if isinstance(value, list | tuple) else [value]:
            if each is not None and each != "":
                text = each if isinstance(each, str) else json.dumps(each, ensure_ascii=False)
                lines.append(f"{key}: {printable(text)}\n")
    _print_raw("".join(lines), out)


def _print_raw(text: str, out: Console) -> None:
    """Print lines as they are: rich makes spaces of a tab."""
    from rich.segment import Segment, Segments

    out.print(Segments([Segment(f"{text}\n")]), soft_wrap=True)


def document(value: Any, out: Console, *, one_line: bool = False) -> None:
    """Print a value as JSON, indented or, in a stream of documents, as one line."""
    text = json.dumps(value, indent=None if one_line else 2, ensure_ascii=False)
    out.print(text, soft_wrap=True, markup=False, highlight=False, emoji=False)


async def confirm(question: str, console: Console) -> bool:
    """Ask a person at the terminal of stdin; any answer but ``y`` or ``yes`` is a no, and so is its end.

    Nothing is blocked meanwhile, and a cancelled question leaves no thread behind.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[str] = loop.create_future()

    def read() -> None:
        # A terminal is readable when it has a line.
        line = sys.stdin.readline()
        if not answer.done():
            answer.set_result(line)

    console.print(f"{question} [y/N] ", end="", markup=False, highlight=False)
    loop.add_reader(sys.stdin.fileno(), read)
    try:
        return (await answer).strip().lower() in ("y", "yes")
    finally:
        loop.remove_reader(sys.stdin.fileno())


class TextFile:
    """A text file that is written piece by piece; an error is kept until `close`, so that it does not end the run.

    Args:
        option: the option that asks for it, for errors.
        file: its path.
    """

    def __init__(self, option: str, file: Path) -> None:
        self._option = option
        self._file = file
        self._open: TextIO | None = None
        self._error: OSError | None = None

    def check(self) -> None:
        """Check that it can be written.

        Raises:
            ConfigError: it can't be.
        """
        try:
            with self._file.open("a", encoding="utf-8"):
                pass
        except OSError as error:
            problem = Problem(self._option, f"{self._file}: {error.strerror or error}")
            raise ConfigError("command line", [problem]) from None

    def write(self, text: str) -> None:
        """Append a text."""
        if self._error is not None:
            return
        try:
            if self._open is None:
                # newline="" keeps the line ends of CSV, which are part of the format.
                self._open = self._file.open("w", encoding="utf-8", errors="backslashreplace", newline="")
            self._open.write(text)
        except OSError as error:
            self._error = error

    def close(self) -> None:
        """Complete it, even if it is empty.

        Raises:
            ReplicatorError: it could not be written.
        """
        self.write("")
        try:
            if self._open is not None:
                self._open.close()
        except OSError as error:
            self._error = self._error or error
        if self._error is not None:
            reason = self._error.strerror or self._error
            raise ReplicatorError(f"the report is lost: {self._file}: {reason}") from None

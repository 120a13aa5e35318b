"""How values look on paper: times, ages, foreign text, and tables that can be piped."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from datetime import datetime

    from rich.console import RenderableType

_WIDE = 1000
"""Columns where there is no terminal: a reference broken in two can't be searched for."""
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))


def iso(moment: datetime) -> str:
    """Write a UTC time as RFC 3339 with milliseconds, e.g. ``2026-01-01T00:00:00.000Z``."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def local(moment: datetime) -> str:
    """Write a time for a person, in this machine's time zone, to the second."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def age(seconds: float) -> str:
    """Write a length of time in its largest unit, e.g. ``5 min``; one that is negative, by clocks apart, as ``0 s``."""
    for length, unit in _UNITS:
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"


def short(digest: str) -> str:
    """Shorten a digest to what tells it from others, e.g. ``sha256:0123456789ab``."""
    algorithm, _, characters = digest.partition(":")
    return f"{algorithm}:{characters[:12]}"


def plain(text: str) -> Text:
    """Make foreign words safe to print: a registry's message may hold markup, line ends or a terminal's commands."""
    return Text(printable(text), overflow="fold")


def printable(text: str) -> str:
    """Replace what is not to be seen, or turns the text around it, by spaces: control and direction characters."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def page(renderable: RenderableType, out: Console) -> None:
    """Print something made of tables: as wide as a terminal, or elsewhere as wide as it needs.

    Args:
        renderable: what to print.
        out: where.
    """
    if out.is_terminal:
        out.print(renderable)
        return
    paper = Console(file=io.StringIO(), width=_WIDE, color_system=None)
    with paper.capture() as drawn:
        paper.print(renderable)
    text = "\n".join(line.rstrip() for line in drawn.get().rstrip("\n").split("\n"))
    out.print(text, soft_wrap=True, markup=False, highlight=False, emoji=False)


def document(value: Any, out: Console, *, one_line: bool = False) -> None:
    """Print JSON, indented for a person or as one line.

    Args:
        value: what JSON can express.
        out: where.
        one_line: for a reader of lines, where more documents follow.
    """
    text = json.dumps(value, indent=None if one_line else 2, ensure_ascii=False)
    out.print(text, soft_wrap=True, markup=False, highlight=False, emoji=False)

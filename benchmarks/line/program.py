"""Runs the rows, and prints a table for each."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from rich.table import Table

from benchmarks.line.rows import ROWS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from benchmarks.line.place import Outcome, Terms

_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_RATE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[kmg]i?|)(?P<of>b|bit)/s", re.IGNORECASE)
_TIME = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>ms|s)")
_CAPTION = (
    "sent is to the destination, read from the source, MB with headers; x lacking is sent by the bytes of the blobs "
    "that the destination lacked. wall is the program's own; line is from the first to the last byte on it, and "
    "x rate is that by sent / rate. Load of the machine before and after: {before:.1f}, {after:.1f}."
)


def parse_rate(text: str) -> float:
    """Read a rate such as ``2MiB/s`` or ``20Mbit/s``, in bytes a second.

    Raises:
        ValueError: it is none.
    """
    match = _RATE.fullmatch(text.strip())
    if match is None or float(match["number"]) == 0:
        raise ValueError(f"{text!r} is no rate, such as 2MiB/s or 20Mbit/s")
    size = float(match["number"]) * _UNITS[match["unit"].lower()]
    return size / 8 if match["of"].lower() == "bit" else size


def parse_time(text: str) -> float:
    """Read a time such as ``100ms`` or ``0.1s``, in seconds.

    Raises:
        ValueError: it is none.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no time, such as 100ms")
    return float(match["number"]) / (1000 if match["unit"] == "ms" else 1)


async def measure(rows: Sequence[str], terms: Terms, console: Console) -> None:
    """Run rows, and print each table as soon as it is known.

    Args:
        rows: names, of `ROWS`.
        terms: the line, and the checkouts.
        console: where the tables go.
    """
    for name in rows:
        before = os.getloadavg()[0]
        outcomes = [outcome async for outcome in ROWS[name](terms)]
        console.print(table(name, outcomes, before))
        for outcome in outcomes:
            if outcome.said:
                console.print(f"{outcome.name} ended with an error: {outcome.said}", markup=False, highlight=False)


def table(name: str, outcomes: Sequence[Outcome], load: float) -> Table:
    """Make the table of a row.

    Args:
        name: of the row.
        outcomes: one for each program.
        load: of the machine before it.
    """
    about = (ROWS[name].__doc__ or "").rstrip(".")
    caption = _CAPTION.format(before=load, after=os.getloadavg()[0])
    made = Table(title=f"{name}: {about}", title_justify="left", caption=caption, caption_justify="left")
    made.add_column("program")
    more = list(dict.fromkeys(heading for outcome in outcomes for heading in outcome.more))
    for heading in ("arrived", "sent", "read", "x lacking", "wall", "line", "x rate", *more):
        made.add_column(heading, justify="right")
    for one in outcomes:
        ideal = one.sent / one.rate if one.rate else 0
        made.add_row(
            one.name,
            f"{one.arrived}/{one.meant}",
            f"{one.sent / 1e6:.2f}",
            f"{one.read / 1e6:.2f}",
            f"{one.sent / one.lacking:.2f}" if one.lacking else "",
            f"{one.wall:.1f} s",
            f"{one.line:.1f} s",
            f"{one.line / ideal:.2f}" if ideal else "",
            *(one.more.get(heading, "") for heading in more),
        )
    return made

"""The table in ``docs/limits.md``, generated from ``limits.toml`` and the constants; ``make docs`` writes it."""

from __future__ import annotations

import importlib
import tomllib
from dataclasses import dataclass

from replicator.registry.limits import Timing
from tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "limits.md"
BEGIN, END = "<!-- limits: begin -->\n", "<!-- limits: end -->\n"
_MIB, _KIB = 1024 * 1024, 1024


@dataclass(frozen=True, slots=True)
class Limit:
    """A row.

    Attributes:
        what: the limited thing.
        place: ``module.CONSTANT`` below ``replicator``.
        unit: ``bytes``, ``s``, or a counted thing.
        beyond: the consequence beyond the limit.
    """

    what: str
    place: str
    unit: str
    beyond: str


LIMITS = {
    group: [Limit(*row) for row in rows]
    for group, rows in tomllib.loads((ROOT / "tests" / "docs" / "limits.toml").read_text()).items()
}


def table() -> str:
    """Build the table: one row per limit, in groups."""
    rows = ["| What | Limit | Beyond the limit |", "|---|---|---|"]
    for group, limits in LIMITS.items():
        rows.append(f"| **{group}** | | |")
        rows += [f"| {limit.what} | {_shown(_value(limit.place), limit.unit)} | {limit.beyond} |" for limit in limits]
    return "\n".join(rows) + "\n"


def page() -> str:
    """Return the page with the table as it should be."""
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


def _value(place: str) -> float:
    module, _, name = place.rpartition(".")
    if module == "registry.limits.Timing":
        return float(getattr(Timing(), name))
    value = getattr(importlib.import_module(f"replicator.{module}"), name)
    assert isinstance(value, int | float), place
    return value


def _shown(value: float, unit: str) -> str:
    if unit == "s":
        for seconds, name in ((24 * 3600, "days"), (3600, "h")):
            if value > seconds and value % seconds == 0:
                return f"{value // seconds:.0f} {name}"
    if unit != "bytes":
        return f"{value:,.10g} {unit}".rstrip()
    for size, name in ((_MIB, "MiB"), (_KIB, "KiB")):
        if value >= size and value % size == 0:
            return f"{value // size:,} {name}"
    return f"{value:,} bytes"


if __name__ == "__main__":
    PAGE.write_text(page())

"""The table in ``docs/metrics.md``, generated from the metrics.

``python -m tests.docs.metrics_table``, or ``make docs``, regenerates it.
"""

from __future__ import annotations

from replicator.server.metrics import FAMILIES, Family
from tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "metrics.md"
BEGIN, END = "<!-- metrics: begin -->\n", "<!-- metrics: end -->\n"


def table() -> str:
    """Build the table: a row a metric."""
    rows = [
        "| metric | type | labels | meaning |",
        "|---|---|---|---|",
        *(f"| `{family.name}` | {family.kind} | {_labels(family)} | {family.help} |" for family in FAMILIES),
    ]
    return "\n".join(rows) + "\n"


def _labels(family: Family) -> str:
    return ", ".join(f"`{label}`" for label in family.labels)


def page() -> str:
    """Return the page with the table as it should be."""
    before, rest = PAGE.read_text().split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(page())

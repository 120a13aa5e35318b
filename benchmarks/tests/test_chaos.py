"""A run of chaos ends badly when anything was wrong."""

from __future__ import annotations

import pytest

from benchmarks.chaos import judge, report
from benchmarks.measuring import RunFailed
from tests.end_to_end.chaos import Found


def test_a_run_ends_badly_with_its_seed_when_anything_was_wrong() -> None:
    judge(Found(17))
    for kind in ("lost", "stale", "overlapping", "broken"):
        found = Found(17)
        getattr(found, kind).append("app:v1")
        with pytest.raises(RunFailed, match=f"seed 17: {kind}: app:v1"):
            judge(found)


def test_the_table_says_what_was_done_and_what_was_wrong() -> None:
    found = Found(17, seconds=90, lost=["app:v1"])
    found.counts["failovers"] = 3
    table = report(found)
    assert table.title == "chaos for 1.5 minutes, seed 17"
    rows = dict(zip(*(column.cells for column in table.columns), strict=True))
    assert (rows["failovers"], rows["lost"], rows["stale"]) == ("3", "1", "0")

"""The benchmark of the API does its work, and refuses an answer that is not from memory."""

from __future__ import annotations

from benchmarks import api


async def test_known_tags_are_told_from_memory() -> None:
    table = await api.measure(2_000)
    assert table.row_count == 6

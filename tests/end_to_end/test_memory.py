"""Memory does not grow with the number of tags; `benchmarks/tests/test_memory.py` holds the bound for a large image."""

from __future__ import annotations

from benchmarks.backfill import memory


async def test_ten_times_the_tags_take_hardly_more_memory_and_ten_times_the_requests() -> None:
    sizes = [1_000, 10_000]
    taken = await memory.take(30, sizes)
    for work in memory.WORKS:
        few, many = (one.standing for one in taken if one.work == work)
        (less,), (more,) = few.runs, many.runs
        assert more.peak < 1.3 * less.peak, f"{work.name}: {less.peak / 1e6:.0f} and {more.peak / 1e6:.0f} MB"
        # Harbor: the names of three projects, and a page for a hundred artifacts of each.
        assert many.api.total() <= 3 + 10_000 / 100 + 3
        # The destination: a question a tag, and one more for the scheme.
        assert many.destination.total() == 10_001

"""Everything at once over HTTP, a round of it; ``python -m benchmarks chaos`` goes on for minutes."""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path

import pytest

from tests.end_to_end.chaos import Chaos
from tests.end_to_end.writes import TagWrite, overlapping

REDIS = "/usr/bin/redis-server"


@pytest.mark.timeout(600)
@pytest.mark.scale
async def test_through_everything_each_accepted_event_arrives_and_no_tag_is_written_twice_at_once_or_backwards() -> (
    None
):
    seed = int(os.environ.get("REPLICATOR_CHAOS_SEED", random.randrange(1_000_000)))
    print("REPLICATOR_CHAOS_SEED:", seed)
    # The path of a Unix socket is short.
    with tempfile.TemporaryDirectory(prefix="chaos-", dir="/tmp") as directory:
        found = await Chaos(Path(directory), REDIS, seed).run()
    print(found.counts, f"{found.seconds:.0f} s, and {found.settled:.0f} s until all was right")
    assert found.wrong == []
    assert found.counts["accepted events"] > 0
    assert found.counts["writes of tags"] > 0
    assert found.counts["failovers"] >= 2


def test_two_writes_of_a_tag_overlap_if_one_begins_before_the_other_has_ended() -> None:
    def write(name: str, began: float, ended: float) -> TagWrite:
        return TagWrite(name, None, began, ended, answered=True)

    apart = [write("a:1", 0, 1), write("a:1", 1, 2), write("a:2", 0, 9)]
    assert overlapping(apart) == []
    (said,) = overlapping([*apart, write("a:1", 1.5, 3)])
    assert said.startswith("a:1: from 1.5")

"""Two backfills at the same time, and a worker that copies for both."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from replicator.copy import Copier
from replicator.queue import Finished, Lane, Worker
from replicator.registry import Registries
from replicator.replication.backfill import Backfill
from replicator.replication.compare import row_at_end
from replicator.replication.enqueue import BackfillOptions
from replicator.replication.job import Handler
from replicator.replication.listing import Found, Listing
from replicator.replication.report import RowOutcome
from replicator.replication.transfer import access_by
from tests.replication.conftest import QUICK, TEAM

if TYPE_CHECKING:
    from tests.replication.conftest import Stage


async def test_each_copy_is_counted_once(stage: Stage) -> None:
    await stage.house.put(f"team/app:v{number}" for number in range(12))
    rules, queue = stage.house.rules(TEAM), stage.queue
    async with Registries(access_by(rules.credentials), timing=QUICK) as registries:
        copier = Copier(registries)
        runs = [
            Backfill(Listing(rules, registries), copier, queue, options=BackfillOptions(detach=False)) for _ in "ab"
        ]
        working = asyncio.gather(*(run.run() for run in runs))
        async with asyncio.timeout(30):
            # Both have queued everything before the first copy.
            while any(len(run._queued) < 12 for run in runs):
                await asyncio.sleep(0.01)
            worker = Worker(queue, Handler(copier), concurrency=dict.fromkeys(Lane, 4))
            copying = asyncio.create_task(worker.run())
            reports = await working
            worker.stop()
            await copying
    counts = [report.counts for report in reports]
    assert sum(count[RowOutcome.COPIED] for count in counts) == 12
    assert sum(count[RowOutcome.UP_TO_DATE] for count in counts) == 12


def test_the_row_of_what_another_run_copied_says_so_and_has_no_bytes() -> None:
    outcome = {"result": "copied", "source": "a/b:1", "destination": "c/d:1", "bytes": 70, "note": "less"}
    for shared, row in ((True, ("up to date", 0, "another run copied it; less")), (False, ("copied", 70, "less"))):
        made = row_at_end(_found(), Finished("c/d:1", outcome, None, None, 1, 0.1, shared=shared))
        assert (str(made.outcome), made.bytes, made.note) == row


def _found() -> Found:
    from replicator.reference import Reference
    from replicator.rules import CopyRequest
    from replicator.rules.request import Asked

    request = CopyRequest(Reference.parse("h.example.com/a/b:1"), Reference.parse("r.example.com/c/d:1"), rule="r")
    return Found(Asked(request, frozenset({"r"})))

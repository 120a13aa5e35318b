"""What a destination refuses for its kind is skipped by every run, and is neither queued again nor counted as drift."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

from replicator.copy import Copier
from replicator.queue import Lane, Observations, Worker
from replicator.registry import Registries
from replicator.replication.backfill import Backfill
from replicator.replication.enqueue import BackfillOptions
from replicator.replication.job import Handler
from replicator.replication.listing import Listing
from replicator.replication.report import RowOutcome
from replicator.replication.transfer import access_by
from tests.replication.conftest import QUICK
from tests.replication.test_job import rules_of
from tests.standins.images import artifact, cosign_tag, image, index, push, referrer
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from replicator.replication.report import Report, Row
    from replicator.rules import Rules
    from tests.replication.conftest import Stage
    from tests.standins.acr import AcrStandIn

ROOT = image(1)
BUNDLE = referrer(ROOT, 1, "application/vnd.dev.sigstore.bundle.v0.3+json")


class Shelf(dict[str, str]):
    """A memory that processes share."""

    async def recall(self, names: Sequence[str]) -> list[str | None]:
        return [self.get(name) for name in names]

    def note(self, name: str, text: str) -> None:
        self[name] = text


async def reconcile(
    stage: Stage, rules: Rules, shelf: Shelf, *, dry_run: bool = False
) -> tuple[Report, dict[str, Row]]:
    """Compare everything, queue what differs, and have the copies made."""
    rows: dict[str, Row] = {}
    async with (
        Registries(access_by(rules.credentials), timing=QUICK) as registries,
        aclosing(Observations(stage.queue)) as checks,
    ):
        copier = Copier(registries, refused_store=shelf)
        report = await Backfill(
            Listing(rules, registries),
            copier,
            None if dry_run else stage.queue,
            options=BackfillOptions(detach=True),
            checks=checks,
            on_row=lambda row: rows.update({row.source.rpartition(":")[2]: row}),
        ).run()
        worker = Worker(stage.queue, Handler(copier, checks), concurrency=dict.fromkeys(Lane, 4))
        working = asyncio.create_task(worker.run())
        async with asyncio.timeout(30):
            while any(lane.queued + lane.running for lane in (await stage.queue.counts()).lanes.values()):
                await asyncio.sleep(0.02)
        worker.stop()
        await working
    return report, rows


async def test_what_is_refused_is_queued_once_and_skipped_by_every_later_run(stage: Stage, acr: AcrStandIn) -> None:
    harbor = stage.house.harbor
    rules = rules_of(harbor, acr)
    shelf = Shelf()
    await push(harbor.host, "team/app", "v1", ROOT, HARBOR_ROBOT)
    await reconcile(stage, rules, shelf)
    await push(harbor.host, "team/app", "cache", artifact("application/vnd.buildkit.cacheconfig.v0", 2), HARBOR_ROBOT)
    fallback = cosign_tag(ROOT, "")
    await push(harbor.host, "team/app", fallback, index([BUNDLE]), HARBOR_ROBOT)
    report, _ = await reconcile(stage, rules, shelf)
    assert report.drift == 2
    assert (await stage.queue.counts()).dead == 0
    for dry_run in (False, True):
        harbor.pulls.clear()
        acr.faults.log.clear()
        report, rows = await reconcile(stage, rules, shelf, dry_run=dry_run)
        assert (report.counts, report.drift) == ({RowOutcome.UP_TO_DATE: 1, RowOutcome.SKIPPED: 2}, 0)
        assert (report.refused, report.troubles) == ({"cache": 1, "signature": 1}, 0)
        assert "has refused the kind 'cache' within the last week" in rows["cache"].note
        assert acr.faults.log.count("PUT") == 0
        assert dry_run or harbor.pulls == []

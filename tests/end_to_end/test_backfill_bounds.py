"""The bounds on the tags that a backfill holds at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from replicator.replication import backfill as backfill_run
from replicator.replication.report import RowOutcome
from tests.end_to_end.unattended import unattended
from tests.standins.images import image, push

if TYPE_CHECKING:
    import pytest

    from tests.end_to_end.conftest import House

TAGS = 12


async def test_only_so_many_copies_wait_in_the_queue_and_only_so_many_tags_before_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill_run, "_QUEUED_AT_ONCE", 2)
    monkeypatch.setattr(backfill_run, "_LISTED_AHEAD", 3)
    for number in range(TAGS):
        await push(house.behind_harbor, "team/app", f"v{number}", image(number))
    async with unattended(house.rules({"HARBOR/team/app": "ACR/image-syncer/app"})) as alone:
        await alone.until_queued(2)
        # Nobody copies: nothing more is compared, however long it waits.
        house.acr.faults.log.clear()
        await asyncio.sleep(0.3)
        assert house.acr.faults.log.count("HEAD", "/manifests/") == 0
        assert await alone.queued() == 2
        report = await alone.finish()
    assert report.counts == {RowOutcome.COPIED: TAGS}
    assert report.drift == TAGS

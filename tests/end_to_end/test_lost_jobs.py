"""A backfill on a Redis that loses its data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replicator.replication import backfill as backfill_run
from replicator.replication.report import RowOutcome
from tests.end_to_end.unattended import unattended
from tests.standins.images import image, push, verify_tree
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    import pytest

    from tests.end_to_end.conftest import House


async def test_what_the_queue_has_forgotten_is_queued_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backfill_run, "_LOSS_SECONDS", 0.2)
    monkeypatch.setattr(backfill_run, "_HEARING_SECONDS", 0.2)
    for tag in ("v1", "v2"):
        await push(house.harbor.host, "library/app", tag, image(), HARBOR_ROBOT)
    async with unattended(house.rules({"HARBOR/library/app": "ACR/image-syncer/app"})) as alone:
        await alone.until_queued(2)
        await alone.queue.redis.flushall()
        report = await alone.finish()
    assert report.counts == {RowOutcome.COPIED: 2}
    await verify_tree(house.behind_acr, "image-syncer/app", "v2", image())

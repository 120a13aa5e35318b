"""A proxy before the registry that refuses what is too much with 503: every tag arrives, and little is refused."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.end_to_end.conftest import report
from tests.running import TOKEN, replicator, running
from tests.standins.images import image, layer, push
from tests.standins.logins import HARBOR_ROBOT
from tests.standins.outages import Limit

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.conftest import House

RATE = 60
BASE = [layer(1, 1000)]


def rules(house: House, front: str) -> Path:
    auth = {**house.auth(), front: {"anonymous": True, "insecure": True}}
    return house.rules({"HARBOR/library/app": f"{front}/image-syncer/app"}, auth=auth)


async def test_a_backfill_brings_every_tag_through_a_proxy_that_limits_the_rate(house: House) -> None:
    tags = 20
    for number in range(tags):
        await push(house.behind_harbor, "library/app", f"v{number}", image(number, base=BASE))
    limit = Limit(RATE, burst=10)
    async with limit.before(house.behind_acr) as front:
        ended = await replicator(
            "backfill", "--config", rules(house, front), "--report=r.json", cwd=house.directory, timeout=120
        )
    assert ended.code == 0, ended.said
    rows = report(house.directory / "r.json")
    assert len(rows) == tags
    assert {row["outcome"] for row in rows.values()} == {"copied"}
    assert 0 < limit.refused <= limit.passed / 2


async def test_pushes_arrive_through_a_proxy_that_limits_the_rate(house: House) -> None:
    tags = 8
    # Few enough that also a busy machine sends more.
    limit = Limit(RATE / 3, burst=5)
    async with (
        limit.before(house.behind_acr) as front,
        running("serve", "--config", rules(house, front), cwd=house.directory) as serving,
    ):
        house.harbor.add_policy("library", f"{serving.url}/webhooks/harbor", auth_header=TOKEN)
        await asyncio.gather(
            *(
                push(house.harbor.host, "library/app", f"v{number}", image(number, base=BASE), HARBOR_ROBOT)
                for number in range(tags)
            )
        )
        await serving.until("copy done", tags, timeout=60)
        assert not serving.said("job failed")
    assert 0 < limit.refused <= limit.passed / 2

"""What no event tells of although it was pushed is found by a sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replicator.registry.manifest import digest_of
from tests.standins.images import fetch_raw, image, push
from tests.standins.logins import HARBOR_ROBOT
from tests.standins.receiver import receiver

if TYPE_CHECKING:
    from tests.replication.conftest import Stage


async def test_a_push_while_harbor_s_job_service_is_away_makes_no_event_and_is_found(stage: Stage) -> None:
    harbor = stage.house.harbor
    await stage.house.put(["team/other:v1"])
    sweeper = await stage.sweeper()
    await sweeper.step()
    async with receiver() as taker:
        harbor.add_policy("team", taker.url)
        harbor.webhooks.job_service = False
        await push(harbor.host, "team/app", "v1", image(1), HARBOR_ROBOT)
        harbor.webhooks.job_service = True
        # The event is lost for good.
        await push(harbor.host, "team/other", "v2", image(2), HARBOR_ROBOT)
        await harbor.deliveries_settled()
        assert [event["event_data"]["resources"][0]["tag"] for event in taker.events] == ["v2"]
    await sweeper.step()
    await stage.copy()
    content, _ = await fetch_raw(stage.house.behind, "copies/app", "v1")
    assert digest_of(content) == image(1).digest

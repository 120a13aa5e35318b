"""A receiver hears of an image the moment it is at its destination."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.running import TOKEN, running
from tests.standins.event_receiver import PATH, SECRET, event_receiver
from tests.standins.images import image, push
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from tests.end_to_end.conftest import House


async def test_a_push_is_announced_with_its_digest(house: House) -> None:
    root, rules = image(1), house.rules({"HARBOR/library/**": "ACR/image-syncer/{name}"})
    async with event_receiver() as receiver:
        settings = {"REPLICATOR_EVENTS_URL": receiver.address}
        async with running("serve", "--config", rules, cwd=house.directory, settings=settings) as serving:
            house.harbor.add_policy("library", f"{serving.url}/webhooks/harbor", auth_header=TOKEN)
            await push(house.harbor.host, "library/app", "v1", root, HARBOR_ROBOT)
            async with asyncio.timeout(30):
                while not receiver.taken:
                    await asyncio.sleep(0.01)
            assert await serving.stop() == 0
    (event,) = receiver.taken
    assert (event["type"], event["subject"]) == ("image.copied", f"{house.acr.host}/image-syncer/app:v1")
    assert event["data"]["digest"] == root.digest
    assert event["data"]["source"] == f"{house.harbor.host}/library/app:v1"
    assert event["data"]["pushed"] is not None
    assert not [secret for secret in (PATH, SECRET) if secret in str(serving.lines)]

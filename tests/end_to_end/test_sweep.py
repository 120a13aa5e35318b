"""A running `serve` brings the tags that no event told of."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

import pytest

from tests.running import replicator, running
from tests.standins.images import image, push, verify_tree
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from tests.end_to_end.conftest import House


@pytest.mark.scale
async def test_a_tag_made_in_the_ui_arrives_without_an_event_and_is_counted(house: House) -> None:
    root = image(1)
    await push(house.harbor.host, "library/app", "v1", root, HARBOR_ROBOT)
    rules = house.rules({"HARBOR/library/**": "ACR/image-syncer/{name}"})
    settings = {"REPLICATOR_SWEEP": "10s"}
    async with running(
        "serve", "--config", rules, cwd=house.directory, ready="listening", settings=settings
    ) as serving:
        await asyncio.sleep(2)
        began = time.monotonic()
        await house.harbor.retag("library/app", "v1", "by-hand")
        # v1 lacked at the destination too.
        await serving.until("copy done", 2, timeout=90)
        print(f"arrived after {time.monotonic() - began:.1f} s")
        # v1 at once, and the new tag once its event could have come.
        assert sum(found["copies"] for found in serving.said("sweep queued copies")) == 2
        told = await replicator("status", "--json", cwd=house.directory)
        assert json.loads(told.out)["sweep"]["replaced"] == 2
    await verify_tree(house.behind_acr, "image-syncer/app", "by-hand", root)

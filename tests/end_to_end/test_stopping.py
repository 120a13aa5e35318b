"""``replicator queue`` with a real serve and a backfill beside it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from tests.running import TOKEN, begun, replicator, running
from tests.standins.images import image, push, verify_tree
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from tests.end_to_end.conftest import House


async def test_a_pause_keeps_pushes_until_it_ends_and_a_backfill_hears_of_what_is_cancelled(house: House) -> None:
    async def queue(*arguments: str, command: str = "queue") -> Any:
        ended = await replicator(command, *arguments, "--json", cwd=house.directory)
        assert ended.code == 0, ended.err
        return json.loads(ended.out)

    await push(house.behind_harbor, "library/old", "v1", image(1))
    rules = house.rules({"HARBOR/library/**": "ACR/image-syncer/{name}"})
    async with running("serve", "--config", rules, cwd=house.directory) as serving:
        house.harbor.add_policy("library", f"{serving.url}/webhooks/harbor", auth_header=TOKEN)
        await queue("pause", "--all")
        await push(house.harbor.host, "library/new", "v1", image(2), HARBOR_ROBOT)
        await serving.until("webhook taken", type="PUSH_ARTIFACT")
        async with begun("backfill", "--config", rules, cwd=house.directory) as backfill, asyncio.timeout(60):
            while (listed := await queue("list", "--lane", "backfill"))["total"] == 0:
                await asyncio.sleep(0.05)
            assert [(row["state"], row["source"]) for row in listed["copies"]] == [
                ("paused", f"{house.harbor.host}/library/old:v1")
            ]
            assert (await queue("cancel", "--lane", "backfill"))["copies"] == 1
            status = await queue(command="status")
            assert (status["lanes"]["events"]["queued"], status["pauses"][0]["selection"]) == (1, {})
            assert not [line for line in serving.lines if line.get("event") == "copy done"]
            await queue("resume", "--all")
            out, err = await backfill.communicate()
        assert backfill.returncode == 1
        assert b"Cancelled: 1; run the backfill again to copy them" in (out or b"")
        assert b"everything has been paused since" in (err or b"")
        await verify_tree(house.behind_acr, "image-syncer/new", "v1", image(2))
        actions = (await queue(command="history"))["actions"]
        assert [action["action"] for action in actions] == ["resume", "cancel", "pause"]

"""Two sources of one tag: `serve` tells of them at its start, and the second push does not stand over the first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.end_to_end.conftest import report
from tests.running import TOKEN, replicator, running
from tests.standins.images import image, push, verify_tree
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from tests.end_to_end.conftest import House

FIRST, SECOND = image(1), image(2)


async def test_the_second_source_of_a_tag_is_refused_with_both_names_and_what_is_replaced_is_told(house: House) -> None:
    rules = house.rules({"HARBOR/library/**": "ACR/image-syncer/{flat}"})
    first, second = (f"{house.harbor.host}/library/{name}:v1" for name in ("a/b-c", "a-b/c"))
    await push(house.behind_harbor, "library/x/y-z", "v1", FIRST)
    await push(house.behind_harbor, "library/x-y/z", "v1", SECOND)
    await push(house.behind_acr, "image-syncer/library-a-b-c", "v1", image(3))
    async with running("serve", "--config", rules, cwd=house.directory) as serving:
        (told,) = await serving.until("collision")
        assert told["destination"] == f"{house.acr.host}/image-syncer/library-x-y-z:v1"
        house.harbor.add_policy("library", f"{serving.url}/webhooks/harbor", auth_header=TOKEN)
        await push(house.harbor.host, "library/a/b-c", "v1", FIRST, HARBOR_ROBOT)
        (copied,) = await serving.until("copy done")
        assert copied["replaced"] == image(3).digest
        await push(house.harbor.host, "library/a-b/c", "v1", SECOND, HARBOR_ROBOT)
        (refused,) = await serving.until("job dead")
        assert first in refused["error"]
        assert second in refused["error"]
    await verify_tree(house.behind_acr, "image-syncer/library-a-b-c", "v1", FIRST)


async def test_the_report_of_a_backfill_has_what_was_replaced_and_what_was_left_alone(house: House) -> None:
    for tag in ("v1", "v2"):
        await push(house.behind_harbor, "library/app", tag, FIRST)
        await push(house.behind_acr, "image-syncer/app", tag, SECOND)
    images = {
        "HARBOR/library/app:v1": "ACR/image-syncer/app",
        "HARBOR/library/app:v2": {"to": "ACR/image-syncer/app", "overwrite": "ours"},
    }
    ended = await replicator(
        *("backfill", "--config", house.rules(images), "--report", "rows.json"), cwd=house.directory
    )
    assert ended.code == 0, ended.said
    rows = report(house.directory / "rows.json")
    assert (rows["v1"]["outcome"], rows["v1"]["replaced"]) == ("copied", SECOND.digest)
    assert (rows["v2"]["outcome"], rows["v2"]["replaced"]) == ("skipped", None)
    assert SECOND.digest in rows["v2"]["note"]
    assert "1  copied (1 over another image)" in ended.out

"""Events may come late, twice and in any order: in the end a tag is what the source says."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.running import TOKEN, Serving, running
from tests.standins.faults import Answer, Fault, Hold
from tests.standins.images import image, push, verify_tree
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.conftest import House

OLD, NEW = image(1), image(2)
NAME = "image-syncer/app"


def everything(house: House) -> Path:
    return house.rules({"HARBOR/library/**": "ACR/image-syncer/{name}"})


def subscribe(house: House, serving: Serving) -> None:
    """Have events delivered that a test sends, and none by Harbor itself."""
    house.harbor.add_policy("library", f"{serving.url}/webhooks/harbor", auth_header=TOKEN, event_types=())


async def the_old_is_at_both_ends(house: House) -> None:
    await push(house.harbor.host, "library/app", "v1", OLD, HARBOR_ROBOT)
    await push(house.behind_acr, NAME, "v1", OLD)


async def deliver(house: House, *digests: str, tag: str = "v1") -> None:
    """Tell of pushes in this order, each once the one before was taken."""
    for digest in digests:
        house.harbor.deliver("PUSH_ARTIFACT", "library/app", tag, digest)
        await house.harbor.deliveries_settled()


async def struck(fault: Fault) -> None:
    async with asyncio.timeout(30):
        while not fault.hits:
            await asyncio.sleep(0.01)


async def test_an_old_event_behind_a_new_one_does_not_hide_it_while_both_are_queued(house: House) -> None:
    """The old event's digest is at the destination: believed, it would leave the new image out for good."""
    await the_old_is_at_both_ends(house)
    await push(house.harbor.host, "library/busy", "v1", image(3), HARBOR_ROBOT)
    async with running("serve", "--concurrency=1", "--config", everything(house), cwd=house.directory) as serving:
        subscribe(house, serving)
        hold = Hold()
        busy = house.acr.faults.add(Fault(hold, "HEAD", "/busy/manifests/v1"))
        house.harbor.deliver("PUSH_ARTIFACT", "library/busy", "v1", image(3).digest)
        await struck(busy)
        await push(house.harbor.host, "library/app", "v1", NEW, HARBOR_ROBOT)
        await deliver(house, NEW.digest, OLD.digest)
        hold.released.set()
        (line,) = await serving.until("copy done", destination=f"{house.acr.host}/{NAME}:v1")
    assert (line["result"], line["digest"]) == ("copied", NEW.digest)
    await verify_tree(house.behind_acr, NAME, "v1", NEW)


async def test_an_old_event_behind_a_new_one_does_not_hide_it_while_the_tag_is_being_copied(house: House) -> None:
    await the_old_is_at_both_ends(house)
    async with running("serve", "--config", everything(house), cwd=house.directory) as serving:
        subscribe(house, serving)
        hold = Hold()
        asked = house.acr.faults.add(Fault(hold, "HEAD", f"/{NAME}/manifests/v1"))
        await deliver(house, OLD.digest)
        await struck(asked)
        await push(house.harbor.host, "library/app", "v1", NEW, HARBOR_ROBOT)
        await deliver(house, NEW.digest, OLD.digest)
        hold.released.set()
        lines = await serving.until("copy done", count=2)
    assert [(line["result"], line["digest"]) for line in lines] == [
        ("up to date", OLD.digest),
        ("copied", NEW.digest),
    ]
    await verify_tree(house.behind_acr, NAME, "v1", NEW)


async def test_an_old_event_does_not_hide_that_a_newer_push_was_given_up(house: House) -> None:
    await the_old_is_at_both_ends(house)
    async with running("serve", "--config", everything(house), cwd=house.directory) as serving:
        subscribe(house, serving)
        denied = house.acr.faults.add(Fault(Answer(403, "DENIED"), "PUT", "/manifests/v1", times=None))
        await push(house.harbor.host, "library/app", "v1", NEW, HARBOR_ROBOT)
        await deliver(house, NEW.digest)
        await serving.until("job dead")
        denied.times = 0
        await deliver(house, OLD.digest)
        (line,) = await serving.until("copy done")
    assert (line["result"], line["digest"]) == ("copied", NEW.digest)
    await verify_tree(house.behind_acr, NAME, "v1", NEW)


async def test_an_old_event_alone_moves_nothing_back(house: House) -> None:
    await the_old_is_at_both_ends(house)
    async with running("serve", "--config", everything(house), cwd=house.directory) as serving:
        subscribe(house, serving)
        await push(house.harbor.host, "library/app", "v1", NEW, HARBOR_ROBOT)
        await deliver(house, NEW.digest)
        await serving.until("copy done", result="copied", digest=NEW.digest)
        await deliver(house, OLD.digest)
        (line,) = await serving.until("copy done", result="up to date")
    assert line["digest"] == NEW.digest
    await verify_tree(house.behind_acr, NAME, "v1", NEW)


async def test_a_tag_that_was_moved_back_is_moved_back(house: House) -> None:
    """The same digests again, and this time the old one is the truth."""
    await the_old_is_at_both_ends(house)
    async with running("serve", "--config", everything(house), cwd=house.directory) as serving:
        subscribe(house, serving)
        await push(house.harbor.host, "library/app", "v1", NEW, HARBOR_ROBOT)
        await deliver(house, NEW.digest)
        await serving.until("copy done", result="copied", digest=NEW.digest)
        await push(house.harbor.host, "library/app", "v1", OLD, HARBOR_ROBOT)
        await deliver(house, OLD.digest)
        await serving.until("copy done", result="copied", digest=OLD.digest)
    await verify_tree(house.behind_acr, NAME, "v1", OLD)

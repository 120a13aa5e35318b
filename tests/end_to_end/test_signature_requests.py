"""What signatures cost: requests at Harbor and at the destination, and pulls that Harbor counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.running import replicator
from tests.standins.cosign import cosign_signature
from tests.standins.images import cosign_tag, image, push, referrer, verify_tree
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from tests.end_to_end.conftest import House

TAGS = 5
LISTS = 3
"""The login, the project's repositories, and its artifacts."""


async def backfilled(house: House, images: dict[str, Any], *options: str) -> tuple[int, int, int]:
    """Run a backfill; return its requests at the Harbor, those at the destination, and the pulls."""
    house.harbor.faults.log.clear()
    house.harbor.pulls.clear()
    house.acr.faults.log.clear()
    ended = await replicator("backfill", "--config", house.rules(images), *options, cwd=house.directory)
    assert ended.code == 0, ended.said
    assert f"{TAGS}  " in ended.out, "signatures are no tags of their own"
    assert "not copied" not in ended.said
    return len(house.harbor.faults.log), len(house.acr.faults.log), len(house.harbor.pulls)


@pytest.mark.parametrize(("signed", "signatures"), [(False, "auto"), (True, "auto"), (True, True), (True, False)])
async def test_nothing_to_do_costs_the_same_with_signatures_and_without(
    house: House, signed: bool, signatures: bool | str
) -> None:
    roots = [image(number) for number in range(TAGS)]
    for number, root in enumerate(roots):
        await push(house.harbor.host, "library/app", f"v{number}", root, HARBOR_ROBOT)
        if signed:
            await push(house.harbor.host, "library/app", cosign_tag(root), cosign_signature(root), HARBOR_ROBOT)
    to: Any = {"to": "ACR/image-syncer/{name}"}
    images = {"HARBOR/library/**": to if signatures == "auto" else to | {"signatures": signatures}}
    brought = signed and signatures is not False
    harbor, _, pulls = await backfilled(house, images)
    # The token; of each image the manifest, its config and two layers; of a signature the tag besides, and one layer.
    assert harbor == LISTS + 1 + TAGS * (8 if brought else 4)
    assert pulls == TAGS * (2 if brought else 1)
    for root in roots if brought else ():
        await verify_tree(house.behind_acr, "image-syncer/app", cosign_tag(root), cosign_signature(root))
    # The destination's 401, which names the token service, and each tag.
    assert await backfilled(house, images) == (LISTS, 1 + TAGS, 0)
    # The 401, and the one tag of each repository that is asked for all the same.
    assert await backfilled(house, images, "--fast") == (LISTS, 1 + 1, 0)


async def test_what_acr_refuses_is_told_once_and_remembered_by_the_next_process(house: House) -> None:
    rules = house.rules({"HARBOR/library/**": "ACR/image-syncer/{name}"})
    for number, sent in ((1, 1), (2, 0)):
        root = image(number)
        bundle = referrer(root, 1, "application/vnd.dev.sigstore.bundle.v0.3+json")
        await push(house.harbor.host, "library/app", f"v{number}", root, HARBOR_ROBOT)
        await push(house.harbor.host, "library/app", bundle.digest, bundle, HARBOR_ROBOT)
        report = house.directory / f"{number}.json"
        house.acr.faults.log.clear()
        ended = await replicator("backfill", "--config", rules, f"--report={report}", cwd=house.directory)
        assert (ended.code, "warning" in ended.said) == (0, False), ended.said
        # The destination is asked for its kind without a subject, and so under another digest.
        assert house.acr.faults.log.count("PUT", "/manifests/sha256:") == sent
        assert ("unknown manifest class" in report.read_text()) == bool(sent)
        await verify_tree(house.behind_acr, "image-syncer/app", f"v{number}", root)
    # It is settled for both: nothing is pulled to be refused again.
    house.harbor.pulls.clear()
    assert (await replicator("backfill", "--config", rules, cwd=house.directory)).code == 0
    assert house.harbor.pulls == []

"""A tag that is left alone while its destination goes on naming a former image: told, and counted apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from replicator.copy import Copier
from replicator.registry import Registries
from replicator.replication.backfill import Backfill
from replicator.replication.enqueue import BackfillOptions
from replicator.replication.listing import Listing
from replicator.replication.report import RowOutcome
from replicator.replication.transfer import access_by
from tests.replication.test_job import Job, handling, request, rules_of, run
from tests.standins.images import Image, cosign_tag, image, push
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from replicator.replication.report import Report, Row
    from replicator.rules import Rules
    from tests.standins.acr import AcrStandIn
    from tests.standins.harbor import HarborStandIn

AMD64, ARM64 = image(1), image(2, architecture="arm64")
ONE = ", platforms: [linux/amd64]"


async def backfill(rules: Rules, *, force: bool = False) -> tuple[Report, list[Row]]:
    rows: list[Row] = []
    async with Registries(access_by(rules.credentials)) as registries:
        options = BackfillOptions(force=force)
        report = await Backfill(
            Listing(rules, registries), Copier(registries), None, options=options, on_row=rows.append
        ).run()
    return report, rows


async def do(rules: Rules, harbor: HarborStandIn, tag: str = "v1", **changes: Any) -> dict[str, Any]:
    async with handling(rules) as handler:
        return await run(handler, Job({**request(rules, harbor, tag).to_json(), **changes}, tries=3, seconds=120))


@pytest.mark.parametrize("force", [False, True])
async def test_a_tag_that_moved_to_an_image_without_the_platform_says_what_is_still_there(
    harbor: HarborStandIn, acr: AcrStandIn, acr_upstream: str, force: bool
) -> None:
    await push(harbor.host, "team/app", "v1", ARM64, HARBOR_ROBOT)
    rules = rules_of(harbor, acr, ONE)
    changes: dict[str, Any] = {"force": True} if force else {}
    outcome = await do(rules, harbor, **changes)
    assert (outcome["result"], outcome.get("still_holds"), outcome.get("warnings")) == ("skipped", None, None)
    await push(acr_upstream, "cache/app", "v1", AMD64)
    with capture_logs() as logs:
        outcome = await do(rules, harbor, **changes)
    assert (outcome["result"], outcome["still_holds"]) == ("skipped", AMD64.digest)
    (line,) = [each for each in logs if each["event"] == "copy done"]
    assert (line["log_level"], line["warnings"]) == ("warning", [f"the destination still holds {AMD64.digest}"])


async def test_a_backfill_counts_it_apart_from_what_is_skipped_and_missing(
    harbor: HarborStandIn, acr: AcrStandIn, acr_upstream: str
) -> None:
    for tag in ("v1", "v2"):
        await push(harbor.host, "team/app", tag, ARM64, HARBOR_ROBOT)
    await push(acr_upstream, "cache/app", "v1", AMD64)
    report, rows = await backfill(rules_of(harbor, acr, ONE))
    assert (report.counts, report.stale) == ({RowOutcome.SKIPPED: 2}, 1)
    held = {row.source.rpartition(":")[2]: (row.still_holds, row.warnings) for row in rows}
    assert held == {"v1": (AMD64.digest, (f"the destination still holds {AMD64.digest}",)), "v2": (None, ())}


async def test_what_the_destination_holds_of_the_source_itself_is_no_former_image(
    harbor: HarborStandIn, acr: AcrStandIn, acr_upstream: str
) -> None:
    await push(harbor.host, "team/app", "v1", ARM64, HARBOR_ROBOT)
    await push(acr_upstream, "cache/app", "v1", ARM64)
    report, _ = await backfill(rules_of(harbor, acr, ONE))
    assert (report.counts, report.stale) == ({RowOutcome.SKIPPED: 1}, 0)


@pytest.mark.parametrize(("present", "held"), [(None, None), (AMD64, None), (ARM64, ARM64.digest)])
async def test_a_tag_that_is_no_longer_among_the_latest_says_whether_its_destination_is_older(
    harbor: HarborStandIn, acr: AcrStandIn, acr_upstream: str, present: Image | None, held: str | None
) -> None:
    for number, root in ((1, AMD64), (2, image(3))):
        await push(harbor.host, "team/app", f"v{number}", root, HARBOR_ROBOT)
    if present is not None:
        await push(acr_upstream, "cache/app", "v1", present)
    outcome = await do(rules_of(harbor, acr, ", tags: {latest: 1}"), harbor)
    assert (outcome["result"], outcome.get("still_holds")) == ("skipped", held)


async def test_a_tag_that_is_gone_at_the_source_says_what_is_still_there(
    harbor: HarborStandIn, acr: AcrStandIn, acr_upstream: str
) -> None:
    await push(harbor.host, "team/app", "v2", AMD64, HARBOR_ROBOT)
    await push(acr_upstream, "cache/app", "v1", AMD64)
    outcome = await do(rules_of(harbor, acr), harbor)
    assert (outcome["result"], outcome["still_holds"]) == ("source gone", AMD64.digest)


async def test_a_signature_that_is_not_copied_says_what_is_still_under_its_tag(
    harbor: HarborStandIn, acr: AcrStandIn, acr_upstream: str
) -> None:
    tag = cosign_tag(AMD64)
    await push(harbor.host, "team/app", tag, image(50), HARBOR_ROBOT)
    await push(acr_upstream, "cache/app", tag, image(51))
    rules = rules_of(harbor, acr, ", signatures: true")
    outcome = await do(rules, harbor, tag)
    assert (outcome["result"], outcome["still_holds"]) == ("skipped", image(51).digest)

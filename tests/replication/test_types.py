"""Types of artifacts: a backfill tells them from Harbor's list, a copy from the manifest."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from replicator.copy import Copier
from replicator.registry import Registries
from replicator.replication.job import Handler
from replicator.replication.report import RowOutcome
from replicator.replication.transfer import access_by
from tests.replication.test_job import Job, handling, request, rules_of, run
from tests.replication.test_left_alone import backfill
from tests.standins.artifacts import EMPTY, artifact, chart
from tests.standins.images import Image, Index, image, multi_arch, push
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from replicator.rules import Rules
    from tests.replication.conftest import House, Stage
    from tests.standins.acr import AcrStandIn
    from tests.standins.harbor import HarborStandIn

UNKNOWN = artifact(3, "application/vnd.example.config.v1+json")
TYPED = artifact(4, EMPTY, artifact_type="application/vnd.cncf.model.manifest.v1+json")
ROOTS: dict[str, Image | Index] = {
    "image": image(1),
    "index": multi_arch(2),
    "chart": chart(1),
    "unknown": UNKNOWN,
    "model": TYPED,
}


async def filled(harbor: HarborStandIn) -> None:
    for tag, root in ROOTS.items():
        await push(harbor.host, "team/app", tag, root, HARBOR_ROBOT)
    harbor.faults.log.clear()


def pulled(harbor: HarborStandIn) -> int:
    return harbor.faults.log.count("GET", "/v2/team/app/manifests/")


@pytest.mark.parametrize(
    ("types", "copied", "reads"),
    [
        ("[image]", {"image", "index"}, 2),
        ("[chart]", {"chart"}, 1),
        ("[chart, application/vnd.example.config.v1+json]", {"chart", "unknown"}, 5),
        ("[model, image]", {"image", "index", "model"}, 4),
    ],
)
async def test_a_backfill_skips_other_types_and_reads_only_what_the_list_leaves_open(
    harbor: HarborStandIn, acr: AcrStandIn, types: str, copied: set[str], reads: int
) -> None:
    await filled(harbor)
    report, rows = await backfill(rules_of(harbor, acr, f", attestations: keep, types: {types}"))
    found = {row.source.rpartition(":")[2]: row for row in rows}
    assert {tag for tag, row in found.items() if row.outcome is RowOutcome.WOULD_COPY} == copied
    skipped = {tag: row.note for tag, row in found.items() if row.outcome is RowOutcome.SKIPPED}
    assert skipped.keys() == ROOTS.keys() - copied
    assert all("its type is" in note and "the rule copies only" in note for note in skipped.values())
    assert report.counts.keys() == {RowOutcome.WOULD_COPY, RowOutcome.SKIPPED}, "none of them is a failure"
    # A dry run reads what it would copy; of the rest only what Harbor's list does not tell.
    assert pulled(harbor) == reads


async def test_a_listing_by_type_costs_harbor_nothing(house: House) -> None:
    await filled(house.harbor)
    requests = {}
    for types in ("image", "all"):
        await house.listed({"HARBOR/team/**": {"to": "BEHIND/copies/{name}", "types": types}})
        requests[types] = house.asked()
    assert requests["image"] == requests["all"]
    assert pulled(house.harbor) == 0


async def test_a_tag_that_is_a_chart_now_says_what_its_destination_still_holds(
    harbor: HarborStandIn, acr: AcrStandIn, acr_upstream: str
) -> None:
    await push(harbor.host, "team/app", "v1", chart(1), HARBOR_ROBOT)
    await push(acr_upstream, "cache/app", "v1", image(1))
    rules = rules_of(harbor, acr, ", types: [image]")
    report, (row,) = await backfill(rules)
    assert (row.outcome, row.still_holds, report.stale) == (RowOutcome.SKIPPED, image(1).digest, 1)
    assert row.warnings == (f"the destination still holds {image(1).digest}",)
    outcome = await done(rules, harbor)
    assert (outcome["result"], outcome["still_holds"]) == ("skipped", image(1).digest)


async def done(rules: Rules, harbor: HarborStandIn, **changes: Any) -> dict[str, Any]:
    async with handling(rules) as handler:
        return await run(handler, Job({**request(rules, harbor, "v1").to_json(), **changes}))


async def test_the_copy_of_an_event_tells_the_type_from_the_manifest(harbor: HarborStandIn, acr: AcrStandIn) -> None:
    await push(harbor.host, "team/app", "v1", chart(1), HARBOR_ROBOT)
    harbor.faults.log.clear()
    outcome = await done(rules_of(harbor, acr, ", types: [image, cnab]"), harbor, announced=chart(1).digest)
    assert (outcome["result"], outcome["bytes"]) == ("skipped", 0)
    assert outcome["note"] == "its type is chart, and the rule copies only cnab, image"
    assert harbor.faults.log.count("GET", "/blobs/") == 0


async def test_a_job_of_an_earlier_version_runs_by_the_types_of_the_rules_in_force(
    harbor: HarborStandIn, acr: AcrStandIn
) -> None:
    await push(harbor.host, "team/app", "v1", chart(1), HARBOR_ROBOT)
    earlier, now = rules_of(harbor, acr), rules_of(harbor, acr, ", types: image")
    payload = request(earlier, harbor, "v1").to_json()
    assert "types" not in json.dumps(payload)
    async with Registries(access_by(now.credentials)) as registries:
        outcome = await run(Handler(Copier(registries), rules=now), Job(payload))
    assert outcome["result"] == "skipped"


async def test_a_sweep_queues_no_copy_of_another_type(stage: Stage) -> None:
    rules = {"HARBOR/team/**": {"to": "BEHIND/copies/{name}", "types": "image"}}
    sweeper = await stage.sweeper(rules)
    await sweeper.step()
    for tag, root in (("v1", image(1)), ("v2", chart(1))):
        await push(stage.house.harbor.host, "team/app", tag, root, HARBOR_ROBOT)
    stage.forget()
    await sweeper.step()
    await sweeper.step(whole=False)
    assert await stage.queued() == 1

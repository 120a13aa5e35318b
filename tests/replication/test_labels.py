"""Labels of a Harbor decide what is copied: in lists, sweeps, and when a copy begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from replicator.copy import Copier, Result
from replicator.errors import ErrorClass
from replicator.queue.leaders import SweepState
from replicator.reference import Reference
from replicator.registry import Registries
from replicator.registry.errors import ForeignAnswer
from replicator.replication import repositories, tag_lists
from replicator.replication.enqueue import job_for
from replicator.replication.job import Handler
from replicator.replication.tag_lists import LabelsUnknown
from replicator.replication.transfer import CopyFailed, access_by
from tests.replication.conftest import tags_of
from tests.replication.test_job import Job, run
from tests.standins.faults import Answer, Fault
from tests.standins.images import fetch_raw, image, push
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from replicator.rules import CopyRequest, Rules
    from tests.replication.conftest import House, Stage

PROD = {"to": "BEHIND/copies/{flat}", "tags": {"labels": ["prod"], "exclude_labels": ["broken"]}}
TEAM = {"HARBOR/team/**": PROD}


async def handled(rules: Rules, request: CopyRequest) -> dict[str, Any]:
    async with Registries(access_by(rules.credentials)) as registries:
        return await run(Handler(Copier(registries)), Job(job_for(request).payload))


def pushed(house: House, rules: Rules, name: str) -> CopyRequest:
    (request,) = rules.destinations(Reference.parse(f"{house.harbor.host}/{name}"))
    return request


@pytest.mark.parametrize("images", [TEAM, {"HARBOR/team/app": PROD}, {"HARBOR/team/app:v1,v2": PROD}])
async def test_a_listing_finds_the_images_with_the_labels_over_all_pages(
    house: House, images: dict[str, Any], small_pages: int
) -> None:
    put = await house.put(f"team/app:v{number}" for number in range(2 * small_pages))
    await house.harbor.label("team/app", "v1", "prod")
    await house.harbor.label("team/app", "v9", "prod", of_project=True)
    for label in ("prod", "broken"):
        await house.harbor.label("team/app", "v2", label)
    found = tags_of(await house.listed(images))
    wanted = ["v1"] if "HARBOR/team/app:v1,v2" in images else ["v1", "v9"]
    assert found == {f"team/app:{tag}": put[f"team/app:{tag}"] for tag in wanted}
    assert house.asked("tags/list") == []


async def test_labels_are_asked_for_only_where_a_rule_names_some(house: House) -> None:
    await house.put(["team/app:v1", "library/app:v1"])
    await house.listed(TEAM | {"HARBOR/library/**": "PLAIN/copy/{name}"})
    asked = {
        entry.path.split("/")[4]: "with_label=true" in entry.query
        for entry in house.harbor.faults.log.select("GET", "artifacts$")
    }
    assert asked == {"team": True, "library": False}


async def test_two_sources_of_one_destination_collide_only_where_both_have_the_label(house: House) -> None:
    images = {f"HARBOR/{project}/app": PROD | {"to": "BEHIND/copies/app"} for project in ("team", "library")}
    await house.put(["team/app:v1", "library/app:v1", "team/app:v2", "library/app:v2"])
    for project, tag in (("team", "v1"), ("team", "v2"), ("library", "v2")):
        await house.harbor.label(f"{project}/app", tag, "prod")
    batches = await house.listed(images)
    assert set(tags_of(batches)) == {"team/app:v1"}
    assert {str(each.asked.request.source.tag) for batch in batches for each in batch.refused} == {"v2"}


async def test_a_login_that_may_not_list_artifacts_is_told_and_nothing_is_copied(house: House) -> None:
    await house.put(["team/app:v1"])
    house.harbor.faults.add(Fault(Answer(403, "DENIED"), "GET", "/artifacts", times=None))
    batches = await house.listed(TEAM)
    assert tags_of(batches) == {}
    (error,) = [batch.error for batch in batches if batch.error is not None]
    assert isinstance(error, LabelsUnknown)
    assert f"{house.harbor.host}/team/app does not show its labels" in str(error)


async def test_a_registry_that_is_no_harbor_is_told(house: House) -> None:
    await house.put(["team/app:v1"])
    batches = await house.listed({"BEHIND/team/app": PROD | {"to": "PLAIN/copies/app"}})
    (error,) = [batch.error for batch in batches if batch.error is not None]
    assert f"{house.behind}/team/app has no labels: {house.behind}/api/v2.0 does not answer as a Harbor" in str(error)
    rules = house.rules({"BEHIND/team/app": PROD | {"to": "PLAIN/copies/app"}})
    (request,) = rules.destinations(Reference.parse(f"{house.behind}/team/app:v1"))
    with pytest.raises(LabelsUnknown, match="does not answer as a Harbor") as caught:
        await handled(rules, request)
    assert caught.value.error_class is ErrorClass.PERMANENT


async def test_a_proxy_that_answers_for_a_harbor_makes_it_no_other_registry(house: House) -> None:
    await house.put(["team/app:v1"])
    rules = house.rules(TEAM)
    house.harbor.faults.add(Fault(Answer(404, body=b"<html>"), times=None))
    with pytest.raises(ForeignAnswer) as caught:
        await handled(rules, pushed(house, rules, "team/app:v1"))
    assert caught.value.error_class is ErrorClass.TRANSIENT


async def test_a_pushed_image_is_copied_only_with_its_label_which_takes_one_request(house: House) -> None:
    await push(house.behind, "team/app", "v1", image(1))
    rules = house.rules(TEAM)
    request = pushed(house, rules, "team/app:v1")
    outcome = await handled(rules, request)
    assert (outcome["result"], outcome["note"]) == (Result.SKIPPED, "tag v1 does not have the label prod")
    await house.harbor.label("team/app", "v1", "prod")
    house.harbor.faults.log.clear()
    outcome = await handled(rules, request)
    assert outcome["result"] == Result.COPIED
    assert outcome["source"] == str(request.source)
    assert house.asked() == ["/projects/team/repositories/app/artifacts"]
    assert await fetch_raw(house.behind, "copies/team-app", "v1") is not None
    await house.harbor.label("team/app", "v1", "broken")
    assert (await handled(rules, request))["note"] == "tag v1 has the label broken"


async def test_a_tag_that_moves_while_it_is_copied_never_brings_an_image_without_the_label(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The labels were those of one digest, so this one is copied."""
    good, bad = image(1), image(2)
    await push(house.behind, "team/app", "v1", good)
    await house.harbor.label("team/app", "v1", "prod")
    rules = house.rules(TEAM)
    # What a list found is looked at again before it is copied.
    (found,) = [each for batch in await house.listed(TEAM) for each in batch.found]
    read = tag_lists.read_labels

    async def read_and_move(*place: Any) -> Any:
        labels = await read(*place)
        await push(house.harbor.host, "team/app", "v1", bad, HARBOR_ROBOT)
        return labels

    monkeypatch.setattr("replicator.replication.tag_lists.read_labels", read_and_move)
    outcome = await handled(rules, pushed(house, rules, "team/app:v1"))
    assert (outcome["result"], outcome["digest"]) == (Result.COPIED, good.digest)
    assert (await handled(rules, found.request))["note"] == "tag v1 does not have the label prod"


async def test_the_latest_are_those_of_the_images_with_the_label_when_the_copy_begins(house: House) -> None:
    await house.put([f"team/app:v{number}" for number in range(4)])
    for tag in ("v0", "v1"):
        await house.harbor.label("team/app", tag, "prod")
    rules = house.rules({"HARBOR/team/app": PROD | {"tags": {"labels": "prod", "latest": 1}}})
    assert (await handled(rules, pushed(house, rules, "team/app:v1")))["result"] == Result.COPIED
    notes = [(await handled(rules, pushed(house, rules, f"team/app:{tag}")))["note"] for tag in ("v0", "v3")]
    assert notes == ["it is not among the latest tags that its rule selects", "tag v3 does not have the label prod"]


async def test_a_tag_that_harbor_does_not_list_yet_is_looked_at_again(house: House) -> None:
    await house.put(["team/app:v1"])
    rules = house.rules(TEAM)
    house.harbor.faults.add(Fault(Answer(200, body=b"[]", headers={"X-Total-Count": "0"}), "GET", "/artifacts"))
    with pytest.raises(CopyFailed, match="does not list it yet") as caught:
        await handled(rules, pushed(house, rules, "team/app:v1"))
    assert caught.value.error_class is ErrorClass.NOT_YET


async def test_a_copy_to_a_tag_that_is_too_long_fails_for_good_unless_nobody_wants_it(house: House) -> None:
    long = "x" * 128
    await house.put([f"team/app:{long}"])
    rules = house.rules({"HARBOR/team/**": PROD | {"to": "BEHIND/copies/all:{flat}-{tag}"}})
    request = pushed(house, rules, f"team/app:{long}")
    assert "does not have the label prod" in (await handled(rules, request))["note"]
    await house.harbor.label("team/app", long, "prod")
    with pytest.raises(CopyFailed, match="with 137 characters, and a tag has at most 128") as caught:
        await handled(rules, request)
    assert caught.value.error_class is ErrorClass.PERMANENT


async def test_a_sweep_finds_a_label_that_came_later_when_its_repository_changes(stage: Stage) -> None:
    await stage.house.put(["team/app:v1", "team/app:v2"])
    sweeper = await stage.sweeper(TEAM)
    await sweeper.step()
    await stage.house.harbor.label("team/app", "v1", "prod")
    await sweeper.step()
    assert await stage.queued() == 0
    await stage.house.harbor.retag("team/app", "v2", "other")
    await sweeper.step()
    assert await stage.queued() == 1
    await stage.copy(TEAM)
    assert await fetch_raw(stage.house.behind, "copies/team-app", "v1") is not None


async def test_a_sweep_finds_a_label_that_came_later_by_itself(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    await stage.house.put(["team/app:v1", "team/other:v1", "library/app:v1"])
    monkeypatch.setattr(repositories, "_LABELS_SECONDS", 0.0)
    sweeper = await stage.sweeper(TEAM | {"HARBOR/library/**": "BEHIND/lib/{name}"})
    await sweeper.step()
    await stage.house.harbor.label("team/app", "v1", "prod")
    stage.forget()
    await sweeper.step()
    assert await stage.queued() == 1
    # A lost event it was not, and rules without labels are not looked through.
    assert (await SweepState.read(stage.queue)).replaced == 0
    assert sorted(stage.house.asked("/artifacts$")) == [
        "/projects/team/repositories/app/artifacts",
        "/projects/team/repositories/other/artifacts",
    ]
    await sweeper.step()
    assert await stage.queued() == 1


async def test_labels_are_looked_for_every_ten_minutes_and_only_if_a_rule_asks_for_some(stage: Stage) -> None:
    await stage.house.put(["team/app:v1"])
    assert repositories._LABELS_SECONDS == 600
    sweeper = await stage.sweeper(TEAM)
    await sweeper.step()
    stage.forget()
    await sweeper.step()
    assert stage.house.asked() == ["/projects/team/repositories"]

"""One tag, one source: a job whose destination another source owns ends as a collision, unless the owner is gone."""

from __future__ import annotations

import hashlib
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from replicator.copy import Comparison, Copier, Result
from replicator.copy.options import Overwrite
from replicator.errors import ErrorClass
from replicator.queue import CauseWatch, DeadLetters, Lane, Observations
from replicator.queue.records import TagRecord
from replicator.reference import Reference, Repository
from replicator.registry import Registries
from replicator.replication.compare import Checker
from replicator.replication.enqueue import job_for
from replicator.replication.job import Handler
from replicator.replication.listing import Found
from replicator.replication.report import Row, RowOutcome
from replicator.replication.transfer import Collides, CopyFailed, access_by
from tests.replication.conftest import tiny
from tests.replication.test_job import Job
from tests.standins.faults import Answer, Fault
from tests.standins.images import fetch_raw, image, push

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from replicator.rules import CopyRequest, Rules
    from tests.replication.conftest import House, Stage

FLAT = {"HARBOR/team/a-*": "BEHIND/copies/{flat}", "HARBOR/team/a/*": "BEHIND/copies/{flat}"}
OURS, THEIRS = "team/a-b:v1", "team/a/b:v1"


@asynccontextmanager
async def handling(rules: Rules) -> AsyncIterator[Handler]:
    async with Registries(access_by(rules.credentials)) as registries:
        yield Handler(Copier(registries), rules=rules)


def request_of(house: House, rules: Rules, source: str) -> CopyRequest:
    (request,) = rules.destinations(Reference.parse(f"{house.harbor.host}/{source}"))
    return request


async def run(handler: Handler, request: CopyRequest, owned: TagRecord) -> tuple[Result, Job]:
    job = Job(request.to_json(), owned=owned)
    outcome = await handler(job)  # type: ignore[arg-type]  # a stand-in
    return Result(str(outcome["result"])), job


def owner_in(house: House, source: str, digest: str = "") -> TagRecord:
    return TagRecord().after(f"{house.harbor.host}/{source}", digest or "sha256:" + "0" * 64, None)


async def test_a_push_of_another_source_is_a_collision_with_both_names(house: House) -> None:
    digests = await house.put([OURS, THEIRS])
    rules = house.rules(FLAT)
    async with handling(rules) as handler:
        result, job = await run(handler, request_of(house, rules, OURS), TagRecord())
        assert result is Result.COPIED
        (owned,) = job.noted
        assert owned.source == f"{house.harbor.host}/{OURS}"
        assert digests[OURS] in owned
        with pytest.raises(Collides) as refused:
            await run(handler, request_of(house, rules, THEIRS), owned)
        assert (await run(handler, request_of(house, rules, OURS), owned))[0] is Result.UP_TO_DATE
    assert refused.value.error_class is ErrorClass.PERMANENT
    assert all(f"{house.harbor.host}/{name}" in str(refused.value) for name in (OURS, THEIRS))


async def test_equal_images_of_two_sources_are_no_collision_and_leave_the_owner(house: House) -> None:
    for repository in ("team/a-b", "team/a/b"):
        await push(house.behind, repository, "v1", image(1))
    rules = house.rules(FLAT)
    request, owned = request_of(house, rules, THEIRS), owner_in(house, OURS)
    async with handling(rules) as handler:
        result, job = await run(handler, request, owned)
        assert result is Result.COPIED
        assert job.noted[-1].source == f"{house.harbor.host}/{OURS}"
        assert (await run(handler, request, owned))[0] is Result.UP_TO_DATE


@pytest.mark.parametrize("gone", ["rule", "tag", "latest"])
async def test_an_owner_that_is_gone_makes_way(house: House, gone: str) -> None:
    digests = await house.put([OURS, "team/a-b:v2", THEIRS])
    images: dict[str, Any] = dict(FLAT)
    if gone == "rule":
        del images["HARBOR/team/a-*"]
    elif gone == "tag":
        await house.delete("team/a-b", digests[OURS])
    else:
        images["HARBOR/team/a-*"] = {"to": "BEHIND/copies/{flat}", "tags": {"latest": 1}}
    rules = house.rules(images)
    async with handling(rules) as handler:
        result, job = await run(handler, request_of(house, rules, THEIRS), owner_in(house, OURS))
    assert result is Result.COPIED
    assert job.noted[-1].source == f"{house.harbor.host}/{THEIRS}"


async def test_an_owner_that_can_not_be_asked_is_waited_for_and_one_that_is_denied_stays(house: House) -> None:
    await house.put([OURS, THEIRS])
    rules = house.rules(FLAT)
    request = request_of(house, rules, THEIRS)
    async with handling(rules) as handler:
        fault = house.harbor.faults.add(Fault(Answer(503), "HEAD", "/team/a-b/manifests/", times=None))
        with pytest.raises(CopyFailed) as waits:
            await run(handler, request, owner_in(house, OURS))
        assert waits.value.error_class is ErrorClass.TRANSIENT
        fault.times = 0
        house.harbor.faults.add(Fault(Answer(403, "DENIED"), None, "/team/a-b/manifests/", times=None))
        with pytest.raises(Collides, match="can't be read now"):
            await run(handler, request, owner_in(house, OURS))


@pytest.mark.parametrize("wrote", [True, False])
async def test_only_what_this_installation_wrote_is_replaced_with_overwrite_ours(house: House, *, wrote: bool) -> None:
    digests = await house.put([OURS, "copies/team-a-b:v1"])
    there = digests["copies/team-a-b:v1"]
    rules = house.rules({"HARBOR/team/**": {"to": "BEHIND/copies/{flat}", "overwrite": "ours"}})
    request = request_of(house, rules, OURS)
    assert request.overwrite is Overwrite.OURS
    async with handling(rules) as handler:
        result, job = await run(handler, request, owner_in(house, OURS, there) if wrote else TagRecord())
    assert result is (Result.COPIED if wrote else Result.SKIPPED)
    assert [record.replaced for record in job.noted] == ([there] if wrote else [])


async def test_what_an_attempt_replaced_that_did_not_come_to_its_end_is_told_by_the_next(house: House) -> None:
    digests = await house.put([OURS, "copies/team-a-b:v1"])
    rules = house.rules(FLAT)
    request = request_of(house, rules, OURS)
    async with handling(rules) as handler:
        _, job = await run(handler, request, TagRecord())
        outcome = await handler(Job(request.to_json(), tries=2, owned=job.noted[-1]))  # type: ignore[arg-type]  # as a Running
    assert (outcome["result"], outcome["replaced"]) == ("up to date", digests["copies/team-a-b:v1"])


@pytest.mark.parametrize("at_once", [True, False])
async def test_of_two_pushes_within_one_moment_neither_replaces_the_other_unseen(
    stage: Stage, *, at_once: bool
) -> None:
    house = stage.house
    digests = await house.put([OURS, THEIRS])
    rules = house.rules(FLAT)
    jobs = [job_for(request_of(house, rules, source)) for source in (OURS, THEIRS)]
    for part in [jobs] if at_once else [[job] for job in jobs]:
        await stage.queue.enqueue(part, Lane.EVENTS)
    await stage.copy(FLAT)
    (letter,) = await DeadLetters(stage.queue).all()
    assert letter.error_class is ErrorClass.PERMANENT
    assert all(f"{house.harbor.host}/{name}" in letter.message for name in (OURS, THEIRS))
    assert await at_destination(house) == digests[OURS]
    # The owner's next push is copied, and its rival's failure stays.
    await push(house.behind, "team/a-b", "v1", tiny("moved"))
    await stage.queue.enqueue([jobs[0]], Lane.EVENTS)
    await stage.copy(FLAT)
    assert await at_destination(house) == tiny("moved").digest
    assert len(await DeadLetters(stage.queue).all()) == 1


async def test_a_comparison_leaves_alone_what_this_installation_did_not_write(stage: Stage) -> None:
    house = stage.house
    digests = await house.put([OURS, "team/a-b:v2", "copies/team-a-b:v2"])
    images: dict[str, Any] = {"HARBOR/team/a-b": {"to": "BEHIND/copies/{flat}", "overwrite": "ours"}}
    rules = house.rules(images)
    await stage.queue.enqueue([job_for(request_of(house, rules, OURS))], Lane.EVENTS)
    await stage.copy(images)
    await push(house.behind, "team/a-b", "v1", tiny("moved"))
    async with Registries(access_by(rules.credentials)) as registries, aclosing(Observations(stage.queue)) as checks:
        checker = Checker(
            Copier(registries), checks, letters=CauseWatch(stage.queue), trust=None, force=False, dry_run=False
        )
        asked = {str(each.request.source.tag): each for each in rules.asked(*listed(house, "v1", "v2"))}
        own = await checker.check(Found(asked["v1"]))
        other = await checker.check(Found(asked["v2"]))
    assert isinstance(own, Comparison)
    assert own.replaced == digests[OURS]
    there = digests["copies/team-a-b:v2"]
    assert isinstance(other, Row)
    assert (other.outcome, other.digest, other.replaced) == (RowOutcome.SKIPPED, there, None)
    assert other.note == f"not replaced: {asked['v2'].request.destination} holds {there}, overwrite: ours"


async def at_destination(house: House) -> str:
    content, _ = await fetch_raw(house.behind, "copies/team-a-b", "v1")
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def listed(house: House, *tags: str) -> tuple[Repository, tuple[str, ...]]:
    return Repository(house.harbor.host, "team/a-b"), tags

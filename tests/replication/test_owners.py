"""One tag, one source: a job whose destination another source owns ends as a collision, unless the owner is gone."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from replicator.copy import Copier, Result
from replicator.copy.options import Overwrite
from replicator.errors import ErrorClass
from replicator.queue.records import TagRecord
from replicator.reference import Reference
from replicator.registry import Registries
from replicator.replication.job import Handler
from replicator.replication.transfer import Collides, CopyFailed, access_by
from tests.replication.test_job import Job
from tests.standins.faults import Answer, Fault
from tests.standins.images import image, push

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from replicator.rules import CopyRequest, Rules
    from tests.replication.conftest import House

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
        outcome = await handler(Job(request.to_json(), tries=2, owned=job.noted[-1]))  # type: ignore[arg-type]
    assert (outcome["result"], outcome["replaced"]) == ("up to date", digests["copies/team-a-b:v1"])

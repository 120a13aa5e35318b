"""Sweeps find, within a minute, the tags whose event never came."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from replicator.queue import Lane
from replicator.queue.leaders import SweepState, SweptProject
from replicator.queue.records import encode, milliseconds
from replicator.reference import Reference
from replicator.registry.manifest import digest_of
from replicator.replication import repositories, sweep
from replicator.replication.compare import Checker
from replicator.replication.enqueue import job_for
from tests.replication.conftest import TEAM
from tests.standins.faults import Answer, Fault
from tests.standins.images import fetch_raw
from tests.standins.outages import mute

if TYPE_CHECKING:
    from replicator.copy import Comparison
    from replicator.replication.listing import Found
    from replicator.replication.report import Row
    from tests.replication.conftest import Stage


async def test_what_is_there_at_first_is_left_to_the_reconcile_and_rest_costs_one_request_a_project(
    stage: Stage,
) -> None:
    await stage.house.put(["team/app:v1", "team/other:v1"])
    sweeper = await stage.sweeper()
    assert not await sweeper.step()
    stage.forget()
    for _ in range(3):
        assert not await sweeper.step()
    assert stage.house.asked() == ["/projects/team/repositories"] * 3
    assert (await stage.queued(), await stage.queued(Lane.BACKFILL)) == (0, 0)


async def test_a_tag_that_no_event_told_of_arrives_and_is_counted(stage: Stage) -> None:
    digests = await stage.house.put(["team/app:v1", "team/still:v1"])
    sweeper = await stage.sweeper()
    await sweeper.step()
    await stage.house.harbor.retag("team/app", "v1", "made-in-the-ui")
    await sweeper.step()
    # v1 is not there either: what a repository lacks is brought as a whole.
    assert await stage.queued() == 2
    state = await SweepState.read(stage.queue)
    assert state.replaced == 2
    assert [(each.repository, each.copies) for each in state.lost] == [(f"{stage.house.harbor.host}/team/app", 2)]
    await stage.copy()
    content, _ = await fetch_raw(stage.house.behind, "copies/app", "made-in-the-ui")
    assert digest_of(content) == digests["team/app:v1"]


async def test_what_changed_while_no_process_ran_is_found_by_the_next_one(stage: Stage) -> None:
    await stage.house.put(["team/app:v1"])
    await (await stage.sweeper()).step()
    first = await stage.sweeper()
    await stage.queue.redis.delete(f"{stage.queue.prefix}:sweep:lease")
    await stage.house.put(["team/app:v2"])
    await first.step()
    assert await stage.queued() == 2


async def test_a_push_whose_event_has_arrived_is_not_counted(stage: Stage) -> None:
    await stage.house.put(["team/app:v1"])
    sweeper = await stage.sweeper()
    await sweeper.step()
    await stage.house.put(["team/app:v2"])
    rules = stage.house.rules(TEAM)
    for tag in ("v1", "v2"):
        (request,) = rules.destinations(Reference.parse(f"{stage.house.harbor.host}/team/app:{tag}"))
        await stage.queue.enqueue([job_for(request)], Lane.EVENTS)
    await sweeper.step()
    assert await stage.queued() == 2
    assert (await SweepState.read(stage.queue)).replaced == 0


async def test_a_tag_so_young_that_its_event_may_be_on_its_way_is_looked_at_again_soon(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_YOUNG_SECONDS", 600.0)
    await stage.house.put(["team/app:v1"])
    sweeper = await stage.sweeper()
    await sweeper.step()
    await stage.house.put(["team/app:v2"])
    assert await sweeper.step()
    assert await stage.queued() == 0
    stage.forget()
    # Once: a clock of Harbor's that is wrong must not put it off for ever.
    assert not await sweeper.step(whole=False)
    assert await stage.queued() == 2
    assert len(stage.house.asked()) == 1, "no project is listed for it"


async def test_a_project_that_is_seen_for_the_first_time_waits_with_the_backfills(stage: Stage) -> None:
    everything = {"HARBOR/**": "BEHIND/copies/{flat}"}
    await stage.house.put(["team/app:v1"])
    sweeper = await stage.sweeper(everything)
    await sweeper.step()
    stage.house.harbor.projects.add("fresh", public=True)
    await stage.house.put(["fresh/app:v1", "fresh/other:v1"])
    sweeper.renew(stage.house.rules(everything))
    await sweeper.step()
    assert (await stage.queued(), await stage.queued(Lane.BACKFILL)) == (0, 2)


async def test_many_tags_of_one_repository_wait_with_the_backfills(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_MANY", 2)
    await stage.house.put(["team/app:v1"])
    sweeper = await stage.sweeper()
    await sweeper.step()
    await stage.house.put(["team/app:v2", "team/app:v3"])
    await sweeper.step()
    assert (await stage.queued(), await stage.queued(Lane.BACKFILL)) == (0, 3)


async def test_the_first_repository_of_an_empty_project_is_found(stage: Stage) -> None:
    sweeper = await stage.sweeper()
    await sweeper.step()
    await stage.house.put(["team/first:v1"])
    await sweeper.step()
    assert await stage.queued() == 1


async def test_a_repository_that_could_not_be_compared_waits_for_the_next_sweep(stage: Stage) -> None:
    await stage.house.put(["team/app:v1"])
    sweeper = await stage.sweeper()
    await sweeper.step()
    await stage.house.put(["team/app:v2"])
    fault = stage.house.harbor.faults.add(Fault(Answer(502), "GET", "/artifacts", times=None))
    await sweeper.step()
    assert await stage.queued() == 0
    fault.times = 0
    await sweeper.step()
    assert await stage.queued() == 2


@pytest.mark.parametrize("shows_logs", [True, False])
async def test_a_harbor_that_counts_no_changes_is_swept_by_its_log_if_the_login_may_read_it(
    stage: Stage, shows_logs: bool
) -> None:
    stage.house.harbor.api.version, stage.house.harbor.api.shows_logs = "v2.13.1-abcdef", shows_logs
    await stage.house.put(["team/app:v1"])
    sweeper = await stage.sweeper()
    await sweeper.step()
    await stage.house.put(["team/app:v2"])
    stage.forget()
    await sweeper.step()
    assert await stage.queued() == (2 if shows_logs else 0)
    problem = (await SweepState.read(stage.queue)).problem
    assert ("can't be swept" in problem) == ("log:list" in problem) == (not shows_logs)
    if not shows_logs:
        assert stage.house.asked() == [], "it is not asked every minute"


async def test_what_is_there_at_first_is_left_out_in_every_project_however_late_it_is_listed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_LISTS_A_MINUTE", 2)
    projects = [f"p{number}" for number in range(4)]
    for project in projects:
        stage.house.harbor.projects.add(project, public=True)
    await stage.house.put([f"{project}/app:v1" for project in projects])
    sweeper = await stage.sweeper({f"HARBOR/{project}/**": f"BEHIND/copies/{project}-{{name}}" for project in projects})
    for _ in range(4):
        await sweeper.step()
    assert (await stage.queued(), await stage.queued(Lane.BACKFILL)) == (0, 0)
    await stage.house.put(["p3/app:v2"])
    for _ in range(4):
        await sweeper.step()
    assert await stage.queued() == 2


async def test_a_harbor_whose_proxy_answered_for_it_at_the_start_is_swept_when_it_is_back(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Answer(404, headers={"Content-Type": "text/plain"}, body=b"default backend - 404")
    stage.house.harbor.faults.add(Fault(page, path="/api/v2.0/ping", times=None))
    monkeypatch.setattr(repositories, "_PROJECTS_SECONDS", 0.0)
    sweeper = await stage.sweeper()
    await sweeper.step()
    assert set(stage.house.asked()) == {"/ping"}
    stage.house.harbor.faults.faults.clear()
    await stage.house.put(["team/app:v1"])
    await sweeper.step()
    await stage.house.put(["team/app:v2"])
    await sweeper.step()
    assert await stage.queued() == 2


async def test_a_harbor_that_does_not_answer_delays_the_sweep_of_no_other(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_HARBOR_SECONDS", 1.0)
    await stage.house.put(["team/app:v1"])
    async with mute() as silent:
        sweeper = await stage.sweeper(TEAM | {f"{silent}/team/**": "BEHIND/silent/{name}"}, silent)
        await sweeper.step()
        await stage.house.put(["team/app:v2"])
        async with asyncio.timeout(15):
            await sweeper.step()
    assert await stage.queued() == 2
    assert silent in (await SweepState.read(stage.queue)).problem


async def test_a_fault_with_one_repository_stops_no_other(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    await stage.house.put(["team/app:v1", "team/other:v1"])
    sweeper = await stage.sweeper()
    await sweeper.step()
    await stage.house.put(["team/app:v2", "team/other:v2"])
    original = Checker.check

    async def check(checker: Checker, found: Found) -> Row | Comparison | None:
        if found.request.source.repository.name == "team/app":
            raise RuntimeError("a fault in the program")
        return await original(checker, found)

    monkeypatch.setattr(Checker, "check", check)
    await sweeper.step()
    assert await stage.queued() == 2
    stage.forget()
    await sweeper.step()
    assert stage.house.asked() == ["/projects/team/repositories"], "it is left to the reconcile"


async def test_a_clock_of_a_harbor_that_is_set_back_hides_no_change(stage: Stage) -> None:
    await stage.house.put(["team/app:v1"])
    sweeper = await stage.sweeper()
    await sweeper.step()
    # It was an hour ahead, and is right again.
    await stage.store(encode(SweptProject(seen=milliseconds(datetime.now(UTC)) + 3_600_000)))
    await stage.house.put(["team/app:v2"])
    await sweeper.step()
    assert await stage.queued() == 2


async def test_a_change_that_harbor_commits_late_is_found(stage: Stage) -> None:
    await stage.house.put(["team/app:v1", "team/other:v1"])
    sweeper = await stage.sweeper()
    await sweeper.step()
    await stage.house.put(["team/app:v2"])
    await stage.house.put(["team/other:v2"])
    # The last sweep has read a later time already.
    await stage.store(encode(SweptProject(seen=milliseconds(datetime.now(UTC)) + 120_000)))
    await sweeper.step()
    assert await stage.queued() == 4


@pytest.mark.parametrize("record", [b"", b"[]", b'{"seen": "yesterday"}', b'{"pending": {"a": "nobody"}}', b"\xff"])
async def test_a_record_that_can_not_be_read_is_replaced(stage: Stage, record: bytes) -> None:
    await stage.house.put(["team/app:v1"])
    sweeper = await stage.sweeper()
    await sweeper.step()
    await stage.store(record)
    await stage.store(record, b"\xff")
    await sweeper.step()
    await stage.house.put(["team/app:v2"])
    await sweeper.step()
    assert await stage.queued() == 2


async def test_rules_without_a_harbor_are_not_swept(stage: Stage) -> None:
    await stage.house.put(["plain/app:v1"])
    sweeper = await stage.sweeper({"BEHIND/plain/app": "BEHIND/copies/plain"})
    await sweeper.step()
    await stage.house.put(["plain/app:v2"])
    await sweeper.step()
    assert await stage.queued() == 0

"""What sweeps cost, what they leave alone, and what all processes know of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from replicator.errors import ErrorClass
from replicator.queue import Lane, RetryPolicy, Worker
from replicator.queue.leaders import SweepState, SweptProject
from replicator.queue.records import encode, milliseconds
from replicator.replication import repositories, sweep
from replicator.tasks import background
from tests.queue.conftest import Recorder, eventually
from tests.queue.test_retrying import Fault as Failure

if TYPE_CHECKING:
    import pytest

    from tests.replication.conftest import Stage


async def test_fifty_projects_at_rest_cost_a_request_each_and_one_more_every_ten_minutes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = {}
    for number in range(50):
        stage.house.harbor.projects.add(f"p{number}", public=True)
        rules[f"HARBOR/p{number}/**"] = "BEHIND/copies/{flat}"
    monkeypatch.setattr(repositories, "_PROJECTS_SECONDS", 0.0)
    sweeper = await stage.sweeper(rules)
    await sweeper.step()
    lists = sorted(f"/projects/p{number}/repositories" for number in range(50))
    monkeypatch.undo()
    # The first of these comes ten minutes after the one before it.
    for more in (["/systeminfo"], []):
        stage.forget()
        await sweeper.step()
        assert sorted(stage.house.asked()) == [*lists, *more]


async def test_webhooks_that_harbor_s_system_settings_switch_off_are_known_to_all_processes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repositories, "_PROJECTS_SECONDS", 0.0)
    host = stage.house.harbor.host
    sweeper = await stage.sweeper()
    for enabled in (True, False, True):
        stage.house.harbor.api.notifies = enabled
        await sweeper.step()
        found = await SweepState.read(stage.queue)
        assert found.webhooks == {host: enabled}
        assert found.switched_off == ([] if enabled else [host])
    # It is forgotten when no process sweeps any more.
    left = await stage.queue.redis.pttl(f"{stage.queue.prefix}:sweep:webhooks")
    assert 0 < left < 3_600_000


async def test_a_copy_s_own_pull_is_a_change_that_costs_one_list_and_no_request_to_the_destination(
    stage: Stage,
) -> None:
    await stage.house.put(["team/app:v1"])
    sweeper = await stage.sweeper()
    await sweeper.step()
    await stage.house.put(["team/app:v2"])
    await sweeper.step()
    await stage.copy()
    await stage.house.put(["team/app:v3"])
    await sweeper.step()
    stage.forget()
    await stage.copy()
    pulled = stage.house.harbor.pulls
    assert pulled, "the copies pulled the manifests, so the repository has changed"
    stage.forget()
    await sweeper.step()
    assert stage.house.asked() == ["/projects/team/repositories", "/projects/team/repositories/app/artifacts"]
    assert await stage.queued() == 0
    assert (await SweepState.read(stage.queue)).replaced == 3


async def test_one_process_of_all_sweeps(stage: Stage) -> None:
    await stage.house.put(["team/app:v1"])
    leader, other = await stage.sweeper(), await stage.sweeper()
    await leader.step()
    await stage.house.put(["team/app:v2"])
    stage.forget()
    await other.step()
    assert stage.house.asked() == []
    leader.stop()
    await leader.run()
    await other.step()
    assert await stage.queued() == 2, "a process that ends leaves the sweep to another one"


async def test_the_same_image_is_queued_once_a_day_however_often_its_repository_changes(stage: Stage) -> None:
    await stage.house.put(["team/app:v1"])
    sweeper = await stage.sweeper()
    await sweeper.step()
    await stage.house.put(["team/app:v2"])
    await sweeper.step()
    assert await stage.queued() == 2
    # The copies end without a trace: they failed, or their destination names something else again.
    for key in await stage.queue.redis.keys(f"{stage.queue.prefix}:*"):
        if b":sweep" not in key:
            await stage.queue.redis.delete(key)
    await stage.queue.redis.delete(*await stage.queue.redis.keys("arq:*"))
    assert await stage.queued() == 0
    await stage.house.put(["team/app:v3"])
    await sweeper.step()
    assert await stage.queued() == 1


async def test_a_copy_that_waits_for_its_retry_is_left_alone_by_the_sweep_of_another_process(stage: Stage) -> None:
    await stage.house.put(["team/app:v1"])
    sweeper = await stage.sweeper()
    await sweeper.step()
    again = encode(SweptProject(seen=milliseconds(datetime.now(UTC)) - 60_000))
    await stage.store(again)
    await sweeper.step()
    handler = Recorder()
    handler.errors = [Failure(ErrorClass.TRANSIENT)]
    worker = Worker(stage.queue, handler, concurrency={Lane.EVENTS: 1}, policy=RetryPolicy(first=3600, cap=3600))
    async with background(worker.run(), worker.stop, within=10):
        (waiting,) = await eventually(stage.queue.waiting)
    # Another process knows nothing of what this one has queued.
    await stage.queue.redis.delete(f"{stage.queue.prefix}:sweep:lease")
    other = await stage.sweeper()
    await stage.store(again)
    stage.forget()
    await other.step()
    assert "/projects/team/repositories/app/artifacts" in stage.house.asked()
    assert await stage.queue.waiting() == [waiting]
    # Another image under the tag is news.
    await stage.house.put(["team/app:v2"])
    await stage.house.harbor.retag("team/app", "v2", "v1")
    await other.step()
    assert await stage.queue.waiting() == []
    assert await stage.queued() == 2


async def test_at_most_sixty_lists_a_minute_are_read_and_the_others_go_first_then(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_LISTS_A_MINUTE", 3)
    projects = [f"p{number}" for number in range(5)]
    for project in projects:
        stage.house.harbor.projects.add(project, public=True)
    rules = {f"HARBOR/{project}/**": "BEHIND/copies/{name}" for project in projects}
    sweeper = await stage.sweeper(rules)
    listed: list[set[str]] = []
    for _ in range(3):
        stage.forget()
        await sweeper.step()
        listed.append({path.split("/")[2] for path in stage.house.asked("/repositories$")})
    assert [len(each) for each in listed] == [3, 3, 3]
    assert listed[0] | listed[1] == set(projects)

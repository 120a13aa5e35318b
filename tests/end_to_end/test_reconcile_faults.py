"""A reconcile whose Redis fails, whose lease is lost, or which never ends."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from replicator.copy import Copier
from replicator.queue import Findings, Lane, Queue, ReconcileResult, ReconcileState
from replicator.registry import Registries
from replicator.replication import reconciler as reconciling
from replicator.replication.reconciler import Reconciler, next_run
from replicator.replication.transfer import access_by
from replicator.rules import Rules, load
from replicator.rules.credentials import Credentials
from replicator.schedule import Cron, Every
from tests.queue.conftest import command
from tests.queue.servers import RedisServer
from tests.standins.faults import Fault, Hold
from tests.standins.images import image, push

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tests.end_to_end.conftest import House

SOME = Rules([], Credentials({}))
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="rq-", dir="/tmp") as directory, RedisServer(Path(directory)) as server:
        yield server


@pytest.fixture
async def queue(redis: RedisServer) -> AsyncIterator[Queue]:
    async with await Queue.connect(redis.url, deadline=0.5) as client:
        yield client


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as entries:
        yield entries


@pytest.fixture
async def reconcilers(house: House, queue: Queue) -> AsyncIterator[Callable[..., Reconciler]]:
    """Make a reconciler of one tag that differs and that nobody copies."""
    await push(house.behind_harbor, "library/app", "v1", image(1))
    usual = load(house.rules({"HARBOR/library/app": "ACR/image-syncer/app"}), environ={})
    async with Registries(access_by(usual.credentials)) as registries:

        def make(every: int = 1, rules: Rules = usual, **settings: Any) -> Reconciler:
            return Reconciler(Every(every), rules, Copier(registries), queue, **settings)

        yield make


async def said(logs: list[Any], event: str, count: int = 1) -> list[Any]:
    """Wait until ``event`` was logged so often."""
    async with asyncio.timeout(30):
        while len(found := [entry for entry in logs if entry["event"] == event]) < count:
            await asyncio.sleep(0.01)
    return found


def hold(house: House) -> Fault:
    return house.harbor.faults.add(Fault(Hold(), path="/repositories/app/artifacts"))


async def test_a_redis_that_goes_away_is_waited_for_and_told_of_once_an_outage(
    reconcilers: Callable[..., Reconciler], redis: RedisServer, logs: list[Any]
) -> None:
    async with reconcilers().beside():
        for outage in (1, 2):
            runs = len(await said(logs, "reconcile done", outage))
            redis.kill()
            await said(logs, "queue unavailable", outage)
            await asyncio.sleep(2)  # it is asked several times more
            assert len(await said(logs, "queue unavailable")) == outage
            redis.start()
            await said(logs, "reconcile done", runs + 1)
    assert not [entry for entry in logs if entry["event"] == "reconcile broken"]


async def test_what_can_not_be_queued_fails_the_run_and_is_queued_by_the_next(
    house: House, reconcilers: Callable[..., Reconciler], redis: RedisServer, queue: Queue, logs: list[Any]
) -> None:
    held = hold(house)
    assert isinstance(held.action, Hold)
    async with reconcilers(lease=30).beside():
        async with asyncio.timeout(30):
            while not held.hits:
                await asyncio.sleep(0.01)
        redis.kill()
        held.action.released.set()
        await asyncio.sleep(2)  # the queue's deadline and more
        redis.start()
        (failed,) = await said(logs, "reconcile failed")
        assert "can't accept or hand out work" in failed["error"]
        (done, *_) = await said(logs, "reconcile done")
        assert (done["pending"], done["failed"]) == (1, 0)
    assert (await queue.counts()).lanes[Lane.BACKFILL].queued == 1


async def test_a_run_whose_lease_is_lost_stops(
    house: House, reconcilers: Callable[..., Reconciler], queue: Queue, logs: list[Any]
) -> None:
    held = hold(house)
    async with reconcilers(lease=0.6).beside():
        async with asyncio.timeout(30):
            while not held.hits:
                await asyncio.sleep(0.01)
        await queue.redis.delete("replicator:reconcile:lease")
        await said(logs, "reconcile lost")
        # The listing of this run hangs for ever: that it ends is that it was stopped.
        (done, *_) = await said(logs, "reconcile done")
        assert done["complete"]


async def test_a_run_that_does_not_end_is_stopped_and_counts_as_failed(
    house: House, reconcilers: Callable[..., Reconciler], queue: Queue, logs: list[Any]
) -> None:
    hold(house)
    async with reconcilers(deadline=0.5).beside():
        (failed,) = await said(logs, "reconcile failed")
        assert failed["error"] == "it did not end within 0.5 s"
        state = await ReconcileState.read(queue)
        assert state.last is not None
        assert state.last.findings.error == failed["error"]
        await said(logs, "reconcile done")


async def test_a_fault_in_the_program_fails_the_run_and_nothing_else(
    house: House, queue: Queue, redis: RedisServer, logs: list[Any]
) -> None:
    rules = load(house.rules({"HARBOR/library/app": "ACR/image-syncer/app"}), environ={})
    registries = Registries(access_by(rules.credentials))  # not opened
    incomplete: Any = SimpleNamespace(registries=registries)
    await push(house.behind_harbor, "library/app", "v1", image(1))
    async with registries, Reconciler(Every(1), rules, incomplete, queue).beside():
        (failed, *_) = await said(logs, "reconcile failed")
        assert failed["error"] == "a fault in the program, see the log: AttributeError"
        (broken, *_) = await said(logs, "reconcile broken")
        assert isinstance(broken["exc_info"], AttributeError)
        await said(logs, "reconcile failed", 2)


async def test_other_rules_have_a_run_soon_and_the_same_rules_have_none(
    house: House, reconcilers: Callable[..., Reconciler], logs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciling, "_SPREAD_AT_START", 0.0)
    await push(house.behind_harbor, "library/other", "v1", image(2))
    same = load(house.rules({"HARBOR/library/app": "ACR/image-syncer/app"}), environ={})
    more = load(house.rules({"HARBOR/library/*": "ACR/image-syncer/{name}"}), environ={})
    reconciler, tomorrow = reconcilers(every=86_400), datetime.now(UTC) + timedelta(hours=23)
    async with reconciler.beside():
        (first,) = await said(logs, "reconcile done")
        assert first["listed"] == 1
        reconciler.renew(same)
        reconciler.renew(more)
        reconciler.renew(more)
        *_, second = await said(logs, "reconcile done", 2)
        assert second["listed"] == 2
        reconciler.renew(more)
        # What is planned next is at its usual time.
        async with asyncio.timeout(30):
            while datetime.fromisoformat((await said(logs, "reconcile scheduled"))[-1]["next"]) < tomorrow:
                await asyncio.sleep(0.01)
    assert len(await said(logs, "reconcile started", 2)) == 2


async def test_rules_that_changed_while_no_process_ran_have_a_run_after_the_start_and_only_one(
    house: House, reconcilers: Callable[..., Reconciler], queue: Queue, logs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciling, "_SPREAD_AT_START", 0.0)
    await push(house.behind_harbor, "library/other", "v1", image(2))
    less = load(house.rules({"HARBOR/library/app": "ACR/image-syncer/app"}), environ={})
    more = load(house.rules({"HARBOR/library/*": "ACR/image-syncer/{name}"}), environ={})
    # Going back to the first rules is a change too.
    for rules, listed in ((less, [1]), (less, [1]), (more, [1, 2]), (more, [1, 2]), (less, [1, 2, 1])):
        reconciler = reconcilers(every=86_400, rules=rules)
        scheduled = len([entry for entry in logs if entry["event"] == "reconcile scheduled"])
        async with reconciler.beside():
            # The last plan is that of tomorrow.
            async with asyncio.timeout(30):
                while (await said(logs, "reconcile scheduled", scheduled + 1))[-1]["new_rules"]:
                    await asyncio.sleep(0.01)
        assert [line["listed"] for line in logs if line["event"] == "reconcile done"] == listed
    # An older version stores no rules.
    await command(queue, "HDEL", "replicator:reconcile", "rules")
    async with reconcilers(every=86_400, rules=less).beside():
        await said(logs, "reconcile done", 4)


async def test_old_and_new_processes_of_an_upgrade_run_once_for_each_rules(
    house: House, reconcilers: Callable[..., Reconciler], queue: Queue, logs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciling, "_SPREAD_AT_START", 0.0)
    less = load(house.rules({"HARBOR/library/app": "ACR/image-syncer/app"}), environ={})
    more = load(house.rules({"HARBOR/library/*": "ACR/image-syncer/{name}"}), environ={})
    old, new = (reconcilers(every=86_400, rules=rules) for rules in (less, more))
    for reconciler, runs in ((old, 1), (new, 2), (old, 2), (new, 2), (old, 2)):
        assert reconciler._schedule is not None
        for _ in range(2):
            await reconciler._step(reconciler._schedule)
        assert len([line for line in logs if line["event"] == "reconcile done"]) == runs
    # One that starts late, with rules that had their run before the last one's, has another, and it is the last.
    late = reconcilers(every=86_400, rules=less)
    for reconciler in (late, new, old, late, new):
        assert reconciler._schedule is not None
        await reconciler._step(reconciler._schedule)
    assert len([line for line in logs if line["event"] == "reconcile done"]) == 3
    assert len((await ReconcileState.read(queue)).rules) == 2


async def test_a_stop_ends_a_run_that_hangs_and_gives_its_lease_back(
    house: House, reconcilers: Callable[..., Reconciler], queue: Queue, logs: list[Any]
) -> None:
    held = hold(house)
    reconciler = reconcilers()
    async with reconciler.beside():
        async with asyncio.timeout(30):
            while not held.hits:
                await asyncio.sleep(0.01)
        reconciler.stop()
        await said(logs, "reconcile stopped")
    state = await ReconcileState.read(queue)
    assert (state.running, state.last) == (None, None)


async def test_a_stop_does_not_wait_for_a_redis_that_is_away(
    house: House, reconcilers: Callable[..., Reconciler], redis: RedisServer, logs: list[Any]
) -> None:
    held = hold(house)
    async with asyncio.timeout(30):
        with contextlib.suppress(ValueError):
            async with reconcilers(lease=60).beside():
                while not held.hits:
                    await asyncio.sleep(0.01)
                redis.kill()
                raise ValueError("whatever ends the process")
    assert await said(logs, "reconcile stopped")


def state(
    now: datetime, *, ended: datetime | None = None, error: str | None = None, rules: Any = None
) -> ReconcileState:
    """After a run of a minute, with some rules unless others are given."""
    if ended is None:
        return ReconcileState(now, None, None, None)
    started = ended - timedelta(minutes=1)
    result = ReconcileResult(started, ended, "h", Findings(error=error))
    return ReconcileState(now, started, result, None, rules=rules or {SOME.digest: ended})


def test_a_run_that_was_overdue_at_the_start_begins_within_half_a_minute_and_later_ones_are_spread_more() -> None:
    nothing: Any = None
    first, later = set(), set()
    for _ in range(200):
        reconciler = Reconciler(Every(86_400), SOME, nothing, nothing)
        first.add(reconciler._planned(Every(86_400), state(NOON)) - NOON)
        then = state(NOON + timedelta(minutes=2), ended=NOON + timedelta(minutes=2))
        later.add(reconciler._planned(Every(86_400), then) - NOON - timedelta(days=1, minutes=1))
    assert timedelta(0) <= min(first) < max(first) <= timedelta(seconds=30)
    assert timedelta(0) <= min(later) < timedelta(seconds=30) < max(later) <= timedelta(minutes=5)


def test_a_run_for_other_rules_that_failed_is_retried_as_any_other() -> None:
    nothing: Any = None
    reconciler, others = Reconciler(Every(86_400), SOME, nothing, nothing), {"other": NOON}
    assert reconciler._planned(Every(86_400), state(NOON, ended=NOON, rules=others)) <= NOON + timedelta(seconds=30)
    ended = NOON + timedelta(minutes=1)
    planned = reconciler._planned(Every(86_400), state(ended, ended=ended, error="down", rules=others))
    assert planned >= ended + timedelta(minutes=10)


def test_a_run_is_planned_once_and_again_when_one_has_ended_or_the_clock_was_set_back() -> None:
    nothing: Any = None
    reconciler = Reconciler(Every(3600), SOME, nothing, nothing)
    planned = reconciler._planned(Every(3600), state(NOON, ended=NOON))
    for minutes in (0, 1, 2, 70):
        assert reconciler._planned(Every(3600), state(NOON + timedelta(minutes=minutes), ended=NOON)) == planned
    ended = NOON + timedelta(minutes=71)
    assert reconciler._planned(Every(3600), state(ended, ended=ended)) >= planned + timedelta(minutes=50)
    # A year back.
    now = NOON - timedelta(days=365)
    assert reconciler._planned(Every(3600), state(now, ended=ended)) <= now + timedelta(minutes=70)


@pytest.mark.parametrize(
    ("schedule", "error", "due"),
    [
        (Every(86_400), None, NOON + timedelta(hours=23, minutes=59)),
        (Every(86_400), "down", NOON + timedelta(minutes=10)),
        (Every(300), "down", NOON + timedelta(minutes=5)),
        (Every(5), "down", NOON + timedelta(seconds=5)),
        (Every(5), None, NOON),
        (Cron("* * * * *"), None, NOON),
        (Cron("* * * * *"), "down", NOON + timedelta(minutes=1)),
        (Cron("0 0 1 1 *"), "down", NOON + timedelta(minutes=10)),
    ],
)
def test_a_run_that_failed_is_tried_again_some_minutes_after_its_end(
    schedule: Every | Cron, error: str | None, due: datetime
) -> None:
    assert next_run(schedule, state(NOON, ended=NOON, error=error)) == due
    assert next_run(schedule, state(NOON)) == NOON


@given(
    st.integers(1, 10**6).map(Every) | st.just(Cron("*/5 * * * *")),
    st.integers(-(10**7), 10**7),
    st.none() | st.just("down"),
)
def test_the_next_run_is_never_in_the_past_nor_far_away(
    schedule: Every | Cron, seconds: int, error: str | None
) -> None:
    due = next_run(schedule, state(NOON, ended=NOON + timedelta(seconds=seconds), error=error))
    assert due >= NOON
    assert due <= NOON + timedelta(seconds=schedule.seconds if isinstance(schedule, Every) else 300)

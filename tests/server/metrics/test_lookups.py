"""Gauges read from Redis at a scrape: right, bounded in time, and as cheap for a long queue as for a short one."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from replicator.errors import ErrorClass
from replicator.queue import (
    Findings,
    Job,
    Lane,
    PublicAnswer,
    PublicCopies,
    PublicCopy,
    Queue,
    Reconciles,
    ReconcileState,
    RetryPolicy,
    Selection,
    pause,
)
from replicator.queue.leaders import Sweeps
from replicator.queue.reconciles import RESULTS
from replicator.schedule import parse_schedule
from replicator.server.metrics import Metrics
from tests.queue.conftest import Recorder, eventually, working
from tests.queue.servers import CuttingProxy
from tests.queue.test_configurations import shown
from tests.queue.test_retrying import Fault
from tests.server.metrics.test_conventions import ACR, exposed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from replicator.rules import Rules
    from tests.queue.servers import RedisServer


async def put_off(queue: Queue, lane: Lane, id_: str, milliseconds: int) -> None:
    """Have a job in the queue since so long ago."""
    now = await queue.redis.time()
    due = now[0] * 1000 + now[1] // 1000 - milliseconds
    await queue.redis.zadd(queue.lane_queue(lane), {f"{queue.prefix}:{id_}": due})


async def test_jobs_are_counted_by_lane_and_state(metrics: Metrics, queue: Queue) -> None:
    handler = Recorder()
    handler.errors = [Fault(ErrorClass.TRANSIENT)]
    async with working(queue, handler, concurrency={Lane.EVENTS: 1}, policy=RetryPolicy(first=60, cap=60)):
        await queue.enqueue([Job("r.example/waits:1", {})], Lane.EVENTS)

        async def waits() -> bool:
            return (await queue.counts()).lanes[Lane.EVENTS].waiting == 1

        await eventually(waits)
        handler.gate.clear()
        await queue.enqueue([Job("r.example/runs:1", {})], Lane.EVENTS)
        await handler.started(2)
        await queue.enqueue([Job(f"r.example/queued:{n}", {}) for n in range(3)], Lane.EVENTS)
        await queue.enqueue([Job(f"r.example/later:{n}", {}) for n in range(5)], Lane.BACKFILL)
        found = await exposed(metrics)
        handler.gate.set()
    assert found.series("replicator_queue_jobs") == {
        ("events", "queued"): 3,
        ("events", "running"): 1,
        ("events", "waiting"): 1,
        ("events", "paused"): 0,
        ("backfill", "queued"): 5,
        ("backfill", "running"): 0,
        ("backfill", "waiting"): 0,
        ("backfill", "paused"): 0,
    }
    assert found.value("replicator_queue_up") == 1


async def test_the_oldest_is_the_longest_due_job_that_has_not_started(metrics: Metrics, queue: Queue) -> None:
    assert set((await exposed(metrics)).series("replicator_queue_oldest_seconds").values()) == {0}
    await put_off(queue, Lane.EVENTS, "r.example/later:1", -60_000)
    assert set((await exposed(metrics)).series("replicator_queue_oldest_seconds").values()) == {0}
    await queue.enqueue([Job(f"r.example/a:{n}", {}) for n in range(3)], Lane.EVENTS)
    await put_off(queue, Lane.EVENTS, "r.example/a:1", 3_600_000)
    await put_off(queue, Lane.EVENTS, "r.example/a:2", -60_000)
    found = (await exposed(metrics)).series("replicator_queue_oldest_seconds")
    assert 3600 <= found["events",] < 3700
    assert found["backfill",] == 0
    # It is begun: the next one is the oldest.
    _, claim = await queue.run_script("claim", Lane.EVENTS, 1, "w:1", "w", 30_000, 0, 0)
    assert claim[0] == b"r.example/a:1"
    assert 0 <= (await exposed(metrics)).value("replicator_queue_oldest_seconds", lane="events") < 100


async def test_what_waits_is_shown_by_destination_from_the_push_until_it_arrives(
    metrics: Metrics, queue: Queue
) -> None:
    pushed = datetime.now(UTC) - timedelta(hours=1)
    ids = [f"{ACR}/team/a:1", f"{ACR}/team/b:1", "unknown.example.com/a:1"]
    await queue.enqueue([Job(id_, {}, pushed=pushed) for id_ in ids], Lane.EVENTS)
    await queue.enqueue([Job(f"{ACR}/team/c:1", {})], Lane.BACKFILL)

    async def shown() -> tuple[Mapping[tuple[str, ...], float], float]:
        found = await exposed(metrics)
        waits = found.series("replicator_queue_oldest_wait_seconds")
        assert set(waits) == {(ACR, "events"), (ACR, "backfill")}
        return found.counted("replicator_queue_pending_jobs"), waits[ACR, "events"]

    jobs, wait = await shown()
    assert jobs == {(ACR, "events"): 2, ("other", "events"): 1, (ACR, "backfill"): 1}
    assert 3600 <= wait < 3700
    # It runs, fails, runs again: the push has not arrived.
    handler = Recorder()
    handler.errors = [Fault(ErrorClass.TRANSIENT)]
    handler.gate.clear()
    async with working(queue, handler):
        await handler.started(4)
        assert (await shown())[1] >= 3600
        handler.gate.set()

        async def arrived() -> bool:
            return not (await shown())[0]

        await eventually(arrived)
        assert (await shown())[1] == 0


async def test_jobs_that_another_version_has_queued_or_ended_are_counted_right(
    metrics: Metrics, queue: Queue, prefix: str
) -> None:
    ids, key = [f"{ACR}/team/a:{n}" for n in range(50)], f"{prefix}:pending:events:{ACR}"
    await queue.enqueue([Job(id_, {}) for id_ in ids], Lane.EVENTS)
    await queue.redis.delete(key)
    assert await queue.run_script("sweep", "gone", *ids) == []
    found = await exposed(metrics)
    assert found.value("replicator_queue_pending_jobs", destination_host=ACR) == 50
    await queue.redis.zadd(key, {f"{ACR}/team/ended:1": 1, f"{ACR}/team/ended:2": 9e15})
    found = await exposed(metrics)
    assert found.value("replicator_queue_pending_jobs", destination_host=ACR) == 50
    assert found.value("replicator_queue_oldest_wait_seconds", destination_host=ACR) < 1000


async def test_pauses_are_counted_and_whole_lanes_are_told_apart(metrics: Metrics, queue: Queue) -> None:
    assert (await exposed(metrics)).value("replicator_queue_pauses") == 0
    await queue.enqueue([Job("r.example/a:1", {}), Job("r.example/b:1", {})], Lane.EVENTS)
    await pause(queue, [Selection(destination="a"), Selection(lane=Lane.BACKFILL)], by="me")
    await queue.run_script("claim", Lane.EVENTS, 1, "w:1", "w", 30_000, 0, 0)
    found = await exposed(metrics)
    assert found.value("replicator_queue_pauses") == 2
    assert found.series("replicator_queue_lane_paused") == {("events",): 0, ("backfill",): 1}
    assert found.series("replicator_queue_jobs")["events", "paused"] == 1


async def commands(queue: Queue) -> dict[str, int]:
    """The commands that the server has run so far, those within scripts too."""
    stats: dict[str, Any] = await queue.redis.info("commandstats")
    return {name: entry["calls"] for name, entry in stats.items()}


async def spent(metrics: Metrics, queue: Queue) -> dict[str, int]:
    """The commands that one scrape costs."""
    await metrics.expose("")
    before = await commands(queue)
    await metrics.expose("")
    after = await commands(queue)
    counts = {name: number - before.get(name, 0) for name, number in after.items()}
    return {name: number for name, number in counts.items() if number and name != "cmdstat_info"}


@pytest.mark.scale
async def test_a_scrape_costs_the_same_for_ten_jobs_and_for_a_hundred_thousand(metrics: Metrics, queue: Queue) -> None:
    await queue.enqueue([Job(f"{ACR}/a:{n}", {}) for n in range(10)], Lane.BACKFILL)
    few = await spent(metrics, queue)
    await queue.enqueue([Job(f"{ACR}/b:{n}", {}) for n in range(100_000)], Lane.BACKFILL)
    many = await spent(metrics, queue)
    assert (await exposed(metrics)).value("replicator_queue_jobs", lane="backfill", state="queued") == 100_010
    assert many == few
    assert sum(few.values()) <= 50
    # Each of these takes as long as what it goes through is.
    assert not {"cmdstat_scan", "cmdstat_hscan", "cmdstat_keys", "cmdstat_zrangebyscore"} & set(few)


async def test_simultaneous_scrapes_read_redis_once_or_twice(metrics: Metrics, queue: Queue) -> None:
    await metrics.expose("")
    before = (await commands(queue)).get("cmdstat_evalsha", 0)
    await asyncio.gather(*(metrics.expose("") for _ in range(100)))
    looks = (await commands(queue))["cmdstat_evalsha"] - before
    assert looks <= 18, "nine scripts a look"


@pytest.mark.parametrize("fault", ["refusing", "mute"])
async def test_a_redis_that_is_down_or_silent_is_shown_and_all_else_is_served(
    rules: Rules, queue: Queue, server: RedisServer, short_dir: Path, fault: str
) -> None:
    async with (
        CuttingProxy(short_dir / f"{fault}.sock", server.socket) as proxy,
        await Queue.connect(proxy.url, prefix=queue.prefix) as own,
    ):
        metrics = Metrics(rules, own, None)
        assert (await exposed(metrics)).value("replicator_queue_up") == 1
        if fault == "mute":
            proxy.mute_answers = True
        else:
            proxy.refusing = True
            proxy.cut()
        async with asyncio.timeout(8):
            found = await exposed(metrics)
        assert found.series("replicator_queue_up") == {(): 0}
        assert found.series("replicator_queue_jobs") == {}
        assert found.value("process_resident_memory_bytes") > 0
        proxy.refusing = proxy.mute_answers = False
        proxy.cut()

        async def back() -> bool:
            return (await exposed(metrics)).value("replicator_queue_up") == 1

        await eventually(back)


async def test_a_harbor_whose_webhooks_are_switched_off_is_shown_as_long_as_sweeps_read_it(
    metrics: Metrics, queue: Queue
) -> None:
    assert (await exposed(metrics)).series("replicator_harbor_webhooks_enabled") == {}
    sweeps = Sweeps(queue, lease=30)
    await sweeps.begin()
    # Rules name one of them no more; those count together.
    for off, both in ((False, 1), (True, 0)):
        secrets = {"harbor.example.com": 9e9, "gone.example.com": 8e9, "left.example.com": 7e9}
        webhooks = {"harbor.example.com": not off, "gone.example.com": True, "left.example.com": not off}
        await sweeps.end("", webhooks, secrets)
        secrets_found = (await exposed(metrics)).series("replicator_harbor_secret_expiry_timestamp_seconds")
        assert secrets_found == {("harbor.example.com",): 9e9, ("other",): 7e9}
        found = (await exposed(metrics)).series("replicator_harbor_webhooks_enabled")
        assert found == {("harbor.example.com",): both, ("other",): both}
    await queue.redis.delete(f"{queue.prefix}:sweep:webhooks")
    assert (await exposed(metrics)).series("replicator_harbor_webhooks_enabled") == {}


async def test_processes_with_different_rules_are_shown_with_the_time_since_they_differ(
    metrics: Metrics, queue: Queue
) -> None:
    assert (await exposed(metrics)).value("replicator_rules_differ_seconds") == 0
    redis: Any = queue.redis
    async with shown(queue, "1" * 32), shown(queue, "2" * 32):
        for name, record in (await redis.hgetall(f"{queue.prefix}:processes")).items():
            process = json.loads(record)
            # As it would be kept by the signs of life that follow.
            longer = json.dumps(process | {"rules_since": process["seen"] - 400_000})
            await redis.hset(f"{queue.prefix}:processes", name, longer)
        assert 400 <= (await exposed(metrics)).value("replicator_rules_differ_seconds") < 1000
    assert (await exposed(metrics)).value("replicator_rules_differ_seconds") == 0


async def test_repositories_that_are_public_are_counted_once_each(metrics: Metrics, queue: Queue) -> None:
    assert (await exposed(metrics)).value("replicator_public_repositories") == 0
    async with aclosing(PublicCopies(queue, deadline=30)) as copies:
        for source, tag in (("a/x", "v1"), ("a/y", "v1"), ("a/z", "v2")):
            destination = f"acr.example:5000/{'one' if tag == 'v1' else 'two'}/x:{tag}"
            assert await copies.begin(source) is None
            assert await copies.end(source, PublicAnswer.PUBLIC, PublicCopy(f"h.example/{source}:v1", destination))
    assert (await exposed(metrics)).value("replicator_public_repositories") == 2


async def test_a_record_in_redis_that_can_not_be_read_does_not_stop_the_scrape(metrics: Metrics, queue: Queue) -> None:
    await queue.redis.set(f"{queue.prefix}:reconcile:lease", "no JSON")
    found = await exposed(metrics)
    assert found.value("replicator_queue_up") == 0
    assert found.value("replicator_build_info") == 1


async def reconcile(queue: Queue, found: Findings) -> None:
    state = await ReconcileState.read(queue)
    lease = await Reconciles(queue).begin(state.last_started)
    assert lease is not None
    assert await lease.end(found) is not None


async def test_before_the_first_reconcile_its_metrics_are_zero(metrics: Metrics) -> None:
    found = await exposed(metrics)
    for name in ("last_success_timestamp_seconds", "drift_images", "failed", "overdue_seconds"):
        assert found.series(f"replicator_reconcile_{name}") == {(): 0}


async def test_a_failed_reconcile_keeps_the_time_of_the_last_success(metrics: Metrics, queue: Queue) -> None:
    began = datetime.now(UTC).timestamp()
    await reconcile(queue, Findings(listed=10, drift=3, stale=2, lost=4))
    good = await exposed(metrics)
    ended = good.value("replicator_reconcile_last_success_timestamp_seconds")
    assert began - 1 <= ended <= datetime.now(UTC).timestamp() + 1
    assert good.value("replicator_reconcile_drift_images") == 3
    assert good.value("replicator_reconcile_stale_images") == 2
    assert good.value("replicator_reconcile_lost_images") == 4
    assert good.value("replicator_reconcile_failed") == 0
    await asyncio.sleep(0.005)  # the next one needs another time by Redis's clock
    await reconcile(queue, Findings(error="nothing could be listed"))
    bad = await exposed(metrics)
    assert bad.value("replicator_reconcile_last_success_timestamp_seconds") == ended
    assert bad.value("replicator_reconcile_drift_images") == 0
    assert bad.value("replicator_reconcile_failed") == 1


async def test_an_incomplete_reconcile_is_no_success_and_its_numbers_are_shown(metrics: Metrics, queue: Queue) -> None:
    found = Findings(listed=21, up_to_date=1, drift=2, pending=3, skipped=4, failed=5, held=6, unlisted=7)
    await reconcile(queue, found)
    seen = await exposed(metrics)
    assert seen.value("replicator_reconcile_last_success_timestamp_seconds") == 0
    images = seen.series("replicator_reconcile_images")
    assert images == {(name,): getattr(found, name) for name in RESULTS}
    assert sum(images.values()) == found.listed
    assert seen.value("replicator_reconcile_unlisted_sources") == 7
    assert seen.value("replicator_reconcile_failed") == 0


async def test_a_success_noted_by_an_older_version_counts(metrics: Metrics, queue: Queue) -> None:
    await reconcile(queue, Findings(drift=1))
    noted = (await exposed(metrics)).value("replicator_reconcile_last_success_timestamp_seconds")
    await queue.redis.execute_command("HDEL", f"{queue.prefix}:reconcile", "succeeded")
    assert (await exposed(metrics)).value("replicator_reconcile_last_success_timestamp_seconds") == noted


async def test_a_reconcile_that_no_process_starts_is_overdue_until_one_does(rules: Rules, queue: Queue) -> None:
    metrics = Metrics(rules, queue, parse_schedule("1h"))
    await reconcile(queue, Findings())
    assert (await exposed(metrics)).value("replicator_reconcile_overdue_seconds") == 0
    hours_ago = int((datetime.now(UTC) - timedelta(hours=3)).timestamp() * 1000)
    await queue.redis.execute_command("HSET", f"{queue.prefix}:reconcile", "started", hours_ago)
    late = (await exposed(metrics)).value("replicator_reconcile_overdue_seconds")
    assert 7200 - 60 < late < 7200 + 60
    state = await ReconcileState.read(queue)
    assert await Reconciles(queue).begin(state.last_started) is not None
    assert (await exposed(metrics)).value("replicator_reconcile_overdue_seconds") == 0


async def test_without_a_schedule_none_is_overdue(metrics: Metrics, queue: Queue) -> None:
    await reconcile(queue, Findings())
    await queue.redis.execute_command("HSET", f"{queue.prefix}:reconcile", "started", 1000)
    assert (await exposed(metrics)).value("replicator_reconcile_overdue_seconds") == 0

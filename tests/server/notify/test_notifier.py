"""Notifications end to end: from the queue to the receivers, over several processes, restarts and faults."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from replicator.queue import (
    DeadLetters,
    Findings,
    Job,
    Lane,
    LoadedConfig,
    Queue,
    QueueUnavailable,
    Reconciles,
    ReconcileState,
)
from replicator.receivers import parse_receivers
from replicator.server.notify import Notifier
from replicator.server.notify.message import NotifyTiming
from replicator.server.notify.sending import MAX_PENDING, Sender, open_messenger
from tests.queue.servers import CuttingProxy
from tests.queue.test_notices import bury
from tests.server.notify.conftest import ORIGIN, message
from tests.standins.chats import SECRETS, answering, stalling

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from aiohttp.web import BaseRequest, StreamResponse

    from tests.queue.servers import RedisServer
    from tests.standins.chats import Chats

QUICK = NotifyTiming(gather=0, pause=0)
REFUSED = "replicator: the configuration has an error; 1 process does not use the changed files"
RECOVERED = "replicator: recovered: no dead letters left"
DEAD = "replicator: 1 copy failed and is not retried automatically"


class Process:
    """One process's notifier, which looks when it is told to, and the problem with its configuration."""

    def __init__(self, queue: Queue, sender: Sender, timing: NotifyTiming, lease: float) -> None:
        self.problem: str | None = None
        self.notifier = Notifier(
            queue, sender, lambda: LoadedConfig(0.0, self.problem), timing=timing, interval=0.02, lease=lease
        )

    async def look(self, times: int = 1) -> None:
        for _ in range(times):
            await self.notifier.step()


@asynccontextmanager
async def process(
    queue: Queue,
    addresses: str,
    timing: NotifyTiming = QUICK,
    *,
    lease: float = 60,
    seconds: float = 10,
    **more: Any,
) -> AsyncIterator[Process]:
    async with open_messenger(ORIGIN, seconds) as messenger:
        yield Process(queue, Sender(parse_receivers(addresses), messenger, **{"first": 0.0, **more}), timing, lease)


def titles(robots: Chats) -> list[str]:
    return [str(each["title"] if isinstance(each, dict) else each.split("\n")[0]) for each in robots.taken]


async def lapsed(queue: Queue) -> None:
    """Let the lease of a process that was killed expire."""
    assert await queue.redis.delete(f"{queue.prefix}:notices:lease") == 1


async def test_every_receiver_is_notified_in_its_format_and_no_secret_is_logged(queue: Queue, robots: Chats) -> None:
    await bury(queue, "acr/<@U1>:v1")
    with capture_logs() as lines:
        async with process(queue, robots.all) as one:
            await one.look()
            await one.look()
    assert titles(robots) == [DEAD] * 5
    for text in robots.taken:
        assert "denied: acr/" in str(text)
    assert [line["event"] for line in lines] == ["notification sent"] * 5
    assert not [secret for secret in SECRETS if secret in str(lines)]


async def test_a_full_disk_of_the_queue_is_told_though_the_queue_is_down(queue: Queue, robots: Chats) -> None:
    async def down() -> None:
        raise QueueUnavailable(queue.fault())

    queue.fault = lambda: "STATE_DIR is full: 0 bytes free; free some space in /state"
    async with process(queue, robots.plain) as one:
        step, one.notifier.step = one.notifier.step, down  # type: ignore[method-assign]  # the queue is down
        async with one.notifier.beside(), asyncio.timeout(10):
            while not robots.taken:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
            assert titles(robots) == ["replicator: STATE_DIR is full: 0 bytes free"]
            one.notifier.step = step  # type: ignore[method-assign]  # it is back
            while len(robots.taken) < 2:
                await asyncio.sleep(0.01)
    assert titles(robots)[1:] == ["replicator: recovered: the queue takes events again"]


async def test_one_of_several_processes_sends(queue: Queue, robots: Chats) -> None:
    await bury(queue, "a", "b", "c")
    async with AsyncExitStack() as stack:
        several = [await stack.enter_async_context(process(queue, robots.plain)) for _ in range(5)]
        await asyncio.gather(*(each.look(5) for each in several))
    assert titles(robots) == ["replicator: 3 copies failed and are not retried automatically"]


async def test_a_restart_does_not_repeat_and_does_not_forget(queue: Queue, robots: Chats) -> None:
    await bury(queue, "a")
    for _ in range(4):
        async with process(queue, robots.plain) as one:
            await one.look(2)
        await lapsed(queue)
    assert titles(robots) == [DEAD]
    await DeadLetters(queue).drop()
    async with process(queue, robots.plain) as last:
        await last.look()
    assert titles(robots)[1:] == [RECOVERED]


async def test_a_process_that_stops_releases_its_lease_at_once(queue: Queue, robots: Chats) -> None:
    async with process(queue, robots.plain) as one, one.notifier.beside(), asyncio.timeout(10):
        while not await queue.redis.exists(f"{queue.prefix}:notices:lease"):
            await asyncio.sleep(0.01)
    await bury(queue, "a")
    async with process(queue, robots.plain) as two:
        await two.look()
    assert len(robots.taken) == 1


async def test_an_unavailable_receiver_is_retried_and_gets_all_messages_in_order(queue: Queue, robots: Chats) -> None:
    await bury(queue, "a")
    async with process(queue, robots.plain) as one:
        robots.faults = [answering(503), answering(429), answering(500)]
        await one.look()
        await DeadLetters(queue).drop()
        await one.look(2)
        assert robots.taken == []
    # Another process goes on.
    await lapsed(queue)
    async with process(queue, robots.plain) as two:
        await two.look(3)
    assert titles(robots) == [
        DEAD,
        RECOVERED,
    ]


async def test_a_slow_receiver_does_not_delay_the_others(queue: Queue, robots: Chats) -> None:
    await bury(queue, "a")
    robots.faults = [stalling]
    async with process(queue, f"{robots.slack} {robots.plain}", seconds=0.5) as one:
        await one.look()
        assert len(robots.taken) == 1
        await one.look()
    assert len(robots.taken) == 2


async def test_a_message_that_no_receiver_accepts_is_dropped_with_a_log_line(queue: Queue, robots: Chats) -> None:
    await bury(queue, "a")
    robots.faults = [answering(503)] * 100
    with capture_logs() as lines:
        async with process(queue, robots.plain, patience=0.0) as one:
            await one.look(3)
    (dropped,) = [line for line in lines if line["event"] == "notification dropped"]
    assert dropped["log_level"] == "error"
    assert (dropped["receiver"], dropped["title"]) == (
        robots.host,
        DEAD,
    )
    assert dropped["reason"] == "503: temporarily unavailable"
    assert len(robots.requests) == 1


async def test_a_refused_message_is_not_retried(queue: Queue, robots: Chats) -> None:
    await bury(queue, "a")
    with capture_logs() as lines:
        async with process(queue, f"{robots.dingtalk}x {robots.plain}") as one:
            await one.look(3)
    (dropped,) = [line for line in lines if line["event"] == "notification dropped"]
    assert "secret after #" in dropped["reason"]
    assert not [secret for secret in SECRETS if secret in str(lines)]
    assert len(robots.requests) == 2


async def test_pending_messages_are_bounded_and_the_oldest_are_dropped(robots: Chats) -> None:
    async with open_messenger(ORIGIN) as messenger:
        sender = Sender(parse_receivers(robots.plain), messenger)
        with capture_logs() as lines:
            pending = sender.with_new((), [message(("a", str(number))) for number in range(MAX_PENDING + 3)], 0)
    assert len(pending) == MAX_PENDING
    assert pending[0].message.examples[0].reason == "3"
    assert [line["reason"] for line in lines] == ["too many are waiting"] * 3


async def test_pauses_between_attempts_double_up_to_a_maximum(robots: Chats) -> None:
    robots.faults = [answering(503)] * 30
    async with open_messenger(ORIGIN) as messenger:
        sender = Sender(parse_receivers(robots.plain), messenger, patience=3600, first=5.0)
        now, pauses = 1_000_000, []
        pending = sender.with_new((), [message(("a", "b"))], now)
        while pending:
            assert await sender.send(pending, pending[0].due - 1) == pending
            now = max(now, pending[0].due)
            pending = await sender.send(pending, now)
            pauses += [(each.due - now) / 1000 for each in pending]
    assert pauses[:7] == [5, 10, 20, 40, 80, 160, 300]
    assert set(pauses[6:]) == {300}
    assert sum(pauses) < 3600


async def test_a_removed_receiver_gets_no_pending_messages(queue: Queue, robots: Chats) -> None:
    await bury(queue, "a")
    robots.faults = [answering(503)]
    async with process(queue, robots.plain) as one:
        await one.look()
    await lapsed(queue)
    async with process(queue, robots.slack) as two:
        await two.look(3)
    assert robots.taken == []


async def test_a_refused_configuration_of_any_process_is_reported_by_the_leader(queue: Queue, robots: Chats) -> None:
    async with process(queue, robots.plain) as one, process(queue, robots.plain) as two:
        await one.look()
        two.problem = "rules.yaml: 1 problem(s)\n  images: no such key"
        await two.look()
        await one.look(2)
        assert titles(robots) == [REFUSED]
        assert robots.taken[0]["examples"][0]["reason"] == "rules.yaml: 1 problem(s): images: no such key"
        two.problem = None
        await two.look()
        await one.look(2)
    assert titles(robots)[1:] == ["replicator: recovered: the current configuration is in use everywhere"]


async def test_copies_that_no_worker_starts_are_reported(queue: Queue, robots: Chats) -> None:
    await queue.enqueue([Job("a", {})], Lane.BACKFILL)
    async with process(queue, robots.plain, NotifyTiming(late=0.001, gather=0, pause=0)) as one:
        await asyncio.sleep(0.01)
        await one.look()
        assert robots.taken == [], "a backfill may take its time"
        await queue.enqueue([Job("b", {})], Lane.EVENTS)
        await asyncio.sleep(0.01)
        await one.look()
    assert robots.taken[0]["occasion"] == "lag"
    assert robots.taken[0]["advice"][0].startswith("No worker is running")


async def test_the_result_of_a_reconcile_is_reported(queue: Queue, robots: Chats) -> None:
    async def reconcile(findings: Findings) -> None:
        lease = await Reconciles(queue).begin((await ReconcileState.read(queue)).last_started)
        assert lease is not None
        await lease.end(findings)
        await asyncio.sleep(0.002)

    async with process(queue, robots.plain) as one:
        for findings in (Findings(listed=9, drift=3), Findings(error="no connection"), Findings(listed=9)):
            await reconcile(findings)
            await one.look(2)
    assert titles(robots) == [
        "replicator: the reconcile found drift: 3 images were out of date without a webhook event",
        "replicator: the reconcile failed",
        "replicator: recovered: the last reconcile compared everything",
    ]


async def test_an_outage_of_redis_during_a_request_causes_no_second_message(
    server: RedisServer, short_dir: Path, prefix: str, robots: Chats
) -> None:
    async with (
        CuttingProxy(short_dir / f"{prefix}.sock", server.socket) as proxy,
        await Queue.connect(proxy.url, prefix=prefix, deadline=0.5) as queue,
        process(queue, robots.plain) as one,
    ):
        await bury(queue, "a")

        async def cut(request: BaseRequest) -> StreamResponse:
            proxy.refusing = True
            proxy.cut()
            return await answering(204)(request)

        robots.faults = [cut]
        with pytest.raises(QueueUnavailable):
            await one.look()
        proxy.refusing = False
        await one.look(3)
    assert len(robots.requests) == 1


async def test_an_outage_of_redis_is_logged_once_and_survived(own_server: RedisServer, robots: Chats) -> None:
    async with await Queue.connect(own_server.url, deadline=0.3) as queue:
        await bury(queue, "a")
        own_server.kill()
        with capture_logs() as lines:
            async with process(queue, robots.plain) as one, one.notifier.beside():
                async with asyncio.timeout(20):
                    while not lines:
                        await asyncio.sleep(0.01)
                    own_server.start()
                await robots.until(1)
    away = [line for line in lines if line["event"] == "queue unavailable"]
    assert [line["waiting_for"] for line in away] == ["notifications"]
    assert titles(robots) == [DEAD]


async def test_a_bug_in_it_stops_nothing_and_logs_no_secret(queue: Queue, robots: Chats) -> None:
    # Not what this program writes there.
    await queue.redis.set(f"{queue.prefix}:reconcile", "")
    with capture_logs() as lines:
        async with process(queue, robots.all) as one, one.notifier.beside(), asyncio.timeout(10):
            while not lines:
                await asyncio.sleep(0.01)
    assert not [secret for secret in SECRETS if secret in str(lines)]

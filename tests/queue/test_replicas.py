"""What was accepted is held by a replica of Redis, so that a failover does not lose it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from redis.exceptions import NoPermissionError, ResponseError

from replicator.errors import ReplicatorError
from replicator.queue import DeadLetters, Job, Lane, Queue, QueueUnavailable, Running, scripts
from tests.queue.conftest import Recorder, accepted, command, eventually, idle, working
from tests.queue.servers import CuttingProxy, RedisServer, Replicated, ask, free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

A, B = "r.example/a:1", "r.example/b:1"


@pytest.fixture(scope="module")
def pair(short_dir: Path) -> Iterator[Replicated]:
    with Replicated(short_dir / "pair") as servers:
        yield servers


@pytest.fixture
async def client(pair: Replicated, prefix: str) -> AsyncIterator[Queue]:
    async with await Queue.connect(pair.master.url, prefix=prefix, deadline=1.0) as queue:
        yield queue
        pair.replicas[0].send_signal(signal.SIGCONT)
        await eventually(lambda: has_replica(queue))


async def has_replica(queue: Queue) -> bool:
    return bool(await command(queue, "WAIT", 1, 1000))


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replicas are looked for at every step, and missed after a moment."""
    monkeypatch.setattr(scripts, "_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(scripts, "ABSENT_SECONDS", 0.3)


async def test_an_event_is_accepted_once_a_replica_holds_it(client: Queue, pair: Replicated) -> None:
    await client.enqueue([Job(A, {})], Lane.EVENTS)
    assert A in ask(pair.replicas[0], f"HGETALL {client.prefix}:gen")
    pair.replicas[0].send_signal(signal.SIGSTOP)
    with pytest.raises(QueueUnavailable, match="0 of 1 replicas"):
        await client.enqueue([Job(B, {})], Lane.EVENTS)
    pair.replicas[0].send_signal(signal.SIGCONT)
    # A replica that was stopped, on a busy machine, may need more than one deadline.
    await eventually(lambda: accepted(client, B))
    assert B in ask(pair.replicas[0], f"HGETALL {client.prefix}:gen")


async def test_a_copy_begins_and_a_tag_is_written_only_if_a_replica_knows_whose_it_is(
    client: Queue, pair: Replicated
) -> None:
    stalled, resumed = asyncio.Event(), asyncio.Event()
    began, written = asyncio.Event(), asyncio.Event()

    async def handler(running: Running) -> dict[str, str]:
        began.set()
        await stalled.wait()
        await running.confirm()
        running.answered()
        assert resumed.is_set()
        # The end of a copy needs no replica.
        pair.replicas[0].send_signal(signal.SIGSTOP)
        written.set()
        return {}

    replica = pair.replicas[0]
    await client.enqueue([Job(A, {})], Lane.EVENTS)
    replica.send_signal(signal.SIGSTOP)
    async with working(client, handler, lease=30):
        # It has asked for work, but must not begin: another worker may be given the same job after a failover.
        await eventually(lambda: is_running(client))
        await asyncio.sleep(0.5)
        assert not began.is_set()
        replica.send_signal(signal.SIGCONT)
        async with asyncio.timeout(20):
            await began.wait()
        replica.send_signal(signal.SIGSTOP)
        stalled.set()
        await asyncio.sleep(0.5)
        resumed.set()
        replica.send_signal(signal.SIGCONT)
        async with asyncio.timeout(20):
            await written.wait()
        await idle(client)


async def test_a_dead_letter_is_queued_again_once_a_replica_knows_it(client: Queue, pair: Replicated) -> None:
    async def refuse(_: Running) -> dict[str, str]:
        raise ReplicatorError("no")

    await eventually(lambda: accepted(client, A))
    async with working(client, refuse):
        await eventually(lambda: has_died(client))
    pair.replicas[0].send_signal(signal.SIGSTOP)
    # The client repeats the step, which is done by then at the master.
    with pytest.raises(QueueUnavailable):
        await DeadLetters(client).retry([A])
    pair.replicas[0].send_signal(signal.SIGCONT)
    await eventually(lambda: accepted(client, B))
    assert A in ask(pair.replicas[0], f"HGETALL {client.prefix}:gen")


async def has_died(queue: Queue) -> bool:
    return (await queue.counts()).dead == 1


async def is_running(queue: Queue) -> bool:
    return (await queue.counts()).lanes[Lane.EVENTS].running == 1


async def test_what_was_accepted_survives_the_death_of_a_master_whose_replica_had_stalled(short_dir: Path) -> None:
    accepted_ids: set[str] = set()
    line, refused = free_port(), asyncio.Event()
    servers = Replicated(short_dir / "death", through=line)

    async def send(queue: Queue, sender: int) -> None:
        for number in range(10_000):
            job_id = f"r.example/{sender}:{number}"
            try:
                await queue.enqueue([Job(job_id, {})], Lane.EVENTS)
            except QueueUnavailable:
                refused.set()
                return
            accepted_ids.add(job_id)

    async with CuttingProxy(line, servers.master.socket) as link:
        try:
            await asyncio.to_thread(servers.__enter__)
            async with await Queue.connect(servers.master.url, deadline=1.0) as queue, asyncio.timeout(60):
                senders = [asyncio.create_task(send(queue, number)) for number in range(8)]
                while len(accepted_ids) < 200:
                    await asyncio.sleep(0.01)
                link.mute()  # what the master sends from now on never arrives
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        await refused.wait()
                servers.master.kill()
                await asyncio.gather(*senders)
            servers.promote()
            async with await Queue.connect(servers.replicas[0].url) as queue:
                known = {job_id async for batch in queue.scan_hash("gen") for job_id in batch}
        finally:
            servers.__exit__()
    assert accepted_ids - known == set()


async def test_without_replicas_nobody_is_waited_for(queue: Queue) -> None:
    with structlog.testing.capture_logs() as logs:
        await queue.enqueue([Job(A, {})], Lane.EVENTS)
    assert (queue.replicas.awaited, queue.replicas.problem, logs) == (0, "", [])


@pytest.mark.usefixtures("quick_looks")
async def test_a_replica_that_stays_away_is_not_waited_for_any_longer_and_that_is_said(
    short_dir: Path, handler: Recorder
) -> None:
    with Replicated(short_dir / "away") as servers, structlog.testing.capture_logs() as logs:
        async with await Queue.connect(servers.master.url, deadline=1.0) as queue:
            await queue.enqueue([Job(A, {})], Lane.EVENTS)
            assert queue.replicas.awaited == 1
            servers.replicas[0].kill()
            await eventually(lambda: accepted(queue, B))
            assert queue.replicas.awaited == 0
            async with working(queue, handler):
                await handler.started(2)
            servers.replicas[0].start()
            await eventually(lambda: awaits_again(queue), timeout=20)
    said = [(line["event"], line.get("reason")) for line in logs if line["event"].startswith("replicas")]
    assert said == [
        ("replicas awaited", None),
        ("replicas not awaited", "no replica was connected for 0.3 s"),
        ("replicas awaited", None),
    ]


class Answering:
    """A Redis as it looks to who asks for its replicas."""

    def __init__(self, *, info: bool) -> None:
        self.replicas = 1
        self.refuses = False
        self._info = info

    async def info(self, section: str) -> dict[str, Any]:
        assert section == "replication"
        if not self._info:
            raise NoPermissionError("this user has no permissions to run the 'info' command")
        return {"role": "master", "connected_slaves": self.replicas}

    async def execute_command(self, *command: Any) -> int:
        assert command[0] == "WAIT"
        if self.refuses:
            raise ResponseError("unknown command 'WAIT'")
        return self.replicas


@pytest.mark.parametrize("info", [True, False], ids=["INFO", "WAIT"])
async def test_the_minute_without_a_replica_begins_with_the_first_look_that_finds_none(
    monkeypatch: pytest.MonkeyPatch, info: bool
) -> None:
    now = 1000.0
    clock, redis = SimpleNamespace(monotonic=lambda: now), Answering(info=info)
    monkeypatch.setattr(scripts, "time", clock)
    replicas = scripts.Replicas(redis, wanted=None, deadline=1, expected=False)  # type: ignore[arg-type]  # what it needs
    await replicas.look()
    # A night without any event, and so without a look; then one comes while the replica restarts.
    now, redis.replicas = 50_000.0, 0
    assert await replicas.needed() == 1
    now += scripts.ABSENT_SECONDS - 1
    await replicas.look()
    assert replicas.awaited == 1
    now += 1
    await replicas.look()
    assert (replicas.awaited, replicas.problem) == (0, "no replica was connected for 60 s")
    redis.replicas = 1
    await replicas.look()
    assert (replicas.awaited, replicas.problem) == (1, "")


@pytest.mark.parametrize(
    ("listed", "awaited"),
    [({}, 1), ({"slave0": {"state": "online"}}, 1), ({"slave0": {"state": "wait_bgsave"}}, 0)],
    ids=["not listed", "online", "in its first sync"],
)
async def test_a_replica_that_does_not_follow_yet_is_not_waited_for(listed: dict[str, Any], awaited: int) -> None:
    replicas = scripts.Replicas(Answering(info=True), wanted=None, deadline=1, expected=False)  # type: ignore[arg-type]  # what it needs
    await replicas.look({"role": "master", "connected_slaves": 1, **listed})
    assert replicas.awaited == awaited


async def test_wait_is_tried_again_where_it_was_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    clock, redis = SimpleNamespace(monotonic=lambda: now), Answering(info=True)
    monkeypatch.setattr(scripts, "time", clock)
    replicas = scripts.Replicas(redis, wanted=None, deadline=1, expected=False)  # type: ignore[arg-type]  # what it needs
    redis.refuses = True
    assert await replicas.needed() == 1
    with structlog.testing.capture_logs() as logs:
        replicas.judge(ResponseError("unknown command 'WAIT'"), 1)
        for _ in range(3):
            now += 60
            assert await replicas.needed() == 0
        redis.refuses = False
        now += 60
        assert (await replicas.needed(), replicas.problem) == (1, "")
    assert [line["event"] for line in logs] == ["replicas not awaited", "replicas awaited"]


async def awaits_again(queue: Queue) -> bool:
    return await accepted(queue, A) and queue.replicas.awaited == 1


@pytest.mark.usefixtures("quick_looks")
async def test_a_number_of_replicas_that_was_set_by_hand_is_kept_to(server: RedisServer, prefix: str) -> None:
    async with await Queue.connect(server.url, prefix=prefix, replicas=2) as strict:
        await asyncio.sleep(scripts.ABSENT_SECONDS)
        with pytest.raises(QueueUnavailable):
            await strict.enqueue([Job(A, {})], Lane.EVENTS)
    assert strict.replicas.awaited == 2


@pytest.mark.parametrize("rights", ["+@all", "+@all -info"])
async def test_replicas_are_found_whether_info_is_allowed_or_not(pair: Replicated, prefix: str, rights: str) -> None:
    ask(pair.master, f"ACL SETUSER r on >pw ~* &* resetchannels {rights}")
    async with await Queue.connect(f"redis://r:pw@127.0.0.1:{pair.port}", prefix=prefix) as queue:
        await queue.enqueue([Job(A, {})], Lane.EVENTS)
        assert queue.replicas.awaited == 1


@pytest.mark.parametrize("rights", ["-wait", "-wait -info"])
async def test_where_wait_is_refused_nobody_is_waited_for_and_that_is_said(
    pair: Replicated, prefix: str, rights: str
) -> None:
    ask(pair.master, f"ACL SETUSER w on >pw ~* &* +@all {rights}")
    url = f"redis://w:pw@127.0.0.1:{pair.port}"
    with structlog.testing.capture_logs() as logs:
        async with await Queue.connect(url, prefix=prefix) as queue:
            for _ in range(2):
                await queue.enqueue([Job(A, {})], Lane.EVENTS)
            assert queue.replicas.awaited == 0
            assert queue.replicas.problem.startswith("WAIT is refused")
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == ["replicas not awaited"]
    async with await Queue.connect(url, prefix=prefix, replicas=1) as strict:
        with pytest.raises(QueueUnavailable, match="set REPLICATOR_REDIS_REPLICAS to 0"):
            await strict.enqueue([Job(A, {})], Lane.EVENTS)

"""The commands that inspect a queue, on a queue in states that are hard to bring about from outside."""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from replicator.commands.failures import print_failures, retry_failures
from replicator.commands.status import show_status
from replicator.errors import ErrorClass
from replicator.queue import DeadLetter, DeadLetters, Job, Lane, Queue, RetryPolicy
from replicator.queue.job import encode_job
from replicator.queue.records import EPOCH, encode
from replicator.settings import Settings, load_settings
from replicator.tasks import cancel_all
from tests.queue.conftest import Recorder, eventually, idle, working
from tests.queue.test_retrying import Fault

if TYPE_CHECKING:
    from tests.queue.servers import RedisServer

LOST, KEPT = "r.example/a/lost:1", "r.example/a/kept:1"


def console(*, terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), width=120, force_terminal=terminal, color_system=None)


def text(of: Console) -> str:
    assert isinstance(of.file, io.StringIO)
    return of.file.getvalue()


def settings_of(server: RedisServer, queue: Queue) -> Settings:
    return load_settings(redis_url=server.url, redis_prefix=queue.prefix)


@pytest.mark.parametrize("references", [None, [LOST, KEPT, "r.example/a/absent:1", LOST]], ids=["all", "by name"])
async def test_a_failure_whose_content_is_lost_is_told_apart_from_one_that_is_not_there(
    server: RedisServer, queue: Queue, handler: Recorder, references: list[str] | None
) -> None:
    handler.errors = [Fault(ErrorClass.PERMANENT)]
    await queue.enqueue([Job(KEPT, {"source": "h.example/a:1"})], Lane.EVENTS)
    async with working(queue, handler):
        await handler.started(1)
        await idle(queue)
    await queue.enqueue([Job(LOST, {})], Lane.EVENTS)
    await queue.redis.delete(f"arq:job:{queue.prefix}:{LOST}")
    async with working(queue, handler):
        await idle(queue)
    out, err = console(), console()
    code = await retry_failures(settings_of(server, queue), references, out=out, err=err)
    assert code == 1
    assert text(out) == f"queued again: {KEPT}\n"
    assert text(err).splitlines()[0] == f"can't be retried, because its content is lost: push the tag again: {LOST}"
    assert text(err).count(LOST) == 1
    assert ("no dead letter with this destination: r.example/a/absent:1" in text(err)) == (references is not None)
    assert "no worker runs:" in text(err)
    assert [letter.id for letter in await DeadLetters(queue).all()] == [LOST]


@pytest.mark.scale
async def test_ten_thousand_failures_are_listed_and_queued_again(server: RedisServer, queue: Queue) -> None:
    number = 10_000
    # Put there as `finish` leaves them: to run them all takes half a minute.
    jobs = [Job(f"r.example/a:{n}", {"n": n}) for n in range(number)]
    letters = {
        job.id: encode(DeadLetter(job.id, Lane.BACKFILL, job.payload, ErrorClass.PERMANENT, "no", 1, EPOCH, EPOCH))
        for job in jobs
    }
    pipe = queue.redis.pipeline()
    pipe.hset(f"{queue.prefix}:dead", mapping=letters)
    pipe.hset(f"{queue.prefix}:dead-jobs", mapping={job.id: encode_job(job) for job in jobs})
    pipe.zadd(f"{queue.prefix}:buried", {job.id: n for n, job in enumerate(jobs)})
    await pipe.execute()
    settings, out = settings_of(server, queue), console()
    assert await print_failures(settings, as_json=True, out=out) == 0
    assert text(out).count('"destination"') == number
    assert await retry_failures(settings, None, out=console(), err=console()) == 0
    counts = await queue.counts()
    assert (counts.dead, counts.lanes[Lane.BACKFILL].queued) == (0, number)


async def test_a_watched_terminal_is_redrawn_and_outlives_an_outage(
    server: RedisServer, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = console(terminal=True)
    watching = asyncio.create_task(
        show_status(settings_of(server, queue), as_json=False, every=0.05, out=out, err=console())
    )

    async def shown(words: str, times: int = 1) -> None:
        async with asyncio.timeout(20):
            while text(out).count(words) < times:
                assert not watching.done()
                await asyncio.sleep(0.02)

    await shown("no worker runs", times=2)
    server.kill()
    try:
        await shown("can't accept or hand out work")
        seen = text(out).count("no worker runs")
    finally:
        server.start()
    await shown("no worker runs", times=seen + 2)
    await cancel_all({watching})
    assert "\x1b[?1049l" in text(out), "what was on the terminal before is there again"


async def test_jobs_are_pending_with_a_digest_of_their_payload_until_they_are_done_or_dead(queue: Queue) -> None:
    handler = Recorder()
    handler.errors = [Fault(ErrorClass.PERMANENT)]
    jobs = [Job(f"r.example/a:{number}", {"announced": f"sha256:{number:064}"}) for number in range(1001)]
    asked = {job.id: str(job.payload["announced"]) for job in jobs}
    assert await queue.pending({}) == await queue.pending(asked) == set()
    await queue.enqueue(jobs, Lane.BACKFILL)
    assert await queue.pending(asked) == set(asked)
    assert await queue.pending({jobs[0].id: asked[jobs[1].id]}) == set(), "it waits with another image"
    await queue.enqueue(jobs[:1], Lane.EVENTS)
    handler.gate.clear()
    async with working(queue, handler, concurrency={Lane.EVENTS: 1}):
        await handler.started(1)
        assert await queue.pending(asked) == set(asked), "a running one counts"
        handler.gate.set()

        async def buried() -> bool:
            return (await queue.counts()).dead == 1

        await eventually(buried)
    assert await queue.pending(asked) == set(asked) - {jobs[0].id}
    # Some must have more in their payload, except while they wait for a retry.
    retried = jobs[1].id
    signed = {retried: {"digests": ["sha256:1"]}}
    assert await queue.pending(asked, signed) == set(asked) - {jobs[0].id, retried}
    await queue.enqueue([Job(retried, {**jobs[1].payload, "accessories": signed[retried]})], Lane.BACKFILL)
    assert await queue.pending(asked, signed) == set(asked) - {jobs[0].id}
    await queue.enqueue(jobs[1:2], Lane.EVENTS)
    handler.errors = [Fault(ErrorClass.TRANSIENT)]
    async with working(queue, handler, concurrency={Lane.EVENTS: 1}, policy=RetryPolicy(first=3600, cap=3600)):
        await eventually(queue.waiting)
    assert await queue.pending({retried: asked[retried]}, signed) == {retried}

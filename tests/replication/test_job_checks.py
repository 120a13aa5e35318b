"""Observations that a job records of its destination: none that may be wrong, and none that outlives a write."""

from __future__ import annotations

import asyncio
import tempfile
import time
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from replicator.copy import Copier, selection_key
from replicator.copy.options import VERBATIM, Attestations, CopyOptions
from replicator.queue import Lane, LeaseLost, Observations, Queue
from replicator.reference import Reference
from replicator.registry import Registries, Timing
from replicator.replication.enqueue import job_for
from replicator.replication.job import Handler
from replicator.replication.transfer import CopyFailed, access_by
from replicator.rules import CopyRequest
from replicator.rules.request import may_trust
from tests.queue.conftest import eventually, idle, working
from tests.queue.servers import RedisServer
from tests.queue.test_checks import Asked, Writer, void
from tests.replication.test_job import Job, request, rules_of, run
from tests.standins.faults import Answer, Fault, Hold
from tests.standins.images import Image, Index, attestation, image, index, push
from tests.standins.logins import HARBOR_ROBOT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp import web

    from replicator.rules import Rules
    from tests.standins.acr import AcrStandIn
    from tests.standins.harbor import HarborStandIn

OLD, NEW = image(1), image(2)
SIGNED = CopyOptions(signatures=True)
STRIP = CopyOptions(attestations=Attestations.STRIP)


@dataclass(kw_only=True)
class Leased(Job):
    """A job whose lease is in Redis.

    Attributes:
        writer: the holder.
        confirming: set when the lease is being confirmed.
    """

    writer: Writer
    confirming: asyncio.Event = field(default_factory=asyncio.Event)

    async def confirm(self) -> None:
        self.confirming.set()
        await self.writer.confirm()
        self.observed = self.writer.lease.observed


@dataclass
class Shop:
    """A Harbor, an ACR, a Redis, and a handler of jobs between them."""

    harbor: HarborStandIn
    acr: AcrStandIn
    rules: Rules
    server: RedisServer
    queue: Queue
    registries: Registries

    async def push(self, root: Image | Index, tag: str = "v1") -> None:
        await push(self.harbor.host, "team/app", tag, root, HARBOR_ROBOT)

    def wanted(self, **changes: object) -> CopyRequest:
        return replace(request(self.rules, self.harbor, "v1"), **changes)  # type: ignore[arg-type]  # as they are named

    async def work(self, asked: CopyRequest) -> Leased:
        """A job that this process holds, as the queue hands it over."""
        return Leased(payload=asked.to_json(), writer=await Writer(self.queue, str(asked.destination)).take())

    @asynccontextmanager
    async def handling(self) -> AsyncIterator[Handler]:
        """A process that saves its observations at its end."""
        async with aclosing(Observations(self.queue)) as checks:
            yield Handler(Copier(self.registries), checks)

    async def do(self, asked: CopyRequest) -> str:
        async with self.handling() as handler:
            return str((await run(handler, await self.work(asked)))["result"])

    async def saw(self, root: Image | Index, options: CopyOptions = VERBATIM) -> None:
        async with aclosing(Observations(self.queue)) as checks:
            checks.record(str(self.wanted().destination), selection_key(root.digest, options), time.time())

    async def trusts(self, root: Image | Index, options: CopyOptions = VERBATIM) -> bool:
        async with aclosing(Observations(self.queue)) as checks:
            expected = [(str(self.wanted().destination), selection_key(root.digest, options))]
            return (await checks.confirmed(expected, 3600)) == [True]


@pytest.fixture
async def shop(harbor: HarborStandIn, acr: AcrStandIn) -> AsyncIterator[Shop]:
    async with AsyncExitStack() as stack:
        # The path of a Unix socket must be short.
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="rq-", dir="/tmp"))
        server = stack.enter_context(RedisServer(Path(directory)))
        queue = await stack.enter_async_context(await Queue.connect(server.url))
        rules = rules_of(harbor, acr)
        registries = await stack.enter_async_context(Registries(access_by(rules.credentials)))
        yield Shop(harbor, acr, rules, server, queue, registries)


async def struck(fault: Fault) -> None:
    async with asyncio.timeout(30):
        while not fault.hits:
            await asyncio.sleep(0.01)


async def test_a_copied_digest_is_trusted_and_the_one_before_it_is_not(shop: Shop) -> None:
    for root, other in ((OLD, NEW), (NEW, OLD), (OLD, NEW)):
        await shop.push(root)
        assert await shop.do(shop.wanted()) == "copied"
        assert await shop.trusts(root)
        assert not await shop.trusts(other)
    # Nor is it what other wishes would make of it.
    assert not await shop.trusts(OLD, STRIP)


async def test_an_up_to_date_destination_is_trusted(shop: Shop) -> None:
    await shop.push(OLD)
    await shop.do(shop.wanted())
    await shop.queue.redis.flushall()
    assert await shop.do(shop.wanted()) == "up to date"
    assert await shop.trusts(OLD)
    await shop.queue.redis.flushall()
    # Also where only what was announced was compared.
    assert await shop.do(shop.wanted(announced=OLD.digest)) == "up to date"
    assert await shop.trusts(OLD)


async def test_the_trusted_digest_is_the_sources_not_that_of_the_stripped_image(shop: Shop) -> None:
    whole = index([OLD, attestation(OLD, 3)])
    await shop.push(whole)
    asked = shop.wanted(options=STRIP)
    assert await shop.do(asked) == "copied"
    assert await shop.trusts(whole, asked.options)
    assert not await shop.trusts(whole)


async def test_a_stale_announced_digest_is_not_trusted(shop: Shop) -> None:
    await shop.push(NEW)
    assert await shop.do(shop.wanted(announced=OLD.digest)) == "copied"
    assert await shop.trusts(NEW)
    assert not await shop.trusts(OLD)


async def test_a_late_event_of_an_older_push_is_not_taken_for_a_harbor_that_lags(shop: Shop) -> None:
    await shop.push(NEW)
    assert await shop.do(shop.wanted(announced=NEW.digest)) == "copied"
    # Delivered again half a minute late, after the event of the next push.
    async with shop.handling() as handler:
        late = await shop.work(shop.wanted(announced=OLD.digest))
        late.pushed = datetime.now(UTC) - timedelta(seconds=30)
        assert (await run(handler, late))["result"] == "up to date"
        late.pushed = datetime.now(UTC) + timedelta(seconds=30)
        with pytest.raises(CopyFailed, match="may lag"):
            await run(handler, late)


async def test_a_job_that_dies_while_it_writes_the_tag_leaves_nothing_to_trust(shop: Shop) -> None:
    await shop.push(OLD)
    await shop.do(shop.wanted())
    assert await shop.trusts(OLD)
    await shop.push(NEW)
    hold = Hold()
    writing = shop.acr.faults.add(Fault(hold, "PUT", "/manifests/v1"))
    async with shop.handling() as handler:
        job = asyncio.create_task(run(handler, await shop.work(shop.wanted())))
        await struck(writing)
        assert not await shop.trusts(OLD), "it has to be void before the tag is written"
        job.cancel()
        await asyncio.wait({job})
        hold.released.set()
    assert not await shop.trusts(OLD)
    assert not await shop.trusts(NEW)


async def test_a_copy_that_fails_leaves_nothing_to_trust(shop: Shop) -> None:
    await shop.push(OLD)
    await shop.do(shop.wanted())
    await shop.push(NEW)
    shop.acr.faults.add(Fault(Answer(403, "DENIED", "quota"), "PUT", "/manifests/v1", times=None))
    with pytest.raises(CopyFailed):
        await shop.do(shop.wanted())
    assert not await shop.trusts(OLD)
    assert not await shop.trusts(NEW)


async def test_an_answer_that_another_writer_overtakes_is_not_trusted(shop: Shop) -> None:
    """The answer may be from before or after the other write."""
    await shop.push(OLD)
    await shop.do(shop.wanted())
    hold = Hold()
    asking = shop.acr.faults.add(Fault(hold, "HEAD", "/manifests/v1"))
    async with shop.handling() as handler:
        job = asyncio.create_task(run(handler, Job(shop.wanted().to_json())))
        await struck(asking)
        await void(shop.queue, str(shop.wanted().destination))
        hold.released.set()
        assert (await job)["result"] == "up to date"
    assert not await shop.trusts(OLD)


async def test_with_signatures_the_image_is_observed_too_and_earlier_observations_are_void(shop: Shop) -> None:
    await shop.push(OLD)
    assert await shop.do(shop.wanted()) == "copied"
    await shop.push(NEW)
    for result in ("copied", "up to date"):
        assert await shop.do(shop.wanted(options=SIGNED)) == result
        assert not await shop.trusts(OLD)
        assert await shop.trusts(NEW)
        assert await shop.trusts(NEW, SIGNED)


async def test_a_missing_source_records_nothing_about_its_destination(shop: Shop) -> None:
    async with shop.handling() as handler:
        outcome = await run(handler, Job(shop.wanted().to_json(), tries=3, seconds=120))
    assert outcome["result"] == "source gone"
    assert await shop.queue.redis.keys("replicator:checks:*") == []


async def test_a_copy_whose_lease_was_confirmed_is_made_without_redis(shop: Shop) -> None:
    await shop.push(NEW)
    await shop.saw(OLD)
    shop.server.kill()
    async with asyncio.timeout(30), shop.handling() as handler:
        assert (await run(handler, Job(shop.wanted().to_json())))["result"] == "copied"


async def test_a_copy_that_waited_for_redis_before_its_tag_ends_well_and_leaves_no_stale_observation(
    shop: Shop,
) -> None:
    await shop.push(OLD)
    assert await shop.do(shop.wanted()) == "copied"
    await shop.push(NEW)
    work = await shop.work(shop.wanted())
    writing = shop.acr.faults.add(Fault(hold := Hold(), "PUT", "/manifests/v1"))
    async with asyncio.timeout(30), shop.handling() as handler:
        shop.server.kill()
        job = asyncio.create_task(run(handler, work))
        await work.confirming.wait()
        assert writing.hits == 0
        shop.server.start()
        await struck(writing)
        assert not await shop.trusts(OLD)
        hold.released.set()
        assert (await job)["result"] == "copied"
    assert await shop.trusts(NEW)


async def test_a_copy_takes_one_step_on_redis_besides_those_of_its_job_and_that_precedes_the_tag(shop: Shop) -> None:
    await shop.push(NEW)
    work = await shop.work(shop.wanted())
    asked = Asked(shop.queue)
    async with shop.handling() as handler:
        await run(handler, work)
        assert [name for name, _ in asked.scripts] == ["confirm"]


async def test_a_lost_lease_ends_the_copy_before_the_tag_and_voids_nothing(shop: Shop) -> None:
    await shop.push(NEW)
    await shop.saw(OLD)
    work = await shop.work(shop.wanted())
    await shop.queue.redis.set(work.writer.key, "another")
    async with shop.handling() as handler:
        with pytest.raises(LeaseLost, match="another"):
            await run(handler, work)
    assert shop.acr.faults.log.count("PUT", "/manifests/v1") == 0
    assert await shop.trusts(OLD)


class LateWrites:
    """A destination that carries its first write of a tag out when it is ``released``, whether its client waits or not.

    Attributes:
        held: there is such a write.
    """

    def __init__(self, acr: AcrStandIn) -> None:
        self.held, self.released = asyncio.Event(), asyncio.Event()
        self._handler = acr.faults._handler
        acr.faults._handler = self

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method != "PUT" or not request.path.endswith("/manifests/v1") or self.held.is_set():
            return await self._handler(request)
        await request.read()
        self.held.set()
        return await asyncio.shield(self._land(request))

    async def _land(self, request: web.BaseRequest) -> web.StreamResponse:
        await self.released.wait()
        return await self._handler(request)


async def test_an_old_image_that_lands_late_over_a_newer_one_is_not_trusted_and_is_replaced(shop: Shop) -> None:
    late = LateWrites(shop.acr)
    job = job_for(shop.wanted())

    async def is_there(root: Image) -> bool:
        found = await shop.registries.source(Reference.parse(job.id).repository).head_manifest("v1")
        return found is not None and found.digest == root.digest

    async def waits() -> bool:
        return [each.id for each in await shop.queue.waiting() if each.tries == 0] == [job.id]

    await shop.push(OLD)
    await shop.queue.enqueue([job], Lane.EVENTS)
    async with (
        Registries(access_by(shop.rules.credentials), timing=Timing(tag=1, attempts=1)) as registries,
        aclosing(Observations(shop.queue, pause=0)) as checks,
        working(shop.queue, Handler(Copier(registries), checks), lease=1.5, timeout=None),
    ):
        await asyncio.wait_for(late.held.wait(), 30)
        await shop.push(NEW)
        await shop.queue.enqueue([job], Lane.EVENTS)
        await eventually(waits, 30)
        assert await is_there(NEW)
        late.released.set()
        await eventually(lambda: is_there(OLD), 30)
        assert not await shop.trusts(NEW)
        # Two minutes pass.
        await shop.queue.redis.hset(f"{shop.queue.prefix}:unanswered", job.id, "1 2 x")  # type: ignore[misc]  # redis-py's union
        await shop.queue.redis.zadd(shop.queue.lane_queue(Lane.EVENTS), {f"{shop.queue.prefix}:{job.id}": 2})
        await eventually(lambda: is_there(NEW), 30)
        await idle(shop.queue, 30)


def test_only_a_tag_may_be_trusted() -> None:
    source, destination = map(Reference.parse, ("h.example/team/app:v1", "r.example/cache/app:v1"))
    digest = "@sha256:" + "1" * 64
    asked = CopyRequest(source, destination, "rule")
    assert may_trust(asked)
    assert not may_trust(replace(asked, source=Reference.parse(f"h.example/team/app{digest}")))
    assert not may_trust(replace(asked, destination=Reference.parse(f"r.example/cache/app{digest}")))


async def test_a_tag_that_another_copy_wrote_since_it_was_seen_to_be_absent_is_not_written_again(shop: Shop) -> None:
    """A run that was killed left that copy behind, and it ended between the comparison and the request."""
    await shop.push(NEW)
    seen = shop.wanted(announced=NEW.digest, absent=True)
    assert [await shop.do(seen), await shop.do(seen)] == ["copied", "up to date"]
    assert shop.acr.faults.log.count("PUT", "/manifests/v1") == 1

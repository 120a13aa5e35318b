"""The outbox: the step that ends a job puts it there, for each receiver that wants it, and no arrival is left out."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pytest

from replicator.queue import Ended, Findings, History, Job, Lane, Queue, ReconcileResult, Reconciles
from replicator.queue.attempt import Ending, StartedJob
from replicator.queue.history import Description, encode_entry
from replicator.queue.observations import short_name
from replicator.queue.outbox import KEPT_SECONDS, MOST_WAITING, EventType, Outbox, OutboxEntry, look_into
from tests.queue.conftest import command, eventually

if TYPE_CHECKING:
    from collections.abc import Collection

A = "r.example/a:1"
ONE, TWO = "1" * 16, "2" * 16
DIGEST = "sha256:" + "d" * 64
WANTED = frozenset(EventType) - {EventType.UP_TO_DATE}


def outbox_of(queue: Queue, *receivers: str, types: Collection[EventType] = WANTED) -> Outbox:
    return Outbox(queue, dict.fromkeys(receivers or (ONE,), types), lease=30)


class Work:
    """A job's life by the scripts alone, an attempt at a time."""

    def __init__(self, queue: Queue, job_id: str = A, lane: Lane = Lane.EVENTS) -> None:
        self.queue = queue
        self.id = job_id
        self.lane = lane
        self.attempts = 0
        self.started: StartedJob | None = None

    async def enqueue(self) -> None:
        await self.queue.enqueue([Job(self.id, {})], self.lane)

    async def begin(self) -> None:
        """Start the job: soon after an attempt that died while it wrote."""

        async def claimed() -> Any:
            _, *replies = await self.queue.run_script("claim", self.lane, 1, f"t{self.attempts}", "w", 30_000, 1, 0)
            return replies

        self.attempts += 1
        (reply,) = await eventually(claimed)
        self.started = StartedJob.read(reply)

    async def write(self) -> None:
        """Pass the fence of a write of the tag."""
        assert self.started is not None
        token = self.started.record.token
        _, *lost = await self.queue.run_script("confirm", 30_000, self.id, token, "", short_name(self.id), 99, 1, 1, "")
        assert lost == []

    async def end(self, result: str, how: Any = "done", *, kept: bool = True, digest: str = DIGEST) -> str:
        assert self.started is not None
        description = Description(result, "h.example/a:1", "a rule", "", 42, digest=digest, kept=kept)
        entry = encode_entry(self.started, self.lane, Ending(how), 0.1, description) if how in ("done", "dead") else ""
        facts = (self.id, self.started.record.token, self.started.generation, self.lane, how, 0, 1)
        return str((await self.queue.run_script("finish", *facts, b"{}", b"{}", entry, "", "")).decode())

    async def die(self) -> None:
        """Lose the worker: its lease expires, and the job is due again."""
        await command(self.queue, "DEL", f"arq:in-progress:{self.queue.prefix}:{self.id}")
        await command(self.queue, "ZADD", self.queue.lane_queue(self.lane), 0, f"{self.queue.prefix}:{self.id}")

    async def run(self, result: str, how: Any = "done", **more: Any) -> None:
        await self.enqueue()
        await self.begin()
        await self.end(result, how, **more)


async def waiting(queue: Queue, receiver: str = ONE) -> list[OutboxEntry]:
    return list(await outbox_of(queue).read(receiver, "", 100, wait=False))


async def test_ends_are_put_there_in_order_for_each_receiver_that_wants_them(queue: Queue) -> None:
    await Work(queue).run("copied")
    assert await waiting(queue) == [], "nobody wanted it yet"
    await outbox_of(queue, ONE).lead()
    await outbox_of(queue, TWO, types=list(EventType)).lead()
    for result in ("copied", "up to date", "skipped", "source gone"):
        await Work(queue).run(result)
    await Work(queue).run("given up", "dead", digest="")
    told = [(entry.type, entry.end.result) for entry in await waiting(queue) if isinstance(entry.end, Ended)]
    assert told == [("image.copied", "copied"), ("image.failed", "given up")]
    assert [entry.type for entry in await waiting(queue, TWO)] == ["image.copied", "image.up_to_date", "image.failed"]
    first, last = (entry.end for entry in await waiting(queue))
    assert isinstance(first, Ended)
    assert isinstance(last, Ended)
    assert (first.id, first.digest, first.bytes, last.digest) == (A, DIGEST, 42, "")
    assert first.at == (await waiting(queue))[0].at


async def test_what_the_history_does_not_keep_is_told_all_the_same(queue: Queue) -> None:
    await outbox_of(queue, types=list(EventType)).lead()
    await Work(queue).run("up to date", kept=False)
    assert (await History.read(queue)).ended == ()
    assert [entry.type for entry in await waiting(queue)] == ["image.up_to_date"]


async def test_the_end_of_a_reconcile_is_told(queue: Queue) -> None:
    await outbox_of(queue).lead()
    lease = await Reconciles(queue).begin(None)
    assert lease is not None
    await lease.end(Findings(listed=10, up_to_date=9, failed=1))
    (entry,) = await waiting(queue)
    assert entry.type == EventType.RECONCILED
    assert isinstance(entry.end, ReconcileResult)
    assert (entry.end.findings.listed, entry.end.findings.failed) == (10, 1)


@pytest.mark.parametrize("fate", ["death", "release", "cancel", "dead", "skipped"])
async def test_an_arrival_whose_writer_could_not_tell_of_it_is_told_by_the_next_attempt(
    queue: Queue, fate: str
) -> None:
    await outbox_of(queue).lead()
    work = Work(queue)
    await work.enqueue()
    await work.begin()
    await work.write()
    match fate:
        case "death":
            await work.die()
        case "skipped":
            await work.end("skipped")
        case "dead":
            await work.end("given up", "dead")
        case how:
            await work.end("", how)
    if fate != "death":
        await work.enqueue()
    await work.begin()
    # It needs no write of the tag, but one for signatures, say.
    await work.write()
    await work.end("up to date")
    assert [entry.type for entry in await waiting(queue)][-1] == EventType.COPIED
    await work.run("up to date")
    copied = [entry for entry in await waiting(queue) if entry.type == EventType.COPIED]
    assert len(copied) == 1, "it is told once"


async def test_a_copy_that_only_wrote_signatures_is_up_to_date(queue: Queue) -> None:
    await outbox_of(queue).lead()
    work = Work(queue)
    await work.enqueue()
    await work.begin()
    await work.write()
    await work.end("up to date")
    assert await waiting(queue) == []


async def test_the_oldest_is_dropped_when_too_many_wait_and_each_drop_is_logged_once(queue: Queue) -> None:
    outbox = outbox_of(queue)
    await outbox.lead()
    await Work(queue).run("copied", digest="the-oldest")
    fill = "for i = 1, ARGV[2] do redis.call('XADD', KEYS[1], '*', 'type', 'x', 'at', ARGV[1], 'entry', '{}') end"
    await command(queue, "EVAL", fill, 1, f"{queue.prefix}:outbox:{ONE}", 1_700_000_000_000, MOST_WAITING - 1)
    (state,) = await look_into(queue, [ONE])
    assert (state.waiting, state.dropped) == (MOST_WAITING, 0)
    await Work(queue).run("copied", digest="the-newest")
    (state,) = await look_into(queue, [ONE])
    assert (state.waiting, state.dropped) == (MOST_WAITING, 1)
    assert state.oldest > 3600
    assert [entry.type for entry in await outbox.read(ONE, "", 1, wait=False)] == ["x"]
    for expected in (1, 0):
        led = await outbox.lead()
        assert led is not None
        assert led[1] == {ONE: expected}


async def test_events_that_are_given_up_count_as_dropped_and_those_taken_do_not(queue: Queue) -> None:
    outbox = outbox_of(queue)
    await outbox.lead()
    for _ in range(2):
        await Work(queue).run("copied")
    one, two = await waiting(queue)
    assert await outbox.remove(ONE, [one.id])
    assert await outbox.remove(ONE, [two.id], given_up=True)
    assert not await outbox.remove(TWO, ["1-1"], given_up=True) or await waiting(queue) == []
    assert [(each.waiting, each.dropped) for each in await look_into(queue, [ONE, TWO])] == [(0, 1), (0, 0)]


async def test_a_receiver_that_nobody_names_any_more_is_forgotten(queue: Queue) -> None:
    await outbox_of(queue, ONE, TWO).lead()
    await Work(queue).run("copied")
    assert 0 < await command(queue, "PTTL", f"{queue.prefix}:outbox:{ONE}") <= KEPT_SECONDS * 1000
    await command(queue, "HSET", f"{queue.prefix}:outbox", ONE, "1 ,image.copied,")
    await Work(queue).run("copied")
    assert (await waiting(queue), len(await waiting(queue, TWO))) == ([], 2)
    assert await command(queue, "HEXISTS", f"{queue.prefix}:outbox", ONE) == 0


async def test_one_process_leads_until_it_ends(queue: Queue) -> None:
    one, other = outbox_of(queue), outbox_of(queue)
    assert await one.lead() is not None
    assert await other.lead() is None
    assert await one.lead() is not None
    assert not await other.remove(ONE, ["1-1"])
    await one.release()
    assert await other.lead() is not None
    await other.release()


async def test_a_fault_in_the_outbox_does_not_keep_a_job_from_its_end(queue: Queue) -> None:
    await outbox_of(queue).lead()
    await command(queue, "SET", f"{queue.prefix}:outbox:{ONE}", "no stream")
    await Work(queue).run("copied")
    assert [each.result for each in (await History.read(queue)).ended] == ["copied"]


def test_an_entry_of_a_newer_version_is_left_alone() -> None:
    entry = OutboxEntry.read(b"1-1", {b"type": b"image.signed", b"at": b"5", b"entry": json.dumps({"a": 1}).encode()})
    assert (entry.type, entry.end, entry.subject) == ("image.signed", None, "image.signed")


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_dies_each_image_that_stays_is_told_at_least_once(queue: Queue, seed: int) -> None:
    """Workers die, are stopped or fail before and after they wrote a tag; the sender dies after it sent."""
    chance = random.Random(seed)
    outbox, received = outbox_of(queue), list[tuple[str, str]]()
    await outbox.lead()
    held = ""

    async def attempt(fate: str, digest: str) -> str:
        """An attempt at the present image; returns what the destination holds after it."""
        await work.begin()
        up_to_date = held == digest
        if fate.startswith("before"):
            how = fate.partition(" ")[2]
            await (work.die() if how == "die" else work.end("", how))
            return held
        if not up_to_date:
            await work.write()
        if fate == "done":
            await work.end("up to date" if up_to_date else "copied", digest=digest)
        else:
            await (work.die() if fate == "die" else work.end("", fate))
        return digest

    async def send() -> None:
        for entry in await outbox.read(ONE, "", 1, wait=False):
            assert isinstance(entry.end, Ended)
            received.append((entry.type, entry.end.digest))
            if chance.random() < 0.7:
                await outbox.remove(ONE, [entry.id])

    work = Work(queue)
    fates = ["done", "die", "release", "retry", "before die", "before release", "before retry"]
    for number in range(12):
        digest = f"sha256:{number // 3:064x}"
        await work.enqueue()
        held = await attempt(chance.choice(fates), digest)
        await send()
    await work.enqueue()
    held = await attempt("done", digest)
    while (await look_into(queue, [ONE]))[0].waiting:
        await send()
    assert (EventType.COPIED, held) in received
    assert received[-1] == (EventType.COPIED, held), "the last to be told is what stays"

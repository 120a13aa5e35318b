"""Blob locks: one process at a time uploads a blob to a registry, and the others learn where it is."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from replicator.queue import Queue
from tests.queue.conftest import blob_locks, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from replicator.copy.ledger import BlobLocks
    from replicator.queue.blob_locks import RedisBlobLocks
    from tests.queue.servers import RedisServer

R, DIGEST = "r.example", "sha256:" + "1" * 64

HOLD = """
import asyncio, sys
from replicator.queue import Queue
from replicator.queue.blob_locks import RedisBlobLocks
async def main():
    async with await Queue.connect(sys.argv[1], prefix=sys.argv[2]) as queue:
        async with RedisBlobLocks(queue, lease=float(sys.argv[3])).hold(*sys.argv[4:7]):
            print("HOLDS", flush=True)
            await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.fixture
async def other(server: RedisServer, queue: Queue) -> AsyncIterator[Queue]:
    """Another process's client."""
    async with await Queue.connect(server.url, prefix=queue.prefix) as client:
        yield client


async def held(queue: Queue) -> int:
    return len(await queue.redis.keys(f"{queue.prefix}:turn:*"))


async def test_it_is_what_the_copy_engine_shares_by(queue: Queue) -> None:
    locks: BlobLocks = blob_locks(queue)
    async with locks.hold(R, "a", DIGEST) as lock:
        assert (lock.present, lock.mount_sources) == (False, ())


async def test_a_second_process_waits_and_finds_the_blob_here(queue: Queue, other: Queue) -> None:
    first, second = blob_locks(queue), blob_locks(other)
    order: list[str] = []

    async def wait() -> None:
        async with second.hold(R, "a", DIGEST) as lock:
            order.append("second begins")
            assert (lock.present, lock.mount_sources) == (True, ())

    async with first.hold(R, "a", DIGEST) as lock:
        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0.2)
        lock.mark_present()
        order.append("first ends")
    await waiting
    assert order == ["first ends", "second begins"]
    assert await held(queue) == 0


async def test_a_second_process_that_wants_it_in_another_repository_learns_where_it_is(
    queue: Queue, other: Queue
) -> None:
    first, second = blob_locks(queue), blob_locks(other)

    async def wait() -> tuple[bool, tuple[str, ...]]:
        async with second.hold(R, "b", DIGEST) as lock:
            return lock.present, lock.mount_sources

    async with first.hold(R, "a", DIGEST) as lock:
        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0.1)
        lock.mark_present()
    assert await waiting == (False, ("a",))


async def test_what_is_here_is_waited_for_by_nobody_and_held_by_nobody(queue: Queue, other: Queue) -> None:
    first, second = blob_locks(queue), blob_locks(other)
    async with first.hold(R, "a", DIGEST) as lock:
        lock.mark_present()
    async with first.hold(R, "b", DIGEST), second.hold(R, "a", DIGEST) as known, second.hold(R, "a", DIGEST) as again:
        assert known.present
        assert again.present
        assert await held(queue) == 1


async def test_a_waiting_process_learns_of_a_release_and_need_not_poll(
    queue: Queue, other: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.queue.blob_locks._FIRST_PAUSE", 60)
    monkeypatch.setattr("replicator.queue.blob_locks._LONGEST_PAUSE", 60)
    first, second = blob_locks(queue), blob_locks(other)
    begun: list[str] = []

    async def wait(repository: str) -> None:
        async with second.hold(R, repository, DIGEST) as lock:
            begun.append(repository)
            lock.mark_present()

    async with first.hold(R, "a", DIGEST) as lock:
        waiting = [asyncio.create_task(wait(repository)) for repository in ("a", "b", "c")]
        await asyncio.sleep(0.3)
        assert begun == []
        lock.mark_present()
    async with asyncio.timeout(20):
        await asyncio.gather(*waiting)
    assert sorted(begun) == ["a", "b", "c"]


async def test_the_holder_of_a_lock_hears_of_a_push_that_waits_for_it_and_of_nothing_else(
    queue: Queue, other: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicator.queue.blob_locks._HEAR_SECONDS", 0.05)
    first, second = blob_locks(queue), blob_locks(other)
    urgent, heard = False, asyncio.Event()

    async def wait() -> None:
        async with second.hold(R, "b", DIGEST, urgent=lambda: urgent, on_urgent=again.set):
            await asyncio.sleep(0.3)

    again = asyncio.Event()
    async with first.hold(R, "a", DIGEST, on_urgent=heard.set):
        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0.5)
        assert not heard.is_set()
        # A push begins to wait for the work of the other process.
        urgent = True
        async with asyncio.timeout(20):
            await heard.wait()
    await waiting
    assert not again.is_set(), "the push has the lock now, and nobody waits"
    assert await queue.redis.keys(f"{queue.prefix}:urgent:*") == []


async def test_a_released_lock_leaves_nothing_behind_in_this_process(queue: Queue, other: Queue) -> None:
    first, second = blob_locks(queue), blob_locks(other)
    before = asyncio.all_tasks()

    async def wait() -> None:
        async with second.hold(R, "b", DIGEST):
            pass

    async with first.hold(R, "a", DIGEST):
        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0.1)
    await waiting

    async def over() -> bool:
        return asyncio.all_tasks() == before

    await eventually(over, timeout=2)


async def test_a_lock_released_without_an_upload_passes_on_to_the_next(queue: Queue, other: Queue) -> None:
    first, second = blob_locks(queue), blob_locks(other)
    with pytest.raises(OSError, match="reset"):
        async with first.hold(R, "a", DIGEST):
            raise OSError("reset")
    assert await held(queue) == 0
    async with second.hold(R, "a", DIGEST) as lock:
        assert (lock.present, lock.mount_sources) == (False, ())


async def test_an_upload_of_a_copy_that_failed_later_is_known(queue: Queue, other: Queue) -> None:
    first, second = blob_locks(queue), blob_locks(other)

    async def fail() -> None:
        async with first.hold(R, "a", DIGEST) as lock:
            lock.mark_present()
            raise OSError("reset")

    with pytest.raises(OSError, match="reset"):
        await fail()
    async with second.hold(R, "a", DIGEST) as lock:
        assert lock.present


async def test_a_cancelled_copy_releases_its_lock(queue: Queue) -> None:
    locks, begun = blob_locks(queue), asyncio.Event()

    async def hold() -> None:
        async with locks.hold(R, "a", DIGEST):
            begun.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(hold())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await held(queue) == 0


@pytest.mark.parametrize("steps", range(8))
async def test_a_copy_cancelled_while_it_takes_a_lock_leaves_none_taken(queue: Queue, steps: int) -> None:
    locks = blob_locks(queue)

    async def hold() -> None:
        async with locks.hold(R, "a", DIGEST):
            await asyncio.sleep(60)

    task = asyncio.create_task(hold())
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    async def none_held() -> bool:
        return not locks._redis._tasks and await held(queue) == 0

    await eventually(none_held)


async def test_one_who_waits_can_be_cancelled(queue: Queue, other: Queue) -> None:
    first, second = blob_locks(queue), blob_locks(other)

    async def wait() -> None:
        async with second.hold(R, "a", DIGEST):
            raise AssertionError("another process has the lock")

    async with first.hold(R, "a", DIGEST):
        task = asyncio.create_task(wait())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await held(queue) == 1


async def test_a_lock_is_kept_for_longer_than_its_lease(queue: Queue, other: Queue) -> None:
    first, second = blob_locks(queue, lease=0.6), blob_locks(other, lease=0.6)
    begun = asyncio.Event()

    async def wait() -> None:
        async with second.hold(R, "a", DIGEST):
            begun.set()

    async with first.hold(R, "a", DIGEST):
        waiting = asyncio.create_task(wait())
        await asyncio.sleep(2)
        assert not begun.is_set()
    await waiting


async def test_the_lock_of_a_killed_process_is_anothers_when_its_lease_expires(
    queue: Queue, server: RedisServer
) -> None:
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLD, server.url, queue.prefix, "1", R, "a", DIGEST, stdout=subprocess.PIPE
    )
    assert owner.stdout is not None
    async with asyncio.timeout(20):
        assert await owner.stdout.readline() == b"HOLDS\n"
    owner.kill()
    await owner.wait()
    async with asyncio.timeout(10), blob_locks(queue).hold(R, "a", DIGEST) as lock:
        assert (lock.present, lock.mount_sources) == (False, ())


async def test_a_copy_that_lost_its_lock_goes_on_and_does_not_release_that_of_the_new_owner(
    queue: Queue, other: Queue
) -> None:
    first, second = blob_locks(queue, lease=0.3), blob_locks(other)
    async with AsyncExitStack() as stack:
        async with first.hold(R, "a", DIGEST) as lock:
            [key] = await queue.redis.keys(f"{queue.prefix}:turn:*")
            await queue.redis.delete(key)
            await stack.enter_async_context(second.hold(R, "b", DIGEST))
            await asyncio.sleep(0.5)
            lock.mark_present()
        assert await held(queue) == 1
        assert await queue.redis.pttl(key) > 1000, "nor did it shorten it"
    async with second.hold(R, "a", DIGEST) as known:
        assert known.present


async def test_a_lock_is_not_waited_for_for_ever(queue: Queue, other: Queue) -> None:
    first, second = blob_locks(queue), blob_locks(other, patience=0.3)
    async with second.hold(R, "c", DIGEST) as lock:
        lock.mark_present()
    async with first.hold(R, "a", DIGEST):
        async with asyncio.timeout(10), second.hold(R, "b", DIGEST) as lock:
            assert (lock.present, lock.mount_sources) == (False, ("c",))
        assert await held(queue) == 1, "what was not its own it did not end"


async def test_registries_digests_and_installations_keep_apart(queue: Queue, server: RedisServer) -> None:
    locks = blob_locks(queue)
    async with await Queue.connect(server.url, prefix=f"{queue.prefix}-2") as stranger:
        async with locks.hold(R, "a", DIGEST) as lock:
            lock.mark_present()
            async with (
                locks.hold("s.example", "b", DIGEST) as at_another_registry,
                locks.hold(R, "b", "sha256:" + "2" * 64) as another_digest,
                blob_locks(stranger).hold(R, "b", DIGEST) as of_another_installation,
            ):
                pass
        for apart in (at_another_registry, another_digest, of_another_installation):
            assert (apart.present, apart.mount_sources) == (False, ())


async def test_two_hundred_copies_on_three_clients_never_have_one_lock_twice_and_all_end(
    queue: Queue, server: RedisServer
) -> None:
    blobs, copies = 50, 200
    owners: dict[str, int] = {}
    twice: list[str] = []
    uploaded: list[str] = []

    async def copy(locks: RedisBlobLocks, repository: str, digest: str) -> None:
        async with locks.hold(R, repository, digest) as lock:
            if lock.present:
                return
            owners[digest] = owners.get(digest, 0) + 1
            if owners[digest] > 1:
                twice.append(digest)
            await asyncio.sleep(0.01)
            uploaded.append(f"{repository} {digest}")
            lock.mark_present()
            owners[digest] -= 1

    async with AsyncExitStack() as stack:
        clients = [
            blob_locks(await stack.enter_async_context(await Queue.connect(server.url, prefix=queue.prefix)))
            for _ in range(3)
        ]
        async with asyncio.timeout(60):
            await asyncio.gather(*(copy(clients[n % 3], f"r{n % 2}", f"sha256:{n % blobs:064}") for n in range(copies)))
    assert twice == []
    assert len(uploaded) == len(set(uploaded)) == blobs, "each to the one repository that wants it, once"
    assert await held(queue) == 0

"""The notes of where blobs are: trusted for a while, forgotten when contradicted, bounded in memory."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.queue import Queue
from tests.queue.conftest import blob_locks

if TYPE_CHECKING:
    from replicator.queue.blob_locks import RedisBlobLocks
    from tests.queue.servers import RedisServer

R, DIGEST = "r.example", "sha256:" + "1" * 64


async def upload(locks: RedisBlobLocks, repository: str, digest: str = DIGEST) -> None:
    async with locks.hold(R, repository, digest) as lock:
        lock.mark_present()


async def look(locks: RedisBlobLocks, repository: str, digest: str = DIGEST) -> tuple[bool, tuple[str, ...]]:
    async with locks.hold(R, repository, digest) as lock:
        return lock.present, lock.mount_sources


async def command(queue: Queue, *words: str | bytes) -> Any:
    return await queue.redis.execute_command(*words)


async def overwrite(queue: Queue, value: bytes) -> None:
    """Put something else where what is known of the one blob is kept."""
    key = f"{queue.prefix}:known:new"
    [item] = await command(queue, "HKEYS", key)
    await command(queue, "HSET", key, item, value)


async def generations(queue: Queue) -> tuple[int, int]:
    new, old = [await command(queue, "HLEN", f"{queue.prefix}:known:{name}") for name in ("new", "old")]
    return new, old


async def test_an_upload_of_long_ago_is_not_trusted_but_may_be_mounted_from(queue: Queue) -> None:
    locks = blob_locks(queue, trust=0.2)
    await upload(locks, "a")
    await asyncio.sleep(0.3)
    assert await look(locks, "a") == (False, ())
    assert await look(locks, "b") == (False, ("a",))
    await upload(locks, "a")
    assert await look(blob_locks(queue, trust=60), "a") == (True, ())


async def test_an_upload_before_the_clock_was_set_back_is_not_trusted_for_longer(queue: Queue) -> None:
    locks = blob_locks(queue)
    await upload(locks, "a")
    await overwrite(queue, b"9999999999999 a")
    assert await look(locks, "a") == (False, ())


async def test_places_are_given_the_latest_first_and_at_most_eight(queue: Queue) -> None:
    locks = blob_locks(queue)
    for n in range(10):
        await upload(locks, f"r{n}")
    assert await look(locks, "other") == (False, ("r9", "r8", "r7", "r6", "r5", "r4", "r3", "r2"))
    assert await look(locks, "r5") == (True, ("r9", "r8", "r7", "r6", "r4", "r3", "r2"))


async def test_a_place_that_a_registry_contradicts_is_forgotten_and_the_others_are_not(queue: Queue) -> None:
    locks = blob_locks(queue)
    for repository in ("a", "b", "c"):
        await upload(locks, repository)
    await locks.forget(R, "b", DIGEST)
    await locks.forget(R, "never there", DIGEST)
    await locks.forget(R, "a", "sha256:" + "2" * 64)
    assert await look(locks, "b") == (False, ("c", "a"))
    await locks.forget(R, "a", DIGEST)
    await locks.forget(R, "c", DIGEST)
    assert await generations(queue) == (0, 0)


async def test_memory_is_bounded_and_what_is_used_stays_known(queue: Queue) -> None:
    locks = blob_locks(queue, items=10)
    await upload(locks, "base")
    for n in range(200):
        await upload(locks, "a", f"sha256:{n:064}")
        assert max(await generations(queue)) <= 10
        assert (await look(locks, "b"))[1] == ("base",)
    known = [await look(blob_locks(queue), "b", f"sha256:{n:064}") for n in range(200)]
    assert [places for _, places in known[195:]] == [("a",)] * 5
    assert [places for _, places in known[:180]] == [()] * 180


async def test_what_is_known_expires_in_a_month(queue: Queue) -> None:
    locks = blob_locks(queue, items=2)
    for n in range(3):
        await upload(locks, "a", f"sha256:{n:064}")
    for generation in ("new", "old"):
        assert 29 * 86400 < await queue.redis.ttl(f"{queue.prefix}:known:{generation}") <= 30 * 86400


async def test_anything_is_a_name(queue: Queue) -> None:
    locks = blob_locks(queue)
    await upload(locks, "größe/名 1")
    assert await look(locks, "b") == (False, ("größe/名 1",))


async def test_what_somebody_else_wrote_there_fails_nothing(queue: Queue) -> None:
    locks = blob_locks(queue)
    for value in (b"", b"\xff\xfe", b"12", b"x y\n\n", b"5 \xff"):
        await upload(locks, "a")
        await overwrite(queue, value)
        assert not (await look(locks, "a"))[0]
        await locks.forget(R, "a", DIGEST)
    await upload(locks, "a")
    assert (await look(locks, "a"))[0]


async def test_a_place_where_a_blob_was_only_seen_may_be_mounted_from_and_is_never_trusted(queue: Queue) -> None:
    locks = blob_locks(queue)
    other = "sha256:" + "2" * 64
    await locks.share(R, "seen", [DIGEST, other])
    assert await look(locks, "seen") == (False, ())
    assert await look(locks, "b") == (False, ("seen",))
    assert await look(locks, "b", other) == (False, ("seen",))
    await upload(locks, "a")
    await locks.share(R, "a", [DIGEST])
    assert await look(locks, "b") == (False, ("a", "seen"))
    assert await look(locks, "a") == (True, ("seen",))
    await upload(locks, "seen")
    assert await look(locks, "seen") == (True, ("a",))
    await locks.forget(R, "seen", other)
    assert await look(locks, "b", other) == (False, ())


async def test_places_where_a_blob_was_seen_displace_none_that_it_was_uploaded_to(queue: Queue) -> None:
    locks = blob_locks(queue, items=1000)
    for n in range(7):
        await upload(locks, f"r{n}")
    for n in range(3):
        await locks.share(R, f"seen{n}", [DIGEST])
    assert await look(locks, "other") == (False, ("r6", "r5", "r4", "r3", "r2", "r1", "r0", "seen0"))
    await locks.share(R, "many", [f"sha256:{n:064}" for n in range(600)])
    assert await generations(queue) == (601, 0)


class Model:
    """Two generations of what is known, as plain dictionaries."""

    def __init__(self, items: int) -> None:
        self.items = items
        self.new: dict[str, list[str]] = {}
        self.old: dict[str, list[str]] = {}

    def keep(self, digest: str, places: list[str]) -> None:
        self.old.pop(digest, None)
        self.new[digest] = places
        if len(self.new) >= self.items:
            self.new, self.old = {}, self.new

    def look(self, repository: str, digest: str) -> tuple[bool, tuple[str, ...]]:
        if digest in self.old:
            self.keep(digest, self.old[digest])
        places = self.new.get(digest) or self.old.get(digest, [])
        return repository in places, tuple(place for place in places if place != repository)

    def upload(self, repository: str, digest: str) -> None:
        _, others = self.look(repository, digest)
        self.keep(digest, [repository, *others][:8])

    def forget(self, repository: str, digest: str) -> None:
        for generation in (self.new, self.old):
            if repository in generation.get(digest, []):
                generation[digest].remove(repository)
                if not generation[digest]:
                    del generation[digest]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["upload", "upload", "look", "forget"]),
        st.sampled_from([f"r{n}" for n in range(10)]),
        st.sampled_from([f"sha256:{n:064}" for n in range(6)]),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, items=st.integers(1, 7))
def test_what_is_known_is_what_a_pair_of_dictionaries_would_know(
    server: RedisServer, steps: list[tuple[str, str, str]], items: int
) -> None:
    async def run() -> None:
        model = Model(items)
        async with await Queue.connect(server.url, prefix=uuid4().hex) as queue:
            locks = blob_locks(queue, items=items)
            for step, repository, digest in steps:
                if step == "upload":
                    await upload(locks, repository, digest)
                    model.upload(repository, digest)
                elif step == "forget":
                    await locks.forget(R, repository, digest)
                    model.forget(repository, digest)
                else:
                    assert await look(locks, repository, digest) == model.look(repository, digest)
                assert await generations(queue) == (len(model.new), len(model.old))

    asyncio.run(run())

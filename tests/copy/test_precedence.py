"""Over a thin line that all copies share, a push arrives while the bodies of bulk wait.

Bytes on the line are counted, from the push's start to its end: at the rate of the line they are its time.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from replicator.copy import BlobLock, Copier
from replicator.copy.ledger import NoBlobLocks
from replicator.registry import Access, Registries
from replicator.registry.places import BULK
from replicator.tasks import cancel_all
from tests.copy.conftest import PATIENT, Registry, a_registry
from tests.standins.images import image
from tests.standins.line import Line, line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from replicator.reference import Repository
    from tests.standins.images import Image

MIB = 2**20
RATE = 4 * MIB
BODY = 3 * MIB
TRANSFERS = 4
IN_BUFFERS = 2 * MIB
"""More than bulk may have given to the system before a push begins: it can't be held back any more."""


class Thin:
    """Two registries, with a thin line before one of them, and bulk copies between them."""

    def __init__(self, source: Registry, destination: Registry, copiers: Sequence[Copier], line: Line) -> None:
        self.source = source
        self.destination = destination
        self.line = line
        self._copier, self._other = copiers
        self._bulk: list[asyncio.Task[None]] = []

    @property
    def passed(self) -> int:
        return self.line.sent + self.line.received

    async def push(self, tag: str, root: Image) -> None:
        """Have an image at the source."""
        await self.source.push(tag, root)

    async def copy(self, tag: str, *, bulk: bool = False) -> None:
        BULK.set(bulk)
        await self._copier.copy(self.source.reference(tag), self.destination.reference(tag))

    async def copy_elsewhere(self, tag: str) -> None:
        """Copy as another process does, which tells this one of its pushes."""

        async def tell() -> None:
            while True:
                for host, told in (await self._other.registries.pushes()).items():
                    self._copier.registries.note_pushes_elsewhere(host, *told)

        telling = asyncio.create_task(tell())
        await self._other.copy(self.source.reference(tag), self.destination.reference(tag))
        await cancel_all({telling})

    async def begin_bulk(self, *images: Image) -> None:
        """Begin to copy images as a backfill does, and wait until their bodies fill the line."""
        tags = [f"bulk{len(self._bulk) + number}" for number in range(len(images))]
        for tag, root in zip(tags, images, strict=True):
            await self.push(tag, root)
        before = self.passed
        self._bulk += [asyncio.create_task(self.copy(tag, bulk=True)) for tag in tags]
        async with asyncio.timeout(60):
            while self.passed < before + MIB:
                await asyncio.sleep(0.01)

    async def end(self) -> None:
        for task in self._bulk:
            task.cancel()
        await asyncio.gather(*self._bulk, return_exceptions=True)

    async def arrived(self, tags: Sequence[str]) -> list[str]:
        return [tag for tag in tags if await self.destination.has_tag(tag)]


class SharedLocks(NoBlobLocks):
    """Blob locks of two processes: one upload of a blob at a time, and its holder hears of a push that waits."""

    def __init__(self) -> None:
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._holders: dict[str, Callable[[], None]] = {}

    @asynccontextmanager
    async def hold(
        self,
        registry: str,
        repository: str,
        digest: str,
        *,
        urgent: Callable[[], bool] = lambda: False,
        on_urgent: Callable[[], None] = lambda: None,
    ) -> AsyncIterator[BlobLock]:
        if digest in self._holders and urgent():
            self._holders[digest]()
        async with self._locks[digest]:
            self._holders[digest] = on_urgent
            yield self
            del self._holders[digest]


@asynccontextmanager
async def thin(before: str) -> AsyncIterator[Thin]:
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(a_registry())
        destination = await stack.enter_async_context(a_registry())
        behind = source if before == "source" else destination
        front = await stack.enter_async_context(line(behind.host, rate=RATE))
        front.late = 0.0
        addresses = {behind.host: front.host}

        def access(repository: Repository) -> Access:
            return Access(endpoint=f"http://{addresses.get(repository.registry, repository.registry)}")

        # Of a line that many share, each has little on a loaded machine.
        processes = [
            await stack.enter_async_context(Registries(access, timing=PATIENT, streams=TRANSFERS)) for _ in range(2)
        ]
        locks = SharedLocks()
        copiers = [Copier(registries, blob_locks=locks) for registries in processes]
        thin = Thin(source, destination, copiers, front)
        stack.push_async_callback(thin.end)
        yield thin


@pytest.mark.parametrize("before", ["destination", "source"])
async def test_a_small_push_passes_as_many_large_bodies_as_there_are_transfers(before: str) -> None:
    async with thin(before) as slow:
        await slow.push("push", image(99, (128 * 1024,)))
        await slow.begin_bulk(*(image(number, (BODY,)) for number in range(TRANSFERS)))
        start = slow.passed
        await slow.copy("push")
        assert slow.passed - start < IN_BUFFERS
        assert await slow.arrived([f"bulk{number}" for number in range(TRANSFERS)]) == []


async def test_a_small_push_passes_one_backfilled_image_of_many_layers() -> None:
    async with thin("destination") as slow:
        await slow.push("push", image(99, (128 * 1024,)))
        await slow.begin_bulk(image(1, (BODY,) * (TRANSFERS + 2)))
        start = slow.passed
        await slow.copy("push")
        assert slow.passed - start < IN_BUFFERS
        assert await slow.arrived(["bulk0"]) == []


async def test_a_push_of_a_layer_that_waits_for_its_turn_in_a_backfill_does_not_wait() -> None:
    images = [image(number, (BODY,)) for number in range(TRANSFERS + 1)]
    async with thin("destination") as slow:
        await slow.push("push", image(99, (1000,), base=images[-1].blobs[1:]))
        await slow.begin_bulk(*images[:-1])
        # All transfers are taken.
        await slow.begin_bulk(images[-1])
        start = slow.passed
        await slow.copy("push")
        # The layer went once, as the backfill's: the push waited for it and not for the others.
        assert slow.passed - start < IN_BUFFERS + BODY * 1.5
        assert await slow.arrived([f"bulk{number}" for number in range(TRANSFERS)]) == []


async def test_a_push_of_a_layer_that_another_process_sends_for_a_backfill_does_not_wait_for_others() -> None:
    images = [image(number, (BODY,)) for number in range(TRANSFERS)]
    async with thin("destination") as slow:
        await slow.push("push", image(99, (1000,), base=images[-1].blobs[1:]))
        await slow.begin_bulk(*images)
        start = slow.passed
        await slow.copy_elsewhere("push")
        assert slow.passed - start < IN_BUFFERS + BODY * 1.5
        assert await slow.arrived([f"bulk{number}" for number in range(TRANSFERS - 1)]) == []


async def test_a_small_push_passes_a_huge_one() -> None:
    async with thin("destination") as slow:
        await slow.push("push", image(99, (128 * 1024,)))
        await slow.push("huge", image(1, (BODY,) * (TRANSFERS + 2)))
        huge = asyncio.create_task(slow.copy("huge"))
        before = slow.passed
        while slow.passed < before + MIB:
            await asyncio.sleep(0.01)
        start = slow.passed
        await slow.copy("push")
        assert slow.passed - start < IN_BUFFERS
        assert not huge.done()
        huge.cancel()
        await asyncio.gather(huge, return_exceptions=True)


async def test_a_push_of_another_process_has_most_of_the_line() -> None:
    async with thin("destination") as line:
        await line.push("push", image(99, (BODY,)))
        await line.begin_bulk(*(image(number, (BODY,)) for number in range(TRANSFERS)))
        start = line.passed
        await line.copy_elsewhere("push")
        # Of four bodies and one, each would have a fifth.
        assert line.passed - start < IN_BUFFERS + BODY * 1.5

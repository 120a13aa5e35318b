"""Two registries with a line before the destination, and the outcome of a run there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import tempfile
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from benchmarks.contest import Route
from benchmarks.pushes import tell
from tests.running import PROGRAM, Serving, environment, running
from tests.standins.distribution import distribution
from tests.standins.images import blobs_of, push
from tests.standins.line import Apart, apart

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from tests.standins.blobs import Blob
    from tests.standins.images import Image

Content = dict[str, dict[str, "Image"]]
"""Images by repository at Harbor and tag."""

_LOOK = 0.05
"""Seconds between two looks at the line, and at what has arrived."""
_AGAIN = 0.5
"""Seconds after which an event that was not taken is posted again."""
_START = 4096
"""Bytes that have passed when bodies are on their way, rather than questions."""
_ROOT = Path(__file__).resolve().parent.parent.parent
_SAID = 600
"""Characters of a program's last words that are kept."""


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms that all runs share.

    Attributes:
        rate: bytes a second of the line, in each direction.
        round_trip: seconds.
        trees: checkouts of the replicator, by the name that a table gives them.
        storage: where the registries keep their content; None for the system's temporary directory.
        size: a factor for the sizes of all bodies; less than 1 for the benchmark's own tests.
        window: bytes of a connection that are under way at once.
    """

    rate: float
    round_trip: float = 0.0
    trees: Mapping[str, Path] = field(default_factory=lambda: {"replicator": _ROOT})
    storage: Path | None = None
    size: float = 1.0
    window: int = 1024 * 1024

    def bytes(self, size: float) -> int:
        """Scale the size of a body."""
        return max(1, int(size * self.size))


@dataclass(slots=True)
class Outcome:
    """The outcome of one program.

    Attributes:
        name: its name in the table.
        arrived: tags that are at the destination, byte for byte.
        meant: tags that were to be there.
        sent: bytes to the destination.
        read: bytes from the source.
        lacking: bytes that the destination lacked.
        wall: seconds from the start of the program to its end, or until all had arrived.
        line: seconds between the first and the last byte of what went over the line.
        rate: of the line, bytes a second.
        more: figures of the row's own, by heading.
        said: the last words of a program that failed.
    """

    name: str
    arrived: int = 0
    meant: int = 0
    sent: int = 0
    read: int = 0
    lacking: int = 0
    wall: float = 0.0
    line: float = 0.0
    rate: float = 0.0
    more: dict[str, str] = field(default_factory=dict)
    said: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: its exit code, or None when its time was over; its last words; its seconds."""

    code: int | None
    said: str
    seconds: float


def target(repository: str) -> str:
    """Name the repository of the destination: every program can be told to keep the last part of a name."""
    return f"mirror/{repository.rpartition('/')[2]}"


def lacking(content: Content, held: Iterable[Blob] = ()) -> int:
    """Count the bytes of the blobs that a destination lacks which holds these."""
    there = {blob.digest for blob in held}
    wanted = {blob.digest: blob.size for tags in content.values() for root in tags.values() for blob in blobs_of(root)}
    return sum(size for digest, size in wanted.items() if digest not in there)


class Run:
    """A destination of its own behind a line, and a source that others use too; `Place.run` makes one.

    Attributes:
        source: ``127.0.0.1:PORT`` that a program reads from.
        destination: the same that it writes to; the line is before one of the two.
        registry: the destination itself.
        origin: the source itself.
        scratch: a directory for the run's own files.
        content: the images to copy.
    """

    def __init__(
        self, terms: Terms, fronts: tuple[Apart, Apart], behind: tuple[str, str], scratch: Path, content: Content
    ) -> None:
        self.source, self.destination = map(str, fronts)
        self.origin, self.registry = behind
        self.scratch = scratch
        self.content = content
        self.first = self.last = 0.0
        self._terms = terms
        self._fronts = fronts

    @property
    def route(self) -> Route:
        """What other programs are told."""
        tags = {name: list(tags) for name, tags in self.content.items()}
        return Route(self.source, self.destination, self.scratch, tags, {name: target(name) for name in tags})

    def rules(self, *more: str, images: Mapping[str, str] | None = None) -> Path:
        """Write a rules file.

        Args:
            more: further hosts that every repository goes to as well.
            images: further rules, source by destination, of registries that want no login.
        """
        targets = {
            source: [copy, *(f"{host}/{copy.partition('/')[2]}" for host in more)]
            for source, copy in self.route.repositories
        } | {source: [copy] for source, copy in (images or {}).items()}
        hosts = {name.partition("/")[0] for source, copies in targets.items() for name in (source, *copies)}
        auth = {host: {"anonymous": True, "insecure": True} for host in sorted(hosts)}
        file = self.scratch / "rules.json"
        file.write_text(json.dumps({"auth": auth, "images": targets}))
        return file

    async def sent(self) -> int:
        """Count the bytes to the destination."""
        return (await self._fronts[1].passed())[0]

    async def outcome(self, name: str, wall: float, **more: str) -> Outcome:
        """Read the tags at the destination, and the bytes that went over the line."""
        read = (await self._fronts[0].passed())[1]
        found = await asyncio.gather(*(self.holds(repo, tag) for repo, tags in self.content.items() for tag in tags))
        return Outcome(
            name, sum(found), len(found), await self.sent(), read, wall=wall, line=self.last - self.first, more=more
        )

    async def holds(self, repository: str, tag: str) -> bool:
        """Tell whether a tag is at the destination, as it is at the source."""
        url = f"http://{self.registry}/v2/{target(repository)}/manifests/{tag}"
        root = self.content[repository][tag]
        async with aiohttp.request("GET", url, headers={"Accept": root.media_type}) as answer:
            return answer.status == 200 and await answer.read() == root.content

    async def until(self, repository: str, tag: str, seconds: float) -> float | None:
        """Wait until a tag is there; return the seconds it took, or None when they were over."""
        began = time.monotonic()
        while (took := time.monotonic() - began) < seconds:
            if await self.holds(repository, tag):
                return took
            await asyncio.sleep(_LOOK)
        return None

    async def moving(self, least: int, seconds: float) -> None:
        """Wait until so many bytes have gone to the destination."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while await self.sent() < least:
                    await asyncio.sleep(_LOOK)

    async def watch(self, way: int) -> None:
        """Note when the line's first and last bytes passed; ends only when it is cancelled."""
        front = self._fronts[way]
        seen = 0
        while True:
            passed = await front.passed()
            now = sum(passed)
            if now > _START and now > seen + _START // 4:
                self.last = time.monotonic()
                self.first = self.first or self.last - (now - seen) / self._terms.rate
                seen = now
            await asyncio.sleep(_LOOK)

    async def program(self, command: Sequence[str], seconds: float, settings: Mapping[str, str] | None = None) -> Ended:
        """Run a program to its end, or for so long at the most."""
        began = time.monotonic()
        file = self.scratch / f"said-{time.monotonic_ns()}"
        with file.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.scratch,
                env=environment(**{"REPLICATOR_STATE_DIR": str(self.scratch / "state"), **(settings or {})}),
                start_new_session=True,
            )
            code = None
            try:
                async with asyncio.timeout(seconds):
                    code = await process.wait()
            except TimeoutError:
                pass
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM if code is None else signal.SIGKILL)
                await process.wait()
        took = time.monotonic() - began
        return Ended(code, file.read_text("utf-8", "replace").strip()[-_SAID:], took)

    async def replicator(
        self, tree: Path, *arguments: str, seconds: float = 600, settings: Mapping[str, str] | None = None
    ) -> Ended:
        """Run a command of a checkout's replicator."""
        return await self.program(
            [*PROGRAM, *arguments], seconds, {"PYTHONPATH": str(tree), "NO_COLOR": "1", **(settings or {})}
        )

    @asynccontextmanager
    async def serving(
        self, tree: Path, rules: Path, settings: Mapping[str, str] | None = None, command: str = "serve"
    ) -> AsyncIterator[Serving]:
        """Have a checkout's ``serve`` or ``worker`` run."""
        known = {"PYTHONPATH": str(tree), "REPLICATOR_DRAIN_TIMEOUT": "1", **(settings or {})}
        ready = "listening" if command == "serve" else "worker started"
        async with running(
            command, "--config", rules, cwd=self.scratch, ready=ready, settings=known, program=PROGRAM
        ) as serving:
            yield serving

    async def tell(self, serving: Serving, repository: str, tag: str) -> None:
        """Post an event as Harbor does after a push, until it is taken."""
        while not await tell(serving, self.source, repository, tag, self.content[repository][tag].digest):
            await asyncio.sleep(_AGAIN)


class Place:
    """A source with a row's images; `place` makes one."""

    def __init__(self, terms: Terms, directory: Path, source: str, content: Content) -> None:
        self.terms = terms
        self.content = content
        self._directory = directory
        self._source = source

    @asynccontextmanager
    async def run(
        self,
        *,
        at_source: bool = False,
        before: Content | None = None,
        front: Callable[[str], AbstractAsyncContextManager[str]] | None = None,
    ) -> AsyncIterator[Run]:
        """Have an empty destination behind a line for one run.

        Args:
            at_source: the line is before the source instead.
            before: images that the destination holds at first.
            front: makes a server of its own before the registry, behind the line.
        """
        terms = self.terms
        async with AsyncExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="run-", dir=self._directory)))
            scratch = directory / "scratch"
            scratch.mkdir()
            registry = await stack.enter_async_context(distribution(directory / "destination"))
            for repository, tags in (before or {}).items():
                for tag, root in tags.items():
                    await push(registry, target(repository), tag, root)
            behind = await stack.enter_async_context(front(registry)) if front else registry
            # The other one only counts.
            slow, fast = (self._source, behind) if at_source else (behind, self._source)
            line = await stack.enter_async_context(
                apart(slow, rate=terms.rate, round_trip=terms.round_trip, window=terms.window)
            )
            other = await stack.enter_async_context(apart(fast))
            fronts = (line, other) if at_source else (other, line)
            run = Run(terms, fronts, (self._source, registry), scratch, self.content)
            watching = asyncio.create_task(run.watch(0 if at_source else 1))
            try:
                yield run
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)


@asynccontextmanager
async def place(terms: Terms, content: Content) -> AsyncIterator[Place]:
    """Have a source with these images, and nothing left of it afterwards."""
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="line-", dir=terms.storage)))
        source = await stack.enter_async_context(distribution(directory / "source"))
        for repository, tags in content.items():
            for tag, root in tags.items():
                await push(source, repository, tag, root)
        yield Place(terms, directory, source, content)

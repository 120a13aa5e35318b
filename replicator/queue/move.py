"""The move of an embedded queue into another Redis: jobs, pauses, dead letters, history, and owners of tags.

Each batch is read from the state directory, added to the other Redis, and forgotten only then: killed at any moment,
the move loses nothing and can be run again. A batch that was added and not forgotten is merged with what is there. No
job is copied twice at once, because nothing else can use the state directory meanwhile.

Caches stay behind, as do the states of silent registries: they are learned again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from replicator.errors import ReplicatorError
from replicator.queue.attempt import CONTENT_GONE
from replicator.queue.client import BATCH, Queue
from replicator.queue.embedded import embedded_server
from replicator.queue.job import QueueError
from replicator.queue.state_directory import SOCKET, Use, forget_data, manifest_of, short_path, use_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_ENTRIES = 100
"""Entries of the history in one step; one takes up to 6 KB."""


@dataclass(frozen=True, slots=True)
class Left:
    """The work that lies in a state directory.

    Attributes:
        jobs: pending ones.
        letters: dead letters.
    """

    jobs: int = 0
    letters: int = 0

    def __add__(self, other: Left) -> Left:
        return Left(self.jobs + other.jobs, self.letters + other.letters)

    def __bool__(self) -> bool:
        return bool(self.jobs or self.letters)

    def __str__(self) -> str:
        """Name what there is, e.g. ``1 job and 3 dead letters``."""
        numbers = ((self.jobs, "job"), (self.letters, "dead letter"))
        parts = [f"{number} {noun}{'' if number == 1 else 's'}" for number, noun in numbers if number]
        return " and ".join(parts) or "no jobs"


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """The work of an installation that lies in a state directory while its queue is in Redis.

    Attributes:
        directory: the state directory.
        work: the work that is left there; None if it can't be counted.
        problem: why it can't be counted.
    """

    directory: Path
    work: Left | None
    problem: str = ""

    @property
    def sentence(self) -> str:
        """Say how much is left there, and what to do."""
        if self.work is None:
            return f"{self.directory} contains the data of an embedded queue, which can't be counted: {self.problem}"
        is_one = self.work in (Left(1, 0), Left(0, 1))
        lies, them = ("lies", "it") if is_one else ("lie", "them")
        return f"{self.work} {lies} in {self.directory}, outside this queue: move {them} with replicator queue move"

    def to_json(self) -> dict[str, Any]:
        """Return ``directory``, ``jobs`` and ``dead_letters`` (null if they can't be counted), and ``problem``."""
        work = self.work
        return {
            "directory": str(self.directory),
            "jobs": None if work is None else work.jobs,
            "dead_letters": None if work is None else work.letters,
            "problem": self.problem,
        }


async def left_behind(state_dir: Path, prefix: str, program: Path | None = None) -> LeftBehind | None:
    """Look for work in the state directory of an installation whose queue is in Redis; None without any.

    Args:
        state_dir: the directory; it need not exist.
        prefix: of the installation.
        program: the server; None for the one that `replicator.queue.embedded.server_program` finds.
    """
    try:
        work = await left_in(state_dir, prefix, program)
    except ReplicatorError as error:
        return LeftBehind(state_dir, None, str(error))
    return LeftBehind(state_dir, work) if work else None


async def left_in(state_dir: Path, prefix: str, program: Path | None = None) -> Left:
    """Count the work that lies in a state directory, whose server is started for a moment if there are data.

    Args:
        state_dir: the directory; it need not exist.
        prefix: of the installation.
        program: the server; None for the one that `replicator.queue.embedded.server_program` finds.

    Raises:
        QueueError: it can't be counted.
        ConfigError: there is no server program, or the directory can't be used.
    """
    try:
        if manifest_of(state_dir) is None:
            return Left()
        use = await use_of(state_dir)
    except OSError as error:
        raise QueueError(f"{state_dir} can't be read", error.strerror or str(error)) from error
    if use is Use.SERVER:
        with short_path(state_dir) as reachable:
            return await _count(f"unix://{reachable / SOCKET}", prefix)
    async with embedded_server(state_dir, program, alone=True) as url:
        return await _count(url, prefix)


async def move_state(
    state_dir: Path, target: Queue, program: Path | None = None, *, progress: Callable[[Left], None] = lambda _: None
) -> Left:
    """Move the work of an installation from a state directory into another queue, and delete the data if that was all.

    Args:
        state_dir: the directory.
        target: of the same prefix, but for its braces; it may be in use.
        program: the server of the directory.
        progress: called after each batch with the number of items moved so far.

    Raises:
        QueueError: another process uses the directory, or one of the two queues does not answer. What was moved is in
            the target; the rest is moved by the next call.
        ConfigError: there is no server program, or the directory can't be used.
    """
    if manifest_of(state_dir) is None:
        return Left()
    async with embedded_server(state_dir, program, alone=True) as url:
        prefixes = await _prefixes(url)
        chosen = _chosen(prefixes, target.prefix)
        moved = Left()
        if chosen is not None:
            async with await Queue.connect(url, prefix=chosen, replicas=0) as source:
                moved = await move_queue(source, target, progress)
    if prefixes == [chosen] or not prefixes:
        forget_data(state_dir)
    return moved


async def move_queue(
    source: Queue, target: Queue, progress: Callable[[Left], None] = lambda _: None, *, batch: int = BATCH
) -> Left:
    """Move everything from one queue to another, and return what was moved.

    Args:
        source: nothing else may use it.
        target: may be in use.
        progress: called after each batch with the number of items moved so far.
        batch: number of jobs in one step.

    Raises:
        QueueUnavailable: one of the two does not answer; what was moved is in the target.
    """
    moved = Left()
    # Pauses first: what they hold must not start meanwhile.
    if pauses := await _hash(source, "pauses"):
        await target.ask("move_pauses_in", *pauses)
    for name in ("owned:old", "owned:new"):
        for part in _parts(await _hash(source, name), 2 * batch):
            await target.ask("move_owned_in", *part)
    for name in ("gen", "rivals"):
        async for ids in source.scan_hash(name):
            await source.ask("sweep", CONTENT_GONE, *ids)
    while jobs := await source.ask("move_jobs_out", batch):
        # Without content and in no list of the pending: a rest that nothing could run.
        whole = [job for job in jobs if job[3]]
        if whole:
            await target.ask("move_jobs_in", *(value for job in whole for value in job))
        await source.ask("move_jobs_away", *(job[0] for job in jobs))
        moved += Left(jobs=len(whole))
        progress(moved)
    while letters := await source.ask("move_letters_out", batch):
        await target.ask("move_letters_in", *(value for letter in letters for value in letter))
        await source.ask("move_letters_away", *(letter[0] for letter in letters))
        moved += Left(letters=len(letters))
        progress(moved)
    await _move_history(source, target)
    return moved


async def _hash(queue: Queue, name: str) -> list[bytes]:
    """Return the fields and values of a hash, one after the other."""
    found: list[bytes] = []
    async for field, value in queue.redis.hscan_iter(f"{queue.prefix}:{name}", count=1000):
        found += [field, value]
    return found


async def _move_history(source: Queue, target: Queue) -> None:
    *lists, lags = await source.ask("move_history_out")
    for name, entries in zip(lists[::2], lists[1::2], strict=True):
        for part in _parts(entries, _ENTRIES):
            await target.ask("move_history_in", name, *part)
    if lags:
        await target.ask("move_lags_in", *lags)


async def _count(url: str, prefix: str) -> Left:
    chosen = _chosen(await _prefixes(url), prefix)
    if chosen is None:
        return Left()
    async with await Queue.connect(url, prefix=chosen, replicas=0) as queue:
        return Left(sum([len(ids) async for ids in queue.scan_hash("gen")]), (await queue.counts()).dead)


async def _prefixes(url: str) -> list[str]:
    """Return the prefixes of the queues behind a URL: several installations may share a directory."""
    async with await Queue.connect(url, replicas=0) as queue:
        names = [name.decode() async for name in queue.redis.scan_iter(match="*:seq", count=1000)]
    return sorted(name.removesuffix(":seq") for name in names)


def _chosen(prefixes: Sequence[str], prefix: str) -> str | None:
    """Return the prefix of an installation whose Redis is a cluster, perhaps, so that its prefix is in braces now."""
    return next((each for each in prefixes if each.strip("{}") == prefix.strip("{}")), None)


def _parts(entries: Sequence[bytes], size: int) -> list[Sequence[bytes]]:
    return [entries[start : start + size] for start in range(0, len(entries), size)]

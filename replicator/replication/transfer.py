"""A copy between registries under the rules' credentials, with words for what fails: all of a copy but the queue.

A copy whose repository is created where the push is refused because it is not there.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from replicator import __version__
from replicator.copy import Copier
from replicator.copy.options import VERBATIM
from replicator.errors import ErrorClass, ReplicatorError
from replicator.registry import Registries, RegistryError, Timing
from replicator.replication.advice import explained, may_lack_repository

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from replicator.copy import BlobLocks, Outcome, SelectionStore
    from replicator.copy.options import CopyOptions
    from replicator.reference import Reference, Repository
    from replicator.registry import Access, RequestObserver
    from replicator.settings import Settings

T = TypeVar("T")

_PAUSES = (0.0, 1.0, 2.0, 4.0)
"""Seconds before each further try: a registry may take a moment to know of what was created beside it."""


async def creating(registries: Registries, destination: Repository, copy: Callable[[], Awaitable[T]]) -> T:
    """Copy; where the destination refuses that as it does what it has no repository for, create that and copy again.

    Nobody is asked to create anything before a push was refused: as long as pushes work, no more is needed.

    Args:
        registries: which know who creates repositories where.
        destination: the repository that is pushed to.
        copy: does all of the copy, as often as it is called.

    Raises:
        RegistryError: what ``copy`` raised; or the repository was missing, it seems, and could not be created.
    """
    for pause in _PAUSES:
        try:
            return await copy()
        except RegistryError as refusal:
            if not may_lack_repository(refusal, destination) or not await _create(registries, destination, refusal):
                raise
        await asyncio.sleep(pause)
    return await copy()


async def _create(registries: Registries, destination: Repository, refusal: RegistryError) -> bool:
    try:
        return await registries.create(destination)
    except RegistryError as error:
        raise error.again(f"; asked to create {destination.name}, as its push was refused: {refusal.why}") from error


class CopyFailed(ReplicatorError):
    """A copy failed; the message says what, where and what to do."""

    def __init__(self, message: str, error_class: ErrorClass, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.error_class = error_class
        self.retry_after = retry_after


def access_by(find: Callable[[Repository], Access | None]) -> Callable[[Repository], Access]:
    """Give the registries' way in: only what there are credentials for, or is named as anonymous, is contacted.

    Args:
        find: looks a repository's credentials up, e.g. `Rules.credentials`.
    """

    def access(repository: Repository) -> Access:
        found = find(repository)
        if found is None:
            raise CopyFailed(
                f"{repository}: there are no credentials for it: name {repository.registry} under auth, with "
                "anonymous: true if it needs none",
                ErrorClass.CREDENTIALS,
            )
        return found

    return access


async def transfer(
    copier: Copier,
    source: Reference,
    destination: Reference,
    *,
    options: CopyOptions = VERBATIM,
    announced: str | None = None,
    force: bool = False,
    confirm: Callable[[], Awaitable[None]] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Outcome:
    """Copy an image as `Copier.copy` does, into a repository that is created if need be, and explain what fails.

    Raises:
        SourceNotFound: the source is not there.
        AttestationsFound: it has attestations, which the options forbid.
        CopyFailed: any other failure of a registry.
    """
    whole = partial(
        copier.copy,
        source,
        destination,
        options=options,
        announced=announced,
        force=force,
        confirm=confirm,
        progress=progress,
    )
    with _explaining(destination):
        return await creating(copier.registries, destination.repository, whole)


async def copy_signature(
    copier: Copier, source: Reference, destination: Reference, *, progress: Callable[[int], None] | None = None
) -> Outcome:
    """Copy a signature as `Copier.copy_signature` does, and explain what fails.

    Raises:
        SourceNotFound: the source does not have it.
        CopyFailed: any other failure of a registry.
    """
    with _explaining(destination):
        return await copier.copy_signature(source, destination, progress=progress)


@contextmanager
def _explaining(destination: Reference) -> Iterator[None]:
    try:
        yield
    except RegistryError as error:
        raise CopyFailed(explained(error, destination), error.error_class, error.retry_after) from error


@asynccontextmanager
async def open_registries(
    settings: Settings,
    access: Callable[[Repository], Access],
    sharing: BlobLocks | None = None,
    memory: SelectionStore | None = None,
    observer: RequestObserver | None = None,
) -> AsyncIterator[tuple[Registries, Copier]]:
    """Open the way to the registries, and a copier over it.

    Args:
        settings: time limits and numbers at once.
        access: how each registry is reached, and as whom.
        sharing: what other processes know of blobs and have under way.
        memory: what other processes found to be wanted of images.
        observer: told of every request.
    """
    timing = Timing(
        connect=settings.connect_timeout,
        read=settings.read_timeout,
        write=settings.read_timeout,
        # A tag's write must be over before anyone else can hold the lease on its destination.
        tag=min(20.0, settings.lease * 2 / 3),
    )
    agent = f"replicator/{__version__}"
    async with Registries(
        access, user_agent=agent, timing=timing, in_flight=settings.in_flight, observer=observer
    ) as registries:
        yield registries, Copier(registries, transfers=settings.transfers, blob_locks=sharing, selection_store=memory)

"""A copy between registries, with repositories created on demand and with advice in its errors.

It is all of a copy but the queue: `replicator copy` and the queue's jobs share it.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from replicator import __version__
from replicator.copy import Copier
from replicator.errors import ErrorClass, ReplicatorError
from replicator.registry import Registries, RegistryError, Timing
from replicator.replication.advice import explained, may_lack_repository

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from replicator.copy import BlobLocks, Outcome, SelectionStore
    from replicator.reference import Repository
    from replicator.registry import Access, RequestObserver
    from replicator.rules.request import CopyRequest
    from replicator.settings import Settings

_PAUSES = (0.0, 1.0, 2.0, 4.0)
"""Seconds before each further attempt: a registry may take a moment to see a repository that its API created."""


class CopyFailed(ReplicatorError):
    """A copy failed; the message says what, where and what to do."""

    def __init__(self, message: str, error_class: ErrorClass, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.error_class = error_class
        self.retry_after = retry_after


async def transfer(
    copier: Copier,
    request: CopyRequest,
    *,
    confirm: Callable[[], Awaitable[None]] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Outcome:
    """Copy what a request names, into a repository that is created on demand.

    `CopyRequest.selection` is the caller's: by now the tag is known to be wanted.

    Args:
        copier: makes the copy.
        request: what is copied where, and how.
        confirm: awaited right before the tag is written; what it raises ends the copy.
        progress: called with the number of blob bytes as they are read.

    Raises:
        SourceNotFound: the source does not exist.
        AttestationsFound: it has attestations, which the options forbid.
        CopyFailed: any other failure of a registry.
    """

    async def attempt() -> Outcome:
        if request.signature:
            return await copier.copy_signature(request.source, request.destination, progress=progress)
        return await copier.copy(
            request.source,
            request.destination,
            options=request.options,
            announced=request.announced,
            force=request.force,
            confirm=confirm,
            progress=progress,
        )

    try:
        # A signature goes where its image is, so its repository exists.
        if request.signature:
            return await attempt()
        return await _creating(copier.registries, request.destination.repository, attempt)
    except RegistryError as error:
        raise CopyFailed(explained(error, request.destination), error.error_class, error.retry_after) from error


async def _creating(
    registries: Registries, destination: Repository, attempt: Callable[[], Awaitable[Outcome]]
) -> Outcome:
    """Copy; if the push is refused the way a missing repository is, create the repository and copy again.

    Nothing is created ahead of a refusal: while pushes work, no permission to create is needed.
    """
    for pause in _PAUSES:
        try:
            return await attempt()
        except RegistryError as refusal:
            if not may_lack_repository(refusal, destination) or not await _create(registries, destination, refusal):
                raise
        await asyncio.sleep(pause)
    return await attempt()


async def _create(registries: Registries, destination: Repository, refusal: RegistryError) -> bool:
    try:
        return await registries.create(destination)
    except RegistryError as error:
        raise error.again(f"; creating {destination.name}, because its push was refused: {refusal.why}") from error


def access_by(find: Callable[[Repository], Access | None]) -> Callable[[Repository], Access]:
    """Return the `Access` of registries that have credentials, or are named as anonymous; others are not contacted.

    Args:
        find: looks up the credentials of a repository, e.g. `Rules.credentials`.
    """

    def access(repository: Repository) -> Access:
        found = find(repository)
        if found is None:
            raise CopyFailed(
                f"{repository}: no credentials: add {repository.registry} under auth, with anonymous: true if it needs "
                "none",
                ErrorClass.CREDENTIALS,
            )
        return found

    return access


@asynccontextmanager
async def open_registries(
    settings: Settings,
    access: Callable[[Repository], Access],
    locks: BlobLocks | None = None,
    selections: SelectionStore | None = None,
    observer: RequestObserver | None = None,
) -> AsyncIterator[tuple[Registries, Copier]]:
    """Open connections to the registries, and a copier that uses them.

    Args:
        settings: timeouts and concurrency.
        access: how each registry is reached, and with which login.
        locks: the uploads of other processes; None for a process alone.
        selections: what other processes selected of images; None for a process alone.
        observer: called for every request.
    """
    timing = Timing(
        connect=settings.connect_timeout,
        read=settings.read_timeout,
        write=settings.read_timeout,
        # The write of a tag must end before another worker can hold the lease on its destination.
        tag=min(20.0, settings.lease * 2 / 3),
    )
    agent = f"replicator/{__version__}"
    async with Registries(
        access, user_agent=agent, timing=timing, in_flight=settings.in_flight, observer=observer
    ) as registries:
        yield registries, Copier(registries, transfers=settings.transfers, blob_locks=locks, selection_store=selections)

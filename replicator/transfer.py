"""A copy between registries under the rules' credentials, with words for what fails: all of a copy but the queue."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from replicator import __version__
from replicator.advice import explained
from replicator.copy import Copier
from replicator.creating import creating
from replicator.errors import ErrorClass, ReplicatorError
from replicator.options import VERBATIM
from replicator.registry import Registries, RegistryError, Timing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from replicator.copy import Memory, Outcome, Sharing
    from replicator.options import CopyOptions
    from replicator.reference import Reference, Repository
    from replicator.registry import Access, RequestObserver
    from replicator.settings import Settings


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


async def copy(
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
    sharing: Sharing | None = None,
    memory: Memory | None = None,
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
        yield registries, Copier(registries, transfers=settings.transfers, sharing=sharing, memory=memory)

"""A copy between registries, with repositories created on demand and with advice in its errors.

It is all of a copy but the queue: `replicator copy` and the queue's jobs share it.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from replicator import __version__
from replicator.aliyun.acr import EDITIONS
from replicator.copy import Copier
from replicator.errors import ErrorClass, ErrorText, ReplicatorError
from replicator.reference import Reference
from replicator.registry import Registries, RegistryError, RequestObserver, Timing
from replicator.registry.errors import (
    ConnectionFailed,
    NoTls,
    NotYet,
    ProxyFailed,
    ServerFailed,
    TooManyRequests,
    WrongAddress,
)
from replicator.registry.proxies import Proxies
from replicator.registry.rate import Rates
from replicator.replication.advice import explained, is_about, may_lack_repository
from replicator.retry import retrying, write_limit
from replicator.rules.request import Collision
from replicator.settings import variables

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Container

    from replicator.copy import BlobLocks, Comparison, Outcome, SelectionStore
    from replicator.copy.options import OnProgress
    from replicator.errors import Wait
    from replicator.reference import Repository
    from replicator.registry import Access
    from replicator.registry.ladder import LoginPatience
    from replicator.replication.repositories import Neighbours
    from replicator.rules import Rules
    from replicator.rules.request import CopyRequest
    from replicator.settings import Settings

OUTAGE_SECONDS = 180.0
"""For how long a copy in the foreground waits for a registry; a Harbor starts again within a minute or two."""
_NOT_LATEST = "it is not among the latest tags that its rule selects"
_MAX_ATTEMPTS = 200
_PAUSES = (0.0, 1.0, 2.0, 4.0)
"""Seconds before each further attempt: a registry may take a moment to see a repository that its API created."""


class CopyFailed(ReplicatorError):
    """A copy failed; the text says what, where and what to do. ``registry``: the one that failed; empty for none."""

    registry: str = ""

    def __init__(
        self, text: ErrorText | str, error_class: ErrorClass, retry_after: float | None = None, wait: Wait | None = None
    ) -> None:
        text = text if isinstance(text, ErrorText) else ErrorText(text)
        super().__init__(text.what, text.why, text.do)
        self.error_class = error_class
        self.retry_after = retry_after
        self.wait = wait


class Collides(CopyFailed):
    """Another source owns the destination's tag."""

    def __init__(self, request: CopyRequest, owner: Reference, reason: str = "") -> None:
        collision = Collision(request.destination, tuple(sorted((request.source, owner), key=str)))
        text = ErrorText(str(collision), f"{owner} owns this tag{reason}", "give the sources different destinations")
        super().__init__(text, ErrorClass.PERMANENT)


async def owner_of(
    registries: Registries, rules: Rules | None, request: CopyRequest, found: Comparison, owner: str
) -> str:
    """Return the source that owns the destination's tag once a copy has been made: the first that was copied there.

    Another one takes over when no rule sends the owner there any more, or the owner's tag is gone.

    Args:
        registries: the owner's is asked only if another source is about to write another image.
        rules: those in force; None if they are not known, so that the owner stays.
        request: the copy.
        found: its comparison.
        owner: the source that is remembered; empty for none.

    Raises:
        Collides: the owner is another source, which wants another image there.
        CopyFailed: it could not be asked.
    """
    source = request.origin
    if owner in ("", source) or request.destination.tag is None or found.digest == found.present:
        return owner or source
    try:
        claim: CopyRequest | None = replace(request, source=Reference.parse(owner), accessories=None, announced=None)
    except ValueError:
        return source
    if rules is not None and claim is not None:
        claim = rules.present(claim)
    if claim is None:
        return source
    try:
        head = await registries.source(claim.source.repository).head_manifest(claim.source.identifier)
        if head is None or isinstance(await select(registries, claim), str):
            return source
    except RegistryError as error:
        if error.error_class in (ErrorClass.TRANSIENT, ErrorClass.NOT_YET):
            raise CopyFailed(explained(error), error.error_class, error.retry_after, error.wait) from error
        raise Collides(request, claim.source, f", and can't be read now ({error.why})") from error
    if head.digest == found.announced and claim.options == request.options:
        return owner
    raise Collides(request, claim.source)


async def select(registries: Registries, request: CopyRequest) -> CopyRequest | str:
    """Return the copy to make for a rule with ``latest`` or labels, or why the tag is not copied.

    A copy whose labels were read is one of the digest that has them: the tag may move to an image that has not.

    Raises:
        CopyFailed: Harbor does not list the tag yet.
        RegistryError: the source can't list its tags.
    """
    source, selection = request.source, request.selection
    if selection is None or source.tag is None:
        return request
    origin = registries.source(source.repository)
    if not selection.needs_labels:
        tags = [each async for each in origin.tags()]
        # A tag that is gone is not skipped: the copy says that the source does not exist.
        if source.tag not in tags or source.tag in selection.select(tags):
            return request
        return _NOT_LATEST
    # Imported here: a copy by hand asks for no labels.
    from replicator.replication.tag_lists import read_labels

    only = None if selection.needs_all_tags else source.tag
    infos = await read_labels(registries, source.repository, only)
    info = infos.get(source.tag)
    if info is None:
        if await origin.head_manifest(source.tag) is None:
            return request
        what = f"{source} is in the registry, but Harbor does not list it yet"
        raise CopyFailed(ErrorText(what, "so its labels are not known"), ErrorClass.NOT_YET)
    labels = {tag: each.labels for tag, each in infos.items()}
    if source.tag in selection.select(infos, labels):
        return replace(request, source=replace(source, digest=info.digest), announced=info.digest)
    return selection.refusal(source.tag, info.labels) or _NOT_LATEST


async def transfer(
    copier: Copier,
    request: CopyRequest,
    *,
    own: Container[str] = (),
    permit: Callable[[Comparison], Awaitable[None]] | None = None,
    writing: Callable[[str, str | None], None] | None = None,
    confirm: Callable[[], Awaitable[None]] | None = None,
    answered: Callable[[], None] | None = None,
    progress: OnProgress | None = None,
) -> Outcome:
    """Copy what a request names, into a repository that is created on demand.

    `CopyRequest.selection` is the caller's: by now the tag is known to be wanted.

    Args:
        copier: makes the copy.
        request: source, destination and options of the copy.
        own: the digests that this installation wrote under the destination's tag.
        permit: awaited before anything is sent, see `Copier.copy`.
        writing: called before the tag is written.
        confirm: awaited right before the tag is written; what it raises ends the copy.
        answered: called when such a write is over, see `Copier.copy`.
        progress: called with blob bytes as they are read, and with every blob that will be sent.

    Raises:
        SourceNotFound: the source does not exist.
        AttestationsFound: it has attestations, which the options forbid.
        CopyFailed: any other failure of a registry.
    """

    async def attempt() -> Outcome:
        if request.signature:
            return await copier.copy_signature(
                request.source,
                request.destination,
                options=request.options,
                announced=request.announced,
                force=request.force,
                progress=progress,
            )
        return await copier.copy(
            request.source,
            request.destination,
            options=request.options,
            announced=request.announced,
            accessories=request.accessories,
            force=request.force,
            absent=request.absent,
            overwrite=request.overwrite,
            own=own,
            permit=permit,
            writing=writing,
            confirm=confirm,
            answered=answered,
            progress=progress,
        )

    try:
        # A signature goes where its image is, so its repository exists.
        if request.signature:
            return await attempt()
        return await _creating(copier.registries, request.destination.repository, attempt)
    except RegistryError as error:
        # Only the source's gate opens by itself.
        gated = isinstance(error, NotYet) and is_about(error, request.destination.repository)
        error_class = ErrorClass.PERMANENT if gated else error.error_class
        words = explained(error, request.destination)
        failed = CopyFailed(words, error_class, error.retry_after, error.wait)
        failed.login, failed.costly, failed.reason = error.login, error.costly, error.reason
        failed.registry = error.registry
        raise failed from error


async def outlast(
    copy: Callable[[], Awaitable[Outcome]],
    on_wait: Callable[[RegistryError], None],
    *,
    patience: float = OUTAGE_SECONDS,
) -> Outcome:
    """Make a copy that no queue takes back: while a registry has an outage, it is tried again for a while.

    Args:
        copy: makes one attempt, see `transfer`; a later one sends only what is not there yet.
        on_wait: called once in an outage, with its first error.
        patience: seconds for which an outage is waited out. After an attempt that took longer, it is another outage.

    Raises:
        ReplicatorError: as of `transfer`.
    """
    began, told = 0.0, False
    since: float | None = None

    async def attempt() -> Outcome:
        nonlocal began
        began = time.monotonic()
        return await copy()

    def is_retryable(error: Exception) -> bool:
        nonlocal since, told
        now = time.monotonic()
        if since is None or now - began > patience:
            since, told = now, False
        return _outage(error) is not None and now - since < patience

    def tell(error: Exception, _: int, __: float) -> None:
        nonlocal told
        cause = _outage(error)
        if cause is not None and not told:
            told = True
            on_wait(cause)

    return await retrying(
        attempt, attempts=_MAX_ATTEMPTS, retryable=is_retryable, on_retry=tell, base=1.0, cap=5.0, patient=True
    )


def _outage(error: Exception) -> RegistryError | None:
    """Return the registry's error if it is one of an outage, and most likely not of a wrong address."""
    cause = error.__cause__
    if isinstance(cause, ServerFailed | TooManyRequests):
        return cause
    wrong = isinstance(cause, WrongAddress | NoTls | ProxyFailed)
    return cause if isinstance(cause, ConnectionFailed) and not wrong else None


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
            add = f"add {repository.registry} under auth, with anonymous: true if it needs none"
            raise CopyFailed(ErrorText(str(repository), "no credentials", add), ErrorClass.CREDENTIALS)
        return found

    return access


def rates_of(settings: Settings) -> Rates:
    """Return the rates that the settings allow all processes together."""
    return Rates(settings.upload_limits, settings.request_limits)


@dataclass(frozen=True, slots=True)
class Shared:
    """State that processes share; each is None for a single process.

    Attributes:
        locks: the uploads of other processes.
        selections: selections of images by other processes.
        surveys: which repositories other processes read for blobs to mount.
        refused: the kinds that destinations refuse.
    """

    locks: BlobLocks | None = None
    selections: SelectionStore | None = None
    surveys: SelectionStore | None = None
    refused: SelectionStore | None = None


@asynccontextmanager
async def open_registries(
    settings: Settings,
    access: Callable[[Repository], Access],
    shared: Shared | None = None,
    neighbours: Neighbours | None = None,
    observer: RequestObserver | None = None,
    rates: Rates | None = None,
    patience: LoginPatience | None = None,
) -> AsyncIterator[tuple[Registries, Copier]]:
    """Open connections to the registries, and a copier that uses them.

    Args:
        settings: timeouts and concurrency.
        access: how each registry is reached, and with which login.
        shared: the knowledge of other processes; None for a single process.
        neighbours: names repositories that may have blobs to mount; None for none.
        observer: called for every request.
        rates: those of this process; None to take all that the settings allow for itself.
        patience: with refused logins; None for that of a process alone.

    Raises:
        ConfigError: the environment names a proxy that can't be used.
    """
    shared = shared or Shared()
    timing = Timing(
        connect=settings.connect_timeout,
        read=settings.read_timeout,
        write=settings.read_timeout,
        tag=write_limit(settings.lease),
    )
    agent = f"replicator/{__version__}"
    async with Registries(
        access,
        user_agent=agent,
        timing=timing,
        in_flight=settings.in_flight,
        streams=settings.transfers,
        rates=rates or rates_of(settings),
        observer=replace(observer or RequestObserver(), challenged=EDITIONS.learn),
        proxies=Proxies.from_environ(variables()),
        patience=patience,
    ) as registries:
        copier = Copier(
            registries,
            blob_locks=shared.locks,
            selection_store=shared.selections,
            neighbours=neighbours,
            survey_store=shared.surveys,
            refused_store=shared.refused,
        )
        yield registries, copier
